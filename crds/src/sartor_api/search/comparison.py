"""Measured speed-ups against one another: what one gains over another, what several of one stack say together."""

import math

from sartor_api.search.measured import Speedup


def gain(candidate: Speedup, incumbent: Speedup) -> Speedup:
    """candidate ÷ incumbent, both measured against the same baseline in separate paired measurements.

    The half-widths of two independent intervals on the log scale add in quadrature (error propagation for a ratio of
    independent log-normal estimates), each side with its own half-width since the intervals need not be symmetric.
    """
    value = candidate.value / incumbent.value
    below = math.hypot(math.log(candidate.value / candidate.low), math.log(incumbent.high / incumbent.value))
    above = math.hypot(math.log(candidate.high / candidate.value), math.log(incumbent.value / incumbent.low))
    return Speedup(
        value=value,
        low=value * math.exp(-below),
        high=value * math.exp(above),
        n=min(candidate.n, incumbent.n),
        confidence=min(candidate.confidence, incumbent.confidence),
    )


def pooled(one: Speedup, other: Speedup) -> Speedup:
    """What two independent measurements of one stack say together: the mean of their logarithms, each weighted by the
    inverse of its variance (Cochran 1937), with the interval that follows."""
    widths = [math.log(it.high / it.low) for it in (one, other)]
    if min(widths) <= 0.0:  # one of them leaves no doubt
        return one if widths[0] <= 0.0 else other
    weights = [width**-2 for width in widths]
    logs = [math.log(it.value) for it in (one, other)]
    value = math.exp(sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights))
    half = 0.5 / math.sqrt(sum(weights))
    return Speedup(
        value=value,
        low=value * math.exp(-half),
        high=value * math.exp(half),
        n=one.n + other.n,
        confidence=min(one.confidence, other.confidence),
    )


def improves(candidate: Speedup, incumbent: Speedup | None, minimum_effect: float) -> bool:
    """The keep rule: there is a gain (over the incumbent, or the baseline), and by its estimate a large enough one.

    The interval's lower end is above 1, and its value reaches the minimum effect. To keep is to choose, not to claim: the
    claim is the confirmation's, on data that played no part in the choice, and there the lower end has to clear the minimum
    effect (`RunState.holds`). Asking it of both would let most true gains of a few per cent pass by unseen, since a
    round's interval has to hold for all rounds together (`benchmarks/gates_statistics.py`, power).
    """
    over = candidate if incumbent is None else gain(candidate, incumbent)
    return over.low > 1.0 and over.value >= 1.0 + minimum_effect


def flat(candidate: Speedup, incumbent: Speedup | None, minimum_effect: float) -> bool:
    """Whether a measurement shows that there is no gain worth having: the gain's upper end is below the minimum effect."""
    high = candidate.high if incumbent is None else gain(candidate, incumbent).high
    return high < 1.0 + minimum_effect
