"""One window: one arm runs every stage of the scenario once, warm-up first, and nothing else is loaded meanwhile.

A *counted* stage times each request by itself: no ramp and no drain can enter. A *timed* stage keeps all slots busy, goes
from warm-up into scored requests without a gap, and is scored from where the data settled to the moment after which nothing
was sent any more; what was in flight then is waited for and checked, and its later tokens are not scored (no drain).
It lasts until every slot has ended a scored request, however slow the arm is: within less, a server that reads all prompts
first and then writes would be scored for the one or the other.

An *open* stage is a timed one that sends on a schedule, Poisson arrivals or the owner's own trace, whatever the server does.
Each request is timed from the moment at which it was due, so that a server that falls behind, or keeps requests waiting
at its door, pays for the wait (no coordinated omission). Its requests belong to the window in which they were due.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import JsonValue

from sartor_agents.scenarios.base import Arrival, Oracle, Scenario, ScenarioError, Stage

from .client import LoadClient, Sent
from .contention import Contention
from .foreign_traffic import TrafficWatch
from .generator import IDLE, GeneratorLoad
from .policy import MeasurementPolicy
from .samples import GenerationRequest, Purpose, Sample
from .scoring import request_rate, throughput, tokens_between
from .seeds import derive
from .slo import ServiceLevel, attainment, goodput
from .statistics import quantile
from .surroundings import Disturbance, Surroundings, strangers
from .warmup import settle, token_rate_series, usual_lump

_SERIES_BINS = 120
_OPEN_WARMUP = 0.25  # of the window, in an open loop, at least
_OPEN_LATENCIES = 2.0  # of a request: what is in flight together comes and goes by then
_OPEN_REQUESTS = 20  # that are due in a window on average: with so few, two windows differ by a third
_OPEN_LONGEST = 120.0


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one arm did in one stage. Times on the client's clock; `warm`: the data settled before scoring began."""

    stage: Stage
    samples: tuple[Sample, ...]
    scored_from: float
    scored_to: float
    warm: bool

    def scored(self, condition: str) -> list[Sample]:
        """Samples that count for `condition`, in the order in which they were sent."""
        mine = [s for s in self.samples if s.purpose == "scored" and s.condition == condition]
        return [s for s in mine if s.scheduled >= self.scored_from] if self.stage.is_open else mine

    def rates(self) -> dict[str, float]:
        """The metric of each condition of the stage, tokens/s."""
        if self.stage.kind == "counted":
            return {condition: request_rate(self.scored(condition)) for condition in self.stage.conditions}
        rate = throughput(self.samples, self.scored_from, self.scored_to)
        return dict.fromkeys(self.stage.conditions, rate)

    def goodput(self, condition: str, level: ServiceLevel) -> float:
        """Requests per second that met `level`: of a closed loop those that ended in the scored time, else all scored."""
        return goodput(self._ended(condition), self.scored_to - self.scored_from, level)

    def attainment(self, condition: str, level: ServiceLevel) -> float:
        """Share of the requests that `goodput` looks at which met `level`."""
        return attainment(self._ended(condition), level)

    def good_tokens(self, level: ServiceLevel) -> float:
        """Tokens per second of the scored time that belong to requests which met `level`."""
        seconds = self.scored_to - self.scored_from
        good = [sample for sample in self.samples if level.met_by(sample)]
        return tokens_between(good, self.scored_from, self.scored_to) / seconds if seconds > 0 else 0.0

    def _ended(self, condition: str) -> list[Sample]:
        scored = self.scored(condition)
        if self.stage.kind == "counted" or self.stage.is_open:
            return scored
        return [sample for sample in scored if self.scored_from <= sample.end < self.scored_to]


@dataclass(frozen=True, slots=True)
class WindowRun:
    """One window of one arm: its stages, what else used the machine meanwhile, and what else was wrong with it."""

    arm: str
    index: int
    stages: tuple[StageRun, ...]
    contention: Contention
    seconds: float
    disturbances: tuple[Disturbance, ...] = ()
    generator: GeneratorLoad = IDLE
    accelerators: tuple[dict[str, JsonValue], ...] = ()
    energy_j: float | None = None
    device_bytes: int | None = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(itertools.chain.from_iterable(run.samples for run in self.stages))

    @property
    def warm(self) -> bool:
        """Whether every stage that chooses settled; what is only reported is scored from the middle of its window then."""
        return all(run.warm for run in self.stages if run.stage.in_objective)

    @property
    def joules_per_token(self) -> float | None:
        """The devices' energy of the whole window, warm-up and drain included, over all tokens that came in it."""
        tokens = sum(sample.counted for sample in self.samples)
        return self.energy_j / tokens if self.energy_j is not None and tokens else None

    def rates(self) -> dict[str, float]:
        return {name: rate for run in self.stages for name, rate in run.rates().items()}


