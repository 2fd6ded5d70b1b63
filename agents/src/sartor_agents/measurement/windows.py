"""One window: one arm runs every stage of the scenario once, warm-up first, and nothing else is loaded meanwhile.

A *counted* stage times each request by itself: no ramp and no drain can enter. A *timed* stage keeps all slots busy, goes
from warm-up into scored requests without a gap, and is scored from where the data settled to the moment after which nothing
was sent any more; what was in flight then is waited for and checked, and its later tokens are not scored (no drain).
It lasts until every slot has ended a scored request, however slow the arm is: within less, a server that reads all prompts
first and then writes would be scored for the one or the other.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sartor_agents.scenarios.base import Oracle, Scenario, Stage

from . import contention
from .client import LoadClient, Sent
from .policy import MeasurementPolicy
from .samples import GenerationRequest, Purpose, Sample
from .scoring import request_rate, throughput
from .seeds import derive
from .warmup import settle, token_rate_series

_SERIES_BINS = 120
_OPEN_WARMUP = 0.25  # of the window, in an open loop


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
        return [s for s in self.samples if s.purpose == "scored" and s.condition == condition]

    def rates(self) -> dict[str, float]:
        """The metric of each condition of the stage, tokens/s."""
        if self.stage.kind == "counted":
            return {condition: request_rate(self.scored(condition)) for condition in self.stage.conditions}
        rate = throughput(self.samples, self.scored_from, self.scored_to)
        return dict.fromkeys(self.stage.conditions, rate)


@dataclass(frozen=True, slots=True)
class WindowRun:
    """One window of one arm: its stages, and what else used the machine meanwhile."""

    arm: str
    index: int
    stages: tuple[StageRun, ...]
    contention: contention.Contention
    seconds: float

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(itertools.chain.from_iterable(run.samples for run in self.stages))

    @property
    def warm(self) -> bool:
        return all(run.warm for run in self.stages)

    def rates(self) -> dict[str, float]:
        return {name: rate for run in self.stages for name, rate in run.rates().items()}


class WindowRunner:
    """Runs windows of one scenario under one policy. `pids` are the process trees that belong to the measurement."""

    def __init__(
        self, scenario: Scenario, policy: MeasurementPolicy, oracle: Oracle, *, seed: str, pids: Sequence[int]
    ) -> None:
        self._scenario = scenario
        self._policy = policy
        self._oracle = oracle
        self._seed = seed
        self._pids = tuple(pids)
        self._ahead: dict[str, int] = {}
        self.requests: dict[str, GenerationRequest] = {}
        """Every scored request by id."""

    async def run(self, client: LoadClient, index: int, *, warmup: int) -> WindowRun:
        """One window. `index` names its fresh prompts: both arms of a pair use the same. `warmup` requests per slot."""
        plans = [await self._plan(stage, index) for stage in self._scenario.stages]
        before, begun = contention.read(self._pids), time.monotonic()
        runs: list[StageRun] = []
        for stage, requests in zip(self._scenario.stages, plans, strict=True):
            match stage.kind:
                case "counted":
                    run = await self._counted(client, stage, requests, index, warmup)
                case "timed" if stage.request_rate is not None:
                    run = await self._open(client, stage, requests, index)
                case "timed":
                    run = await self._closed(client, stage, requests, index, warmup)
            runs.append(run)
        after = contention.read(self._pids)
        # A server of unknown process id would look like foreign load.
        known = client.endpoint.pid is not None
        disturbed = contention.between(before, after, servers_known=known)
        return WindowRun(client.endpoint.name, index, tuple(runs), disturbed, time.monotonic() - begun)

    async def _plan(self, stage: Stage, index: int) -> "Iterator[GenerationRequest]":
        """The scored requests of a stage, made before the clock runs as far as that can be foreseen."""
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
        warm_up = settle(token_rate_series(arrivals, warm_at, end, _SERIES_BINS))
        start = warm_at + (end - warm_at) * warm_up.cut / _SERIES_BINS
        return StageRun(stage, samples, start, end, warm_up.over)

    async def _open(
        self, client: LoadClient, stage: Stage, requests: Iterator[GenerationRequest], index: int
    ) -> StageRun:
        assert stage.request_rate is not None
        warm_stream = self._scenario.stream(stage, "warmup", index)
        warm_for = _OPEN_WARMUP * self._policy.window_seconds
        times = poisson(derive(self._seed, "arrivals", stage.name, index), stage.request_rate)
        total = warm_for + self._policy.window_seconds
        schedule: list[tuple[float, GenerationRequest, Purpose]] = []
        for due in itertools.takewhile(lambda due: due < total, times):
            if due < warm_for:
                schedule.append((due, next(warm_stream), "warmup"))
            else:
                schedule.append((due, next(requests), "scored"))
        begun = client.clock()
        sent = await client.open_loop(schedule)
        return StageRun(stage, _samples(client, stage, index, sent), begun + warm_for, begun + total, warm=True)


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
