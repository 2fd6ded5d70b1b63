"""Traffic of simulated canaries: requests as two serving engines answer them.

What is simulated is what breaks textbook tests, as it was measured on this project's machine (`docs/rollouts/verdict.md`):
times with a heavy tail (long prompts, long answers); load that drifts within tens of seconds, partly shared by both arms
(traffic) and partly not; a machine with two speeds; stalls that hit every stream in flight; errors that come in bursts of
seconds, beside a few that come alone. Traffic swells and ebbs.

Samples are counted as the operator counts them, with numpy instead of Python lists; a test compares the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import signal

from sartor_operator.rollout.verdict.dispersion import BLOCK_SECONDS, Blocks
from sartor_operator.rollout.verdict.figures import BucketTimes, ExactTimes, Shares
from sartor_operator.rollout.verdict.reading import Window
from sartor_operator.rollout.verdict.samples import GapSketch

Floats = npt.NDArray[np.float64]
MILLISECOND = 0.001
"""What a gateway cuts times off to."""
FEW = 600
"""Windows with at most so many requests are looked at whole; of larger ones the slowest are enough."""
TAIL = 0.94
KEPT = 0.02


@dataclass(frozen=True)
class Engine:
    """How one arm behaves: `UNSTEADY` is this project's machine. Rates are a second, times in seconds."""

    ttft: float = 0.16
    spread: float = 0.35
    long_prompts: float = 0.03
    gap: float = 0.03
    gap_spread: float = 0.25
    tokens: float = 60.0
    tokens_spread: float = 0.5
    load: float = 0.10
    load_seconds: float = 15.0
    slow_mode: float = 1.0
    """The machine's slow speed: every time by this ratio, about half of the time."""
    mode_seconds: float = 30.0
    stalls: float = 1 / 90
    stall_seconds: float = 0.3
    errors: float = 1e-4
    bursts: float = 1 / 1200
    burst_seconds: float = 4.0
    burst_share: float = 0.3

    def slower(self, ratio: float) -> "Engine":
        """All times by this ratio, so every quantile by at least this ratio."""
        return replace(self, ttft=self.ttft * ratio, gap=self.gap * ratio, stall_seconds=self.stall_seconds * ratio)

    def failing(self, more: float, *, in_bursts: bool = False) -> "Engine":
        """A share of errors that is higher by `more`: errors that come alone, or more bursts (one or two a minute)."""
        if not in_bursts:
            return replace(self, errors=self.errors + more)
        return replace(self, bursts=self.bursts + more / (self.burst_seconds * self.burst_share))


STEADY = Engine()
UNSTEADY = Engine(ttft=0.16, load=0.15, load_seconds=12.0, slow_mode=1.55, stalls=1 / 30, stall_seconds=0.3)


@dataclass(frozen=True)
class Step:
    """`weight`: share of the candidate. `hold`: least seconds. Undecided after `limit` seconds the rollout pauses."""

    weight: float
    hold: float
    limit: float = 7200.0


STEPS = (Step(0.05, 600), Step(0.25, 1200), Step(0.50, 1800))
"""The weights and holds that a rollout has by default, and its `inconclusiveAfter`."""


# --- what one arm answered ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failures:
    """Which requests failed, in the order of arrival."""

    arrivals: Floats
    failed: npt.NDArray[np.bool_]

    def shares(self, window: Window) -> Shares | None:
        begin, end = np.searchsorted(self.arrivals, (window.begin, window.end))
        if begin == end:
            return None
        when, failed = self.arrivals[begin:end], self.failed[begin:end]
        return Shares(int(failed.sum()), int(end - begin), lambda: blocks_of(window, when[failed], when))

    def counts(self, edges: Floats) -> tuple[Floats, Floats]:
        """Failed requests, and all, before each of the edges."""
        return _before(self.arrivals[self.failed], edges), _before(self.arrivals, edges)