class WindowRunner:
    """Runs windows of one scenario under one policy. `stages` may be added to before the first window."""

    def __init__(
        self,
        scenario: Scenario,
        policy: MeasurementPolicy,
        oracle: Oracle,
        *,
        seed: str,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.stages: tuple[Stage, ...] = tuple(scenario.stages)
        self._scenario = scenario
        self._policy = policy
        self._oracle = oracle
        self._seed = seed
        self._surroundings = surroundings or Surroundings()
        self._ahead: dict[str, int] = {}
        self._open_warmup: dict[tuple[str, int], float] = {}
        self._latency = 0.0  # the longest median latency of a closed loop so far
        self.requests: dict[str, GenerationRequest] = {}
        """Every scored request by id."""

    async def run(self, client: LoadClient, index: int, *, warmup: int) -> WindowRun:
        """One window. `index` names its fresh prompts: both arms of a pair use the same. `warmup` requests per slot."""
        return await self.run_stages(client, self.stages, index, warmup=warmup)

    async def run_stages(self, client: LoadClient, stages: Sequence[Stage], index: int, *, warmup: int) -> WindowRun:
        """A window of `stages` alone."""
        plans = [await self._plan(stage, index) for stage in stages]
        client.load = IDLE
        client.ports.clear()
        before, begun = self._surroundings.read(), time.monotonic()
        with TrafficWatch(client.endpoint.url, client.ports, self._surroundings.pids) as watch:
            runs = await self._run_all(client, stages, plans, index, warmup)
        seen = self._surroundings.between(before, self._surroundings.read(), arm=client.endpoint.name)
        return WindowRun(
            client.endpoint.name,
            index,
            tuple(runs),
            seen.contention,
            time.monotonic() - begun,
            (*seen.disturbances, *strangers(watch.seen, self._policy)),
            client.load,
            seen.accelerators,
            seen.energy_j,
            seen.device_bytes,
        )

    async def _run_all(
        self,
        client: LoadClient,
        stages: Sequence[Stage],
        plans: Sequence[Iterator[GenerationRequest]],
        index: int,
        warmup: int,
    ) -> list[StageRun]:
        runs: list[StageRun] = []
        for stage, requests in zip(stages, plans, strict=True):
            if stage.kind == "counted":
                run = await self._counted(client, stage, requests, index, warmup)
            elif stage.is_open:
                run = await self._open(client, stage, index)
            else:
                run = await self._closed(client, stage, requests, index, warmup)
            if not stage.is_open and (latencies := [sample.latency for sample in run.samples if sample.ok]):
                self._latency = max(self._latency, quantile(latencies, 0.5))
            runs.append(run)
        return runs

    async def _plan(self, stage: Stage, index: int) -> "Iterator[GenerationRequest]":
        """The scored requests of a stage, made before the clock runs as far as that can be foreseen."""
        if stage.is_open:
            return iter(())  # an open stage makes its own schedule
        stream = self._scenario.stream(stage, "scored", index)
        if stage.kind == "counted":
            count = len(stage.conditions) * self._policy.requests_per_condition
        else:
            count = self._ahead.get(stage.name, 4 * stage.concurrency)
        ready = await self._scenario.prepare(list(itertools.islice(stream, count)), self._oracle)
        return self._remember(iter(ready) if stage.kind == "counted" else itertools.chain(ready, stream))

    def _remember(self, requests: Iterator[GenerationRequest]) -> Iterator[GenerationRequest]:
        for request in requests:
            self.requests[request.id] = request
            yield request

    async def _counted(
        self, client: LoadClient, stage: Stage, requests: Iterator[GenerationRequest], index: int, warmup: int
    ) -> StageRun:
        warm_stream = self._scenario.stream(stage, "warmup", index)
        warm_samples: list[Sample] = []
        settled, sent_per_slot = False, 0
        while not settled and sent_per_slot < max(warmup, self._policy.warmup_requests_max):
            number = warmup if sent_per_slot == 0 else 1
            batch = itertools.islice(warm_stream, number * stage.concurrency)
            shared: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "warmup") for request in batch)
            sent = await client.closed_loop([shared] * stage.concurrency)
            warm_samples += _samples(client, stage, index, sent)
            sent_per_slot += number
            if not any(sample.ok for sample in warm_samples):
                break  # a server that answers nothing will not settle; the scored requests will say so
            ordered = sorted(warm_samples, key=lambda sample: sample.sent)
            settled = settle([-gap for sample in ordered for gap in sample.inter_token()]).over
        scored: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "scored") for request in requests)
        start = client.clock()
        sent = await client.closed_loop([scored] * stage.concurrency)
        samples = (*warm_samples, *_samples(client, stage, index, sent))
        return StageRun(stage, samples, start, client.clock(), settled)

    async def _closed(
        self, client: LoadClient, stage: Stage, requests: Iterator[GenerationRequest], index: int, warmup: int
    ) -> StageRun:
        warm_stream = self._scenario.stream(stage, "warmup", index)
        warmed, warm_at = 0, 0.0
        turned, turned_at = 0, 0.0

        def slot() -> Iterator[tuple[GenerationRequest, Purpose]]:
            nonlocal warmed, warm_at, turned, turned_at
            for request in itertools.islice(warm_stream, warmup):
                yield request, "warmup"
            warmed += 1
            if warmed == stage.concurrency:
                warm_at = client.clock()
            for number, request in enumerate(requests):
                if number == 1:
                    turned += 1
                    turned_at = client.clock()
                yield request, "scored"

        def until() -> float | None:
            if turned < stage.concurrency:
                return None
            return max(warm_at + self._policy.window_seconds, turned_at)

        sent = await client.closed_loop([slot() for _ in range(stage.concurrency)], until=until)
        samples = _samples(client, stage, index, sent)
        self._ahead[stage.name] = max(
            self._ahead.get(stage.name, 0), round(1.2 * sum(one.purpose == "scored" for one in sent))
        )
        end = max(warm_at + self._policy.window_seconds, turned_at)
        arrivals = [arrival for sample in samples if sample.ok for arrival in sample.arrivals]
        series = token_rate_series(arrivals, warm_at, end, _SERIES_BINS)
        warm_up = settle(series, lump=usual_lump(series))
        start = warm_at + (end - warm_at) * warm_up.cut / _SERIES_BINS
        return StageRun(stage, samples, start, end, warm_up.over)

    async def _open(self, client: LoadClient, stage: Stage, index: int) -> StageRun:
        seconds = open_window(stage, self._policy.window_seconds)
        # The same for both arms of a pair, since it decides which requests are scored.
        warm_for = self._open_warmup.setdefault(
            (stage.name, index), max(_OPEN_WARMUP * seconds, _OPEN_LATENCIES * self._latency)
        )
        total = warm_for + seconds
        if stage.replay is not None:
            schedule = stage.replay(index, warm_for, total)
        else:
            schedule = self._poisson(stage, index, warm_for, total)
        self.requests.update({request.id: request for _, request, purpose in schedule if purpose == "scored"})
        begun = client.clock()
        sent = await client.open_loop(schedule)
        samples = _samples(client, stage, index, sent)
        start, end = begun + warm_for, begun + total
        arrivals = [arrival for sample in samples if sample.ok for arrival in sample.arrivals]
        series = token_rate_series(arrivals, start, end, _SERIES_BINS)
        warm_up = settle(series, lump=usual_lump(series))
        return StageRun(stage, samples, start + (end - start) * warm_up.cut / _SERIES_BINS, end, warm_up.over)

    def _poisson(self, stage: Stage, index: int, warm_for: float, total: float) -> list[Arrival]:
        assert stage.request_rate is not None
        warm_stream = self._scenario.stream(stage, "warmup", index)
        scored = self._scenario.stream(stage, "scored", index)
        times = poisson(derive(self._seed, "arrivals", stage.name, index), stage.request_rate)
        return [
            (due, next(warm_stream), "warmup") if due < warm_for else (due, next(scored), "scored")
            for due in itertools.takewhile(lambda due: due < total, times)
        ]


def open_window(stage: Stage, window_seconds: float) -> float:
    """Seconds of the scored part of an open stage's window: long enough for the requests that are due in it to be some.

    Raises `ScenarioError` for a rate so low that this would take minutes.
    """
    assert stage.request_rate is not None
    seconds = max(window_seconds, _OPEN_REQUESTS / stage.request_rate)
    if seconds > max(window_seconds, _OPEN_LONGEST):
        raise ScenarioError(
            f"{stage.name}: at {stage.request_rate:.3g} requests/s a window of {_OPEN_REQUESTS} requests takes "
            f"{seconds:.0f} s, longer than {_OPEN_LONGEST:.0f} s; raise the rate (of a replay: replaySpeed)"
        )
    return seconds


def poisson(rng: np.random.Generator, rate: float) -> Iterator[float]:
    """Arrival times in seconds of a Poisson process of `rate` per second."""
    due = 0.0
    while True:
        due += float(rng.exponential(1 / rate))
        yield due


def _samples(client: LoadClient, stage: Stage, index: int, sent: Sequence[Sent]) -> tuple[Sample, ...]:
    return tuple(
        replace(one.sample(client.endpoint.name, client.counter), stage=stage.name, window=index) for one in sent
    )
