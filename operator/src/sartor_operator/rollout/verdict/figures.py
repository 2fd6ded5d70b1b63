"""What a test needs to know of one metric of one arm in one window: shares, and times with their resolution.

A time that was read from a coarse source stands for a range. Each question therefore says which end of the range it is to
be answered with (`high`), and the tests always ask the end that speaks against what they are about to conclude.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

from sartor_operator.rollout.verdict.dispersion import Blocks, Dispersion, dispersions


@dataclass(frozen=True, slots=True)
class Shares:
    """How many of `n` requests are hits (failed, say). `blocks` counts both by the time of arrival."""

    hits: float
    n: float
    blocks: Callable[[], Blocks]

    @property
    def requests(self) -> float:
        """Requests that this rests on."""
        return self.n

    @property
    def share(self) -> float:
        """Hits of all."""
        return self.hits / self.n if self.n else math.nan


class Times(Protocol):
    """Lengths of time of `n` events in `requests` requests; a failed request counts as infinitely long."""

    @property
    def n(self) -> float:
        """Events: requests, or gaps between tokens."""
        ...

    @property
    def requests(self) -> float:
        """Requests that this rests on."""
        ...

    def at_least(self, seconds: float, *, high: bool) -> float:
        """How many reach `seconds`."""
        ...

    def more_than(self, seconds: float, *, high: bool) -> float:
        """How many exceed `seconds`."""
        ...

    def quantile(self, level: float, *, high: bool) -> float:
        """The smallest time with at least the share `level` of all at or below it; may be infinite."""
        ...

    def largest(self) -> float:
        """The longest finite time, 0 without any."""
        ...

    def blocks(self, seconds: float) -> Blocks:
        """Events that exceed `seconds`, and all, by the time of arrival."""
        ...

    def resolution(self, level: float) -> str:
        """How exactly the quantile is known, in words."""
        ...


def _from_top(n: float, level: float) -> int:
    """How many lie above the quantile of this level."""
    return int(n) - max(1, math.ceil(level * n - 1e-9))


@dataclass(frozen=True, slots=True)
class ExactTimes:
    """Times one by one: `values` finite and ascending, `infinite` more. The smallest may be missing (a tail): `n` counts
    them, and questions must stay in the tail."""

    values: Sequence[float]
    infinite: int
    n: float
    width: float
    blocks_above: Callable[[float], Blocks]

    @property
    def requests(self) -> float:
        """One request each."""
        return self.n

    def at_least(self, seconds: float, *, high: bool) -> float:
        """See `Times`."""
        value = seconds - self.width if high else seconds
        return len(self.values) - bisect.bisect_left(self.values, value) + self.infinite

    def more_than(self, seconds: float, *, high: bool) -> float:
        """See `Times`."""
        value = seconds - self.width if high else seconds
        return len(self.values) - bisect.bisect_right(self.values, value) + self.infinite

    def quantile(self, level: float, *, high: bool) -> float:
        """See `Times`."""
        above = _from_top(self.n, level)
        if above < self.infinite:
            return math.inf
        index = len(self.values) + self.infinite - above - 1
        if index < 0:
            raise ValueError(f"the quantile {level} lies below the tail that was kept")
        return self.values[index] + (self.width if high else 0.0)

    def largest(self) -> float:
        """See `Times`."""
        return self.values[-1] + self.width if self.values else 0.0

    def blocks(self, seconds: float) -> Blocks:
        """See `Times`."""
        return self.blocks_above(seconds)

    def resolution(self, level: float) -> str:
        """See `Times`."""
        return f"{self.width * 1000:g} ms" if self.width else "exact"


@dataclass(frozen=True)
class BucketTimes:
    """Times that are known only as counts in buckets: bucket i holds times in (bounds[i - 1], bounds[i]].

    Answered with `high`, each time is at the upper end of its bucket, otherwise at the lower end: what a histogram cannot
    tell is never interpolated.
    """

    bounds: Sequence[float]
    counts: Sequence[float]
    requests: float
    blocks_above: Callable[[float], Blocks]

    @property
    def n(self) -> float:
        """Events in all buckets."""
        return self._above[0]

    @cached_property
    def _above(self) -> list[float]:
        """Events in bucket i and the ones after it."""
        return [*reversed(list(accumulate(reversed(self.counts)))), 0.0]

    @cached_property
    def _lower(self) -> list[float]:
        return [0.0, *self.bounds[:-1]]

    def at_least(self, seconds: float, *, high: bool) -> float:
        """See `Times`."""
        return self._above[bisect.bisect_left(self.bounds if high else self._lower, seconds)]

    def more_than(self, seconds: float, *, high: bool) -> float:
        """See `Times`."""
        return self._above[bisect.bisect_right(self.bounds if high else self._lower, seconds)]

    @cached_property
    def _up_to(self) -> list[float]:
        return list(accumulate(self.counts))

    def _bucket(self, level: float) -> int:
        return min(bisect.bisect_left(self._up_to, level * self.n * (1 - 1e-12)), len(self.counts) - 1)

    def quantile(self, level: float, *, high: bool) -> float:
        """See `Times`."""
        i = self._bucket(level)
        return self.bounds[i] if high else self._lower[i]

    def largest(self) -> float:
        """See `Times`."""
        filled = [i for i, count in enumerate(self.counts) if count > 0]
        if not filled:
            return 0.0
        top = self.bounds[filled[-1]]
        return top if top < math.inf else self._lower[filled[-1]]

    def blocks(self, seconds: float) -> Blocks:
        """See `Times`."""
        return self.blocks_above(seconds)

    def resolution(self, level: float) -> str:
        """See `Times`."""
        i = self._bucket(level)
        upper = f"{self.bounds[i] * 1000:.4g} ms" if self.bounds[i] < math.inf else "anything"
        return f"a bucket from {self._lower[i] * 1000:.4g} ms to {upper}"


@dataclass(frozen=True)
class SharePair:
    """Shares of both arms over the same window. Without a baseline only absolute bounds can be tested."""

    SHORTEST = 60.0  # seconds that a window must have for a decision; a burst of errors is over by then

    candidate: Shares
    baseline: Shares | None

    @cached_property
    def dispersions(self) -> tuple[Dispersion, ...]:
        """Of the hits of each arm."""
        return dispersions(self.candidate.blocks(), None if self.baseline is None else self.baseline.blocks())


@dataclass(frozen=True)
class TimePair:
    """Times of both arms over the same window, and the quantile that is bounded."""

    SHORTEST = 120.0  # seconds that a window must have for a decision; a machine's slow spell is over by then

    candidate: Times
    baseline: Times | None
    level: float

    @cached_property
    def dispersions(self) -> tuple[Dispersion, ...]:
        """Of each arm's exceedances over its own quantile."""
        return dispersions(
            self._exceedances(self.candidate), None if self.baseline is None else self._exceedances(self.baseline)
        )

    def _exceedances(self, arm: Times) -> Blocks:
        """Where the quantile is infinite, failed requests are what exceeds it."""
        limit = arm.quantile(self.level, high=False)
        return arm.blocks(limit if limit < math.inf else arm.largest() * (1 - 1e-9))


Pair = SharePair | TimePair