@dataclass(frozen=True)
class Metric:
    """Times of one arm with their arrivals, in the order of arrival, cut off to `width`; infinite for failed requests."""

    arrivals: Floats
    values: Floats
    width: float = 0.0

    @cached_property
    def _tail(self) -> tuple[npt.NDArray[np.int64], Floats]:
        """Where the slowest are, and how slow."""
        quarters = np.array_split(self.values, 4) if len(self.values) > 4 * FEW else [self.values]
        cut = min((np.quantile(quarter, TAIL, method="lower") for quarter in quarters if len(quarter)), default=0.0)
        at = np.flatnonzero(self.values >= cut)
        return at, self.values[at]

    def times(self, window: Window) -> ExactTimes | None:
        begin, end = np.searchsorted(self.arrivals, (window.begin, window.end))
        if begin == end:
            return None
        when, part = self.arrivals[begin:end], self.values[begin:end]

        def blocks(limit: float) -> Blocks:
            return blocks_of(window, when[part > limit], when)

        slow = part
        if len(part) > FEW:
            at, values = self._tail
            first, last = np.searchsorted(at, (begin, end))
            if last - first > KEPT * len(part):
                slow = values[first:last]
        ordered = np.sort(slow)
        finite = int(np.searchsorted(ordered, math.inf))
        return ExactTimes(ordered[:finite].tolist(), len(ordered) - finite, len(part), self.width, blocks)

    def counts(self, edges: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
        """Times of at least each threshold (a row each), and all, before each of the edges."""
        slow = [_before(self.arrivals[self.values >= threshold], edges) for threshold in thresholds]
        return np.stack(slow), _before(self.arrivals, edges)


class Gaps:
    """Gaps between tokens, as a probe's sketches know them: counts in cells of 2 %, here in blocks of time. Windows must
    begin and end with a block."""

    width = 0.0

    def __init__(self, arrivals: Floats, values: Floats, seconds: float) -> None:
        self.arrivals, self.values = arrivals, values
        lost = values == math.inf
        cells = np.ceil(np.log(np.maximum(values[~lost], 1e-6)) / math.log(GapSketch.STEP) - 1e-9).astype(np.int64)
        self._lowest, highest = (int(cells.min()), int(cells.max())) if len(cells) else (0, 0)
        self._bounds = [
            *(GapSketch.STEP ** np.arange(self._lowest - 1, highest + 1, dtype=np.float64)).tolist(),
            math.inf,
        ]
        index = np.full(len(values), len(self._bounds) - 1)
        index[~lost] = cells - self._lowest + 1
        blocks, width = math.ceil(seconds / BLOCK_SECONDS), len(self._bounds)
        block = np.minimum((arrivals / BLOCK_SECONDS).astype(np.int64), blocks - 1)
        counts = np.bincount(block * width + index, minlength=blocks * width).reshape(blocks, width)
        self._up_to = np.concatenate((np.zeros((1, width), np.int64), np.cumsum(counts, axis=0)))

    def times(self, window: Window) -> BucketTimes | None:
        begin, end = round(window.begin / BLOCK_SECONDS), round(window.end / BLOCK_SECONDS)
        counts = self._up_to[end] - self._up_to[begin]
        if not counts.any():
            return None

        def blocks(limit: float) -> Blocks:
            cell = math.floor(math.log(max(limit, 1e-9), GapSketch.STEP) + 1e-9) + 1
            first = min(max(cell - self._lowest + 1, 0), len(self._bounds) - 1)
            rows = np.diff(self._up_to[begin : end + 1], axis=0)
            return Blocks(rows[:, first:].sum(axis=1).tolist(), rows.sum(axis=1).tolist())

        return BucketTimes(self._bounds, counts.tolist(), float(counts.sum()), blocks)

    def counts(self, edges: Floats, thresholds: Floats) -> tuple[Floats, Floats]:
        """Like `Metric.counts`."""
        return Metric(self.arrivals, self.values).counts(edges, thresholds)


def _before(arrivals: Floats, edges: Floats) -> Floats:
    return np.searchsorted(arrivals, edges).astype(np.float64)


def blocks_of(window: Window, hits: Floats, events: Floats) -> Blocks:
    count = max(1, math.ceil(window.seconds / BLOCK_SECONDS))

    def counted(times: Floats) -> list[float]:
        index = np.minimum(((times - window.begin) / BLOCK_SECONDS).astype(np.int64), count - 1)
        return np.bincount(index, minlength=count).tolist()

    return Blocks(counted(hits), counted(events))


@dataclass(frozen=True)
class Arm:
    """What the gateway saw of an arm (errors, whole answers), and what a probe saw of it (first tokens, gaps)."""

    failures: Failures
    whole: Metric
    ttft: Metric
    gaps: Gaps


@dataclass(frozen=True)
class _Answers:
    """An arm's answers before they are counted: users' requests, and a probe's with their gaps (NaN: none)."""

    arrivals: Floats
    failed: npt.NDArray[np.bool_]
    whole: Floats
    probed: Floats
    ttft: Floats
    gaps: Floats

    def counted(self, seconds: float) -> Arm:
        seen = ~np.isnan(self.gaps)
        return Arm(
            Failures(self.arrivals, self.failed),
            Metric(self.arrivals, self.whole, MILLISECOND),
            Metric(self.probed, self.ttft),
            Gaps(np.repeat(self.probed, seen.sum(axis=1)), self.gaps[seen], seconds),
        )

    def until(self, onset: float, after: "_Answers") -> "_Answers":
        """These before `onset`, and `after` from then on; both are about the same requests."""
        users, probes = self.arrivals < onset, self.probed < onset
        return replace(
            self,
            failed=np.where(users, self.failed, after.failed),
            whole=np.where(users, self.whole, after.whole),
            ttft=np.where(probes, self.ttft, after.ttft),
            gaps=np.where(probes[:, None], self.gaps, after.gaps),
        )


# --- requests --------------------------------------------------------------------------------------------------------


def drift(rng: np.random.Generator, seconds: float, memory: float, scale: float) -> Floats:
    """An AR(1) process, second by second, of standard deviation `scale` and correlation time `memory` seconds."""
    keep = math.exp(-1 / memory)
    noise = rng.standard_normal(math.ceil(seconds) + 1) * scale * math.sqrt(1 - keep * keep)
    noise[0] = rng.standard_normal() * scale
    return signal.lfilter([1.0], [1.0, -keep], noise)


def modes(rng: np.random.Generator, seconds: float, dwell: float, ratio: float) -> Floats:
    """The logarithm of a machine's slowness, second by second: one of two speeds, exponentially long each."""
    flips = rng.random(math.ceil(seconds) + 1) < 1 - math.exp(-1 / dwell)
    return math.log(ratio) * ((np.cumsum(flips) + rng.integers(2)) % 2)


def _events(rng: np.random.Generator, rate: float, mean: float, seconds: float) -> tuple[Floats, Floats]:
    """Begins and ends of a Poisson process of events, from half to one and a half times as long as the mean; one may be
    under way at the begin."""
    begins = np.sort(rng.uniform(-60.0, seconds, rng.poisson(rate * (seconds + 60.0))))
    return begins, begins + mean * rng.uniform(0.5, 1.5, len(begins))


def _left(events: tuple[Floats, Floats], times: Floats) -> Floats:
    """Seconds until the event under way at each time ends, 0 outside of events."""
    begins, ends = events
    if not len(begins):
        return np.zeros(len(times))
    ends = np.maximum.accumulate(ends)
    index = np.searchsorted(begins, times, side="right") - 1
    return np.where(index >= 0, np.maximum(0.0, ends[np.maximum(index, 0)] - times), 0.0)


@dataclass(frozen=True)
class Probe:
    """Requests of our own to each arm: how many a second, and how many gaps are seen in each."""

    rate: float = 1.0
    gaps: int = 32


class _Behaviour:
    """One engine over one step: everything in it is common to all requests of the arm."""

    def __init__(self, rng: np.random.Generator, engine: Engine, traffic: Floats, seconds: float) -> None:
        self._rng, self._engine = rng, engine
        self._slow = drift(rng, seconds, engine.load_seconds, engine.load) + 0.3 * traffic
        if engine.slow_mode > 1:
            self._slow = self._slow + modes(rng, seconds, engine.mode_seconds, engine.slow_mode)
        self._stalls = _events(rng, engine.stalls, engine.stall_seconds, seconds)
        self._bursts = _events(rng, engine.bursts, engine.burst_seconds, seconds)

    def first(self, arrivals: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Time to the first token, and whether the request fails."""
        rng, engine, n = self._rng, self._engine, len(arrivals)
        ttft = engine.ttft * np.exp(self._slow[arrivals.astype(np.int64)] + engine.spread * rng.standard_normal(n))
        long = rng.random(n) < engine.long_prompts
        ttft[long] *= 1 + rng.pareto(2.2, int(long.sum()))
        failed = rng.random(n) < engine.errors
        failed |= (_left(self._bursts, arrivals) > 0) & (rng.random(n) < engine.burst_share)
        return ttft + _left(self._stalls, arrivals), failed

    def rest(self, arrivals: Floats) -> Floats:
        """Time from the first token to the last."""
        spread = self._engine.tokens_spread * self._rng.standard_normal(len(arrivals))
        return self._engine.gap * self._engine.tokens * np.exp(self._slow[arrivals.astype(np.int64)] + spread)

    def gaps(self, arrivals: Floats, count: int) -> Floats:
        """`count` gaps between tokens for each arrival. A stall is in one of them."""
        noise = self._engine.gap_spread * self._rng.standard_normal((len(arrivals), count))
        gaps = self._engine.gap * np.exp(self._slow[arrivals.astype(np.int64)][:, None] + noise)
        gaps[:, 0] += _left(self._stalls, arrivals)
        return gaps


def answers(
    rng: np.random.Generator,
    engine: Engine,
    arrivals: Floats,
    probed: Floats,
    gaps: int,
    traffic: Floats,
    seconds: float,
) -> _Answers:
    """What one arm answers to users' requests that arrive at `arrivals`, and to a probe's."""
    behaviour = _Behaviour(rng, engine, traffic, seconds)
    first, failed = behaviour.first(arrivals)
    whole = np.floor((first + behaviour.rest(arrivals)) / MILLISECOND) * MILLISECOND
    whole[failed] = math.inf
    ttft, lost = behaviour.first(probed)
    ttft[lost] = math.inf
    between = behaviour.gaps(probed, gaps)
    between[lost, 1:], between[lost, 0] = math.nan, math.inf
    return _Answers(arrivals, failed, whole, probed, ttft, between)


@dataclass(frozen=True)
class Rollout:
    """A canary: `rate` requests a second over both arms. With `onset` the candidate is like the baseline until that many
    seconds into a step."""

    candidate: Engine
    baseline: Engine
    rate: float = 30.0
    probe: Probe = Probe()
    steps: Sequence[Step] = STEPS
    onset: float | None = None

    def both(self, rng: np.random.Generator, step: Step) -> tuple[Arm, Arm]:
        """Candidate and baseline over one step."""
        seconds = step.limit
        traffic = drift(rng, seconds, 60.0, 0.2)
        arrivals = np.sort(rng.uniform(0.0, seconds, rng.poisson(self.rate * 1.3 * seconds)))
        swell = np.minimum(1.0, np.exp(traffic[arrivals.astype(np.int64)]) / 1.3)
        arrivals = arrivals[rng.random(len(arrivals)) < swell]
        mine = rng.random(len(arrivals)) < step.weight
        first, second = arrivals[mine], arrivals[~mine]
        probed = [np.sort(rng.uniform(0.0, seconds, rng.poisson(self.probe.rate * seconds))) for _ in range(2)]
        candidate = answers(rng, self.candidate, first, probed[0], self.probe.gaps, traffic, seconds)
        if self.onset is not None:
            before = answers(rng, self.baseline, first, probed[0], self.probe.gaps, traffic, seconds)
            candidate = before.until(self.onset, candidate)
        baseline = answers(rng, self.baseline, second, probed[1], self.probe.gaps, traffic, seconds)
        return candidate.counted(seconds), baseline.counted(seconds)
