"""From samples to figures: the same window, the same source for both arms, one metric at a time.

A figure has one source. The first of `analysis.sources` that knows the metric in every arm is taken: a probe's requests are
in the access log, too, and must not count twice.
"""

import bisect
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sartor_operator.rollout.verdict.dispersion import BLOCK_SECONDS, Blocks
from sartor_operator.rollout.verdict.figures import BucketTimes, ExactTimes, Pair, SharePair, Shares, TimePair, Times
from sartor_operator.rollout.verdict.metrics import Metric, ShareMetric, TimeMetric, gaps, seconds
from sartor_operator.rollout.verdict.samples import (
    ArmName,
    ArmSamples,
    GapSketch,
    Increment,
    Observed,
    Sample,
    Source,
    Timing,
    increase,
)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, `begin` included, `end` not."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Missing:
    """No figures for a metric, and what could be done about it."""

    message: str
    arm: ArmName | None
    """The only arm that has none, if it is only one."""


class Gathered:
    """Samples of both arms, sorted once. Raises `SampleError` for counters that went back or are no numbers."""

    def __init__(self, observed: Observed, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self.whole = Window(observed.since, observed.read_until)
        self._arms = {
            ArmName.CANDIDATE: _Arm(observed.candidate, self.whole),
            ArmName.BASELINE: _Arm(observed.baseline, self.whole),
        }
        self._chosen: dict[Metric, tuple[Source | None, Source | None]] = {}

    def requests(self, arm: ArmName, window: Window | None = None) -> tuple[float, float, float]:
        """Requests, failed ones and handed-over ones of an arm, from the first source that has any."""
        for source in self.sources:
            found = self._arms[arm].counts(source, window or self.whole)
            if found[0]:
                return found
        return (0.0, 0.0, 0.0)

    def pair(self, metric: Metric, window: Window, *, relative: bool) -> tuple[Pair, Source] | Missing:
        """Both arms' figures in a window; without the baseline's where they are not needed and not there."""
        if metric not in self._chosen:
            self._chosen[metric] = self._choose(metric)
        both, alone = self._chosen[metric]
        source = both if both is not None or relative else alone
        if source is None:
            return self._nothing(metric, alone)
        one = self._arms[ArmName.CANDIDATE].figures(metric, source, window)
        other = self._arms[ArmName.BASELINE].figures(metric, source, window) if both is not None else None
        if one is None or (relative and other is None):
            lacking = ArmName.CANDIDATE if one is None else ArmName.BASELINE
            return Missing(f"the {lacking} has no figures in this window", lacking)
        if isinstance(one, Shares):
            return SharePair(one, other if isinstance(other, Shares) else None), source
        level = metric.level if isinstance(metric, TimeMetric) else 0.0
        return TimePair(one, None if isinstance(other, Shares) else other, level), source

    def _choose(self, metric: Metric) -> tuple[Source | None, Source | None]:
        """The first source that knows the metric in both arms, and the first that knows the candidate's."""
        both = alone = None
        for source in self.sources:
            known = [self._arms[arm].figures(metric, source, self.whole) is not None for arm in self._arms]
            both = source if both is None and all(known) else both
            alone = source if alone is None and known[0] else alone
        return both, alone

    def _nothing(self, metric: Metric, alone: Source | None) -> Missing:
        asked = ", ".join(self.sources)
        if alone is not None:
            return Missing(f"{alone} has figures of the candidate and none of the baseline", ArmName.BASELINE)
        if any(self._arms[ArmName.BASELINE].figures(metric, s, self.whole) is not None for s in self.sources):
            return Missing(f"{asked}: figures of the baseline and none of the candidate", ArmName.CANDIDATE)
        probed = isinstance(metric, TimeMetric) and metric.timing is not Timing.END_TO_END
        probed = probed or (isinstance(metric, ShareMetric) and metric.complement)
        if probed and Source.PROBE not in self.sources and Source.PROMETHEUS not in self.sources:
            return Missing("no gateway sees this; add probe to policy.analysis.sources, or remove the guardrail", None)
        return Missing(f"{asked}: no figures of either arm", None)


class _Arm:
    def __init__(self, samples: ArmSamples, whole: Window) -> None:
        self._by_source: dict[Source, list[Sample]] = {}
        for sample in samples.requests:
            if whole.begin <= sample.arrival < whole.end:
                self._by_source.setdefault(sample.source, []).append(sample)
        for found in self._by_source.values():
            found.sort(key=lambda sample: sample.arrival)
        self._arrivals = {source: [s.arrival for s in found] for source, found in self._by_source.items()}
        inside = [scrape for scrape in samples.scrapes if whole.begin <= scrape.at <= whole.end]
        self._increments = [increase(earlier, later) for earlier, later in pairwise(inside)]
        self._columns: dict[tuple[Source, Timing], tuple[list[float], list[float]]] = {}
        self._counted_in: dict[tuple[Source, Window], tuple[float, float, float]] = {}
        self._figures_in: dict[tuple[Metric, Source, Window], Shares | Times | None] = {}

    def counts(self, source: Source, window: Window) -> tuple[float, float, float]:
        key = (source, window)
        if key not in self._counted_in:
            self._counted_in[key] = self._count(source, window)
        return self._counted_in[key]

    def _count(self, source: Source, window: Window) -> tuple[float, float, float]:
        if source is Source.PROMETHEUS:
            rows = self._rows(window)
            return (
                sum(row.requests for row in rows),
                sum(row.failed for row in rows),
                sum(row.handed_over or 0.0 for row in rows),
            )
        samples = self._slice(source, window)
        return len(samples), sum(s.failed for s in samples), sum(s.handed_over for s in samples)

    def figures(self, metric: Metric, source: Source, window: Window) -> Shares | Times | None:
        key = (metric, source, window)
        if key not in self._figures_in:
            self._figures_in[key] = self._figures(metric, source, window)
        return self._figures_in[key]

    def _figures(self, metric: Metric, source: Source, window: Window) -> Shares | Times | None:
        if isinstance(metric, ShareMetric):
            counted = source is Source.PROMETHEUS
            return self._counted(metric, window) if counted else self._share(metric, source, window)
        if source is Source.PROMETHEUS:
            return self._histogram(metric.timing, window)
        if metric.timing is Timing.INTER_TOKEN:
            return self._gaps(source, window)
        return self._times(metric.timing, source, window)

    # --- records ---

    def _slice(self, source: Source, window: Window) -> Sequence[Sample]:
        arrivals = self._arrivals.get(source, [])
        begin, end = bisect.bisect_left(arrivals, window.begin), bisect.bisect_left(arrivals, window.end)
        return self._by_source[source][begin:end] if arrivals else ()

    def _share(self, metric: ShareMetric, source: Source, window: Window) -> Shares | None:
        asked = [(s.arrival, hit) for s in self._slice(source, window) if (hit := metric.hit(s)) is not None]
        if not asked:
            return None
        hits = [arrival for arrival, hit in asked if hit]
        return Shares(len(hits), len(asked), lambda: _blocks(window, hits, [arrival for arrival, _ in asked]))

    def _column(self, timing: Timing, source: Source) -> tuple[list[float], list[float]]:
        """Arrivals and times of the whole step, in the order of arrival."""
        if (source, timing) not in self._columns:
            known = [(s.arrival, t) for s in self._by_source.get(source, []) if (t := seconds(timing, s)) is not None]
            self._columns[source, timing] = [a for a, _ in known], [t for _, t in known]
        return self._columns[source, timing]

    def _times(self, timing: Timing, source: Source, window: Window) -> Times | None:
        arrivals, times = self._column(timing, source)
        begin, end = bisect.bisect_left(arrivals, window.begin), bisect.bisect_left(arrivals, window.end)
        if begin == end:
            return None
        part, when = times[begin:end], arrivals[begin:end]
        finite = sorted(time for time in part if time < math.inf)
        width = max(s.resolution for s in self._slice(source, window))

        def blocks(limit: float) -> Blocks:
            return _blocks(window, [at for at, time in zip(when, part, strict=True) if time > limit], when)

        return ExactTimes(finite, len(part) - len(finite), len(part), width, blocks)

    def _gaps(self, source: Source, window: Window) -> Times | None:
        rows = [(s.arrival, gaps(s)) for s in self._slice(source, window) if s.gaps is not None or _lost(s)]
        if not any(sketch is not None for _, sketch in rows):
            return None
        counts: Counter[int] = Counter()
        for _, sketch in rows:
            for cell, count in () if sketch is None else sketch.cells:
                counts[cell] += count
        lost = sum(sketch is None for _, sketch in rows)
        cells = sorted(counts)
        bounds: list[float] = []
        filled: list[float] = []
        for i, cell in enumerate(cells):
            if i == 0 or cells[i - 1] != cell - 1:  # an empty cell, so that the next one's lower end is its own
                bounds.append(GapSketch.STEP ** (cell - 1))
                filled.append(0)
            bounds.append(GapSketch.STEP**cell)
            filled.append(counts[cell])

        def blocks(limit: float) -> Blocks:
            lowest = math.floor(math.log(max(limit, 1e-9), GapSketch.STEP) + 1e-9) + 1
            return _weighted_blocks(window, rows, lowest)

        return BucketTimes([*bounds, math.inf], [*filled, lost], len(rows), blocks)

    # --- counters ---

    def _rows(self, window: Window) -> list[Increment]:
        return [row for row in self._increments if window.begin <= row.begin and row.end <= window.end]

    def _counted(self, metric: ShareMetric, window: Window) -> Shares | None:
        rows = self._rows(window)
        hits = [hit for row in rows if (hit := metric.counted(row)) is not None]
        total = sum(row.requests for row in rows)
        if len(hits) < len(rows) or not total:
            return None
        return Shares(sum(hits), total, lambda: _row_blocks(window, rows, hits, [row.requests for row in rows]))

    def _histogram(self, timing: Timing, window: Window) -> Times | None:
        rows = [row for row in self._rows(window) if timing in row.buckets]
        if not rows or not sum(sum(row.buckets[timing][1]) for row in rows):
            return None
        bounds = rows[0].buckets[timing][0]
        counts = [sum(column) for column in zip(*(row.buckets[timing][1] for row in rows), strict=True)]

        def blocks(limit: float) -> Blocks:
            first = bisect.bisect_right([0.0, *bounds[:-1]], limit)
            hits = [sum(row.buckets[timing][1][first:]) for row in rows]
            return _row_blocks(window, rows, hits, [sum(row.buckets[timing][1]) for row in rows])

        return BucketTimes(bounds, counts, sum(counts), blocks)


def _lost(sample: Sample) -> bool:
    """Whether a probe's request failed: its stream has a gap that never ended."""
    return sample.source is Source.PROBE and sample.failed


def _empty(window: Window, length: float) -> list[float]:
    return [0.0] * max(1, math.ceil(window.seconds / length))


def _blocks(window: Window, hits: Sequence[float], events: Sequence[float]) -> Blocks:
    def count(times: Sequence[float]) -> list[float]:
        blocks = _empty(window, BLOCK_SECONDS)
        for index, number in Counter(int((time - window.begin) / BLOCK_SECONDS) for time in times).items():
            blocks[min(index, len(blocks) - 1)] += number
        return blocks

    return Blocks(count(hits), count(events))


def _weighted_blocks(window: Window, rows: Sequence[tuple[float, GapSketch | None]], lowest: int) -> Blocks:
    hits, events = _empty(window, BLOCK_SECONDS), _empty(window, BLOCK_SECONDS)
    for arrival, sketch in rows:
        index = min(int((arrival - window.begin) / BLOCK_SECONDS), len(events) - 1)
        cells = ((lowest, 1),) if sketch is None else sketch.cells
        hits[index] += sum(count for cell, count in cells if cell >= lowest)
        events[index] += sum(count for _, count in cells)
    return Blocks(hits, events)


def _row_blocks(window: Window, rows: Sequence[Increment], hits: Sequence[float], events: Sequence[float]) -> Blocks:
    """Blocks as long as the longest interval between two scrapes: shorter ones would be empty or filled by turns."""
    length = max(BLOCK_SECONDS, *(row.end - row.begin for row in rows))
    hit_blocks, event_blocks = _empty(window, length), _empty(window, length)

    def indices() -> Iterator[int]:
        return (min(int((row.end - window.begin - 1e-9) / length), len(event_blocks) - 1) for row in rows)

    for index, hit, event in zip(indices(), hits, events, strict=True):
        hit_blocks[index] += hit
        event_blocks[index] += event
    return Blocks(hit_blocks, event_blocks, length)
