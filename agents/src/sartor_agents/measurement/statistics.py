"""Statistics on ratios: pure functions on numbers, no clock, no I/O, randomness passed in.

A ratio candidate ÷ baseline is formed within a pair of windows that were measured right after one another, and only the
ratios of pairs are averaged, on the log scale: what both windows of a pair share (a slow hour of the machine) cancels, and
the interval rests on the scatter *between* pairs. References: Hodges & Lehmann and Student for the t interval on log ratios;
Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 13 (percentile interval); Šidák, JASA 62, 1967.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio, the ends of its interval, the number of pairs and the level."""

    value: float
    low: float
    high: float
    n: int
    confidence: float


def log_ratios(candidate: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """ln(candidate ÷ baseline) pair by pair. Raises `ValueError` on unequal lengths or values that are not positive."""
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate windows, {len(baseline)} baseline windows: they are not pairs")
    if any(not (0 < x < math.inf) for x in (*candidate, *baseline)):
        raise ValueError("a ratio needs positive, finite values on both sides")
    return [math.log(a / b) for a, b in zip(candidate, baseline, strict=True)]


def t_interval(logs: Sequence[float], confidence: float) -> Interval:
    """Student's two-sided interval on the geometric mean of the ratios whose logs are given (at least two)."""
    if len(logs) < 2:
        raise ValueError("an interval needs at least two pairs")
    values = np.asarray(logs, dtype=np.float64)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(values), confidence)


def combine(per_condition: Sequence[Sequence[float]]) -> list[float]:
    """Log ratios of the whole, pair by pair: the mean over conditions, so that the combined ratio is their geometric mean.

    `per_condition[c][p]` is the log ratio of condition c in pair p. Conditions of one pair are correlated; averaging within
    the pair first keeps the pairs, which are independent, as the replicates.
    """
    if not per_condition or any(len(row) != len(per_condition[0]) for row in per_condition):
        raise ValueError("every condition needs the same pairs")
    return [math.fsum(column) / len(per_condition) for column in zip(*per_condition, strict=True)]


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values; zero if any is zero."""
    if not values:
        raise ValueError("no values")
    if min(values) < 0:
        raise ValueError("a geometric mean needs values that are not negative")
    return 0.0 if min(values) == 0 else math.exp(math.fsum(math.log(v) for v in values) / len(values))


def quantile(values: Sequence[float], probability: float) -> float:
    """The smallest value with at least `probability` of the values at or below it (the inverse of the empirical CDF).

    Never interpolates, so it is defined with infinite values: a p99 is infinite once more than 1 % failed.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(probability * len(ordered) - 1e-12) - 1)]


def cluster_bootstrap(
    candidate: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    statistic: Callable[[npt.NDArray[np.float64]], float],
    *,
    confidence: float,
    rng: np.random.Generator,
    draws: int = 500,
) -> Interval | None:
    """Percentile bootstrap of statistic(candidate) ÷ statistic(baseline), resampling whole pairs of windows.

    For statistics of pooled requests, such as a p99, that no single window holds enough requests for. Requests of one
    window share its luck, so windows are resampled, not requests. None if a side has an infinite or zero statistic.
    """
    a = [np.asarray(window, dtype=np.float64) for window in candidate]
    b = [np.asarray(window, dtype=np.float64) for window in baseline]
    if len(a) != len(b) or len(a) < 2:
        raise ValueError("the bootstrap needs at least two pairs of windows")

    def ratio(pick: npt.NDArray[np.int64]) -> float:
        pooled_a, pooled_b = np.concatenate([a[i] for i in pick]), np.concatenate([b[i] for i in pick])
        if not len(pooled_a) or not len(pooled_b):
            return math.nan
        over, under = statistic(pooled_a), statistic(pooled_b)
        return over / under if math.isfinite(over) and math.isfinite(under) and under > 0 else math.nan

    value = ratio(np.arange(len(a)))
    resampled = np.asarray([ratio(rng.integers(0, len(a), len(a))) for _ in range(draws)])
    if not math.isfinite(value) or not np.isfinite(resampled).all():
        return None
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(a), confidence)


def sidak(alpha: float, comparisons: int) -> float:
    """The error of each of `comparisons` independent intervals so that all hold together with error `alpha` (Šidák 1967).

    This is the correction for taking the best of N rounds. The confirmation needs none: it measures one candidate,
    chosen beforehand, on data that took no part in the choice (Cox, Biometrika 62, 1975).
    """
    if not 0 < alpha < 1 or comparisons < 1:
        raise ValueError(f"alpha {alpha} must be within (0, 1) and comparisons {comparisons} at least 1")
    return -math.expm1(math.log1p(-alpha) / comparisons)
