"""The four kinds of bounds, and the evidence for "it is kept" and for "it is broken".

`held` is evidence (nats) against "the bound is broken": enough of it is a pass. `broken` is evidence against "the bound is
kept": enough of it is a fail. Both take the resolution of the figures against what they are to show.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from sartor_operator.rollout.verdict.evidence import SHARES, Bet, around, least
from sartor_operator.rollout.verdict.figures import Pair, SharePair, Shares, TimePair, Times

_COARSE, _FINE = 8, 64
"""Thresholds at which two quantiles are compared: first a few, all of them only where it matters."""
Scale = tuple[float, float]
"""Dispersion of candidate and baseline."""
INDEPENDENT: Scale = (1.0, 1.0)


class Bound(Protocol):
    """One bound of a guardrail. `value` is in points (0.01: one point), seconds, or the ratio candidate ÷ baseline."""

    @property
    def value(self) -> float:
        """What is allowed."""
        ...

    @property
    def relative(self) -> bool:
        """Whether it is against the baseline."""
        ...

    def at(self, value: float) -> Self:
        """The same kind of bound at another value."""
        ...

    def held(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Nats against "broken". Exact where it reaches `enough`."""
        ...

    def broken(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Nats against "kept". Exact where it reaches `enough`."""
        ...


def weigh(evidence: Callable[[Pair, Scale, float], float], pair: Pair, enough: float) -> float:
    """Evidence with the dispersion of the pair: the least over all lengths of blocks, and never more than independent
    requests would give. Exact where it reaches `enough`. 0 where the window is too short to know a dispersion."""
    found = evidence(pair, INDEPENDENT, math.inf)  # an upper bound, cheaply: it mostly shows that there is not enough
    if found < enough:
        return found
    if not pair.dispersions:
        return 0.0
    for one in reversed(pair.dispersions):  # the longest blocks mostly say least
        found = min(found, one.worth(evidence(pair, (one.candidate, one.baseline), one.needed(enough))))
        if found < enough:
            return found
    return min(found, evidence(pair, INDEPENDENT, enough))


def _shares(pair: Pair) -> SharePair:
    if not isinstance(pair, SharePair):
        raise TypeError("a bound on a share was given times")
    return pair


def _times(pair: Pair) -> TimePair:
    if not isinstance(pair, TimePair):
        raise TypeError("a bound on a quantile was given shares")
    return pair


# --- shares ----------------------------------------------------------------------------------------------------------


def _share_bets(pair: SharePair, scale: Scale) -> tuple[Shares, Shares, Bet, Bet]:
    one, other = pair.candidate, pair.baseline
    if other is None:
        raise ValueError("a bound against the baseline needs the baseline's share")
    return (
        one,
        other,
        Bet(one.hits / scale[0], one.n / scale[0], SHARES),
        Bet(other.hits / scale[1], other.n / scale[1], SHARES),
    )


@dataclass(frozen=True, slots=True)
class ShareRegression:
    """The candidate's share is at most `value` above the baseline's."""

    value: float
    relative: bool = True

    def at(self, value: float) -> Self:
        """See `Bound`."""
        return replace(self, value=value)

    def held(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against every pair of shares (s + value or more, s or less)."""
        one, other, mine, theirs = _share_bets(_shares(pair), scale)
        if one.share - other.share >= self.value:
            return 0.0
        low = max(0.0, -self.value, one.share - self.value)
        high = max(low, min(1.0, 1.0 - self.value, other.share))
        return least(lambda s: mine.against_at_least(min(1.0, s + self.value)) + theirs.against_at_most(s), low, high)

    def broken(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against every pair of shares (s + value or less, s or more)."""
        one, other, mine, theirs = _share_bets(_shares(pair), scale)
        if one.share - other.share <= self.value:
            return 0.0
        low = max(0.0, -self.value, other.share)
        high = max(low, min(1.0, 1.0 - self.value, one.share - self.value))
        return least(lambda s: mine.against_at_most(max(0.0, s + self.value)) + theirs.against_at_least(s), low, high)


@dataclass(frozen=True, slots=True)
class ShareLimit:
    """The candidate's share is at most `value`, whatever the baseline's is."""

    value: float
    relative: bool = False

    def at(self, value: float) -> Self:
        """See `Bound`."""
        return replace(self, value=value)

    def held(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against "the share is `value` or more"."""
        one = _shares(pair).candidate
        return Bet(one.hits / scale[0], one.n / scale[0], SHARES).against_at_least(self.value)

    def broken(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against "the share is `value` or less"."""
        one = _shares(pair).candidate
        return Bet(one.hits / scale[0], one.n / scale[0], SHARES).against_at_most(self.value)


# --- quantiles -------------------------------------------------------------------------------------------------------


def _thresholds(low: float, high: float, finite: float, count: int) -> list[float]:
    """`count` + 1 thresholds from low to high, evenly on the log scale. Beyond the longest finite time nothing changes."""
    top = max(low, min(high, finite * (1 + 1e-9)))
    bottom = max(low, top * 1e-6, 1e-9)
    if top <= bottom:
        return [bottom]
    step = math.log(top / bottom) / count
    return [bottom * math.exp(step * i) for i in range(count)] + [top]


@dataclass(frozen=True, slots=True)
class QuantileRegression:
    """The candidate's quantile of this level is at most `value` times the baseline's.

    If its quantile is q_C > r·q_B, then at t = q_B at most the share 1 − level of the baseline exceeds t and at least that
    share of the candidate reaches r·t. Nobody knows t, so the least capital over all thresholds counts. Between q_C/r and
    q_B one arm's capital rises with t and the other's falls: taking each arm at its worse end of an interval between two
    thresholds bounds everything inside.
    """

    value: float
    level: float
    relative: bool = True

    def at(self, value: float) -> Self:
        """See `Bound`."""
        return replace(self, value=value)

    def held(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against every "at least the share 1 − level of the candidate reaches r·t, at most that of the baseline t"."""
        one, other = _both(pair)
        low, high = one.quantile(self.level, high=True) / self.value, other.quantile(self.level, high=False)
        if not low < high:
            return 0.0
        mixture, share = around(round(1 - self.level, 9)), 1 - self.level

        def mine(t: float) -> float:
            hits = one.at_least(self.value * t, high=True)
            return Bet(hits / scale[0], one.n / scale[0], mixture).against_at_least(share)

        def theirs(t: float) -> float:
            return Bet(other.more_than(t, high=False) / scale[1], other.n / scale[1], mixture).against_at_most(share)

        finite = max(other.largest(), one.largest() / self.value)
        return _least_over(mine, theirs, low, high, finite, enough)

    def broken(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against every "at most the share 1 − level of the candidate exceeds r·t, at least that of the baseline t"."""
        one, other = _both(pair)
        low, high = other.quantile(self.level, high=True), one.quantile(self.level, high=False) / self.value
        if not low < high:
            return 0.0
        mixture, share = around(round(1 - self.level, 9)), 1 - self.level

        def mine(t: float) -> float:
            hits = one.more_than(self.value * t, high=False)
            return Bet(hits / scale[0], one.n / scale[0], mixture).against_at_most(share)

        def theirs(t: float) -> float:
            return Bet(other.at_least(t, high=True) / scale[1], other.n / scale[1], mixture).against_at_least(share)

        finite = max(other.largest(), one.largest() / self.value)
        return _least_over(theirs, mine, low, high, finite, enough)


def _both(pair: Pair) -> tuple[Times, Times]:
    times = _times(pair)
    if times.baseline is None:
        raise ValueError("a bound against the baseline needs the baseline's times")
    return times.candidate, times.baseline


def _least_over(
    rising: Callable[[float], float],
    falling: Callable[[float], float],
    low: float,
    high: float,
    finite: float,
    enough: float,
) -> float:
    """The least of rising(t) + falling(t). Below `enough` only an upper bound, the value at some threshold."""
    coarse = math.inf
    few = _thresholds(low, high, finite, _COARSE)
    for i in sorted(range(len(few)), key=lambda i: abs(2 * i - len(few))):  # the middle is mostly the least
        coarse = min(coarse, rising(few[i]) + falling(few[i]))
        if coarse < enough:
            return coarse
    thresholds = _thresholds(low, high, finite, _FINE)
    up, down = [rising(t) for t in thresholds], [falling(t) for t in thresholds]
    between = (a + b for a, b in zip(up, down[1:], strict=False))
    return min(coarse, up[-1] + down[-1], *between)


@dataclass(frozen=True, slots=True)
class QuantileLimit:
    """The candidate's quantile of this level is at most `value` seconds, whatever the baseline's is."""

    value: float
    level: float
    relative: bool = False

    def at(self, value: float) -> Self:
        """See `Bound`."""
        return replace(self, value=value)

    def held(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against "at least the share 1 − level reaches the limit"."""
        one, share = _times(pair).candidate, 1 - self.level
        hits = one.at_least(self.value, high=True)
        return Bet(hits / scale[0], one.n / scale[0], around(round(share, 9))).against_at_least(share)

    def broken(self, pair: Pair, scale: Scale, enough: float = math.inf) -> float:
        """Against "at most the share 1 − level exceeds the limit"."""
        one, share = _times(pair).candidate, 1 - self.level
        hits = one.more_than(self.value, high=False)
        return Bet(hits / scale[0], one.n / scale[0], around(round(share, 9))).against_at_most(share)
