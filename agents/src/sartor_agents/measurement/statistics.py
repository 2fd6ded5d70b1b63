"""Statistics on ratios: pure functions on numbers, no clock, no I/O, randomness passed in.

A ratio candidate ÷ baseline is formed within a pair of windows that were measured right after one another, and only the
ratios of pairs are combined, on the log scale: what both windows of a pair share (a slow hour of the machine) cancels, and
the interval rests on the scatter *between* pairs. That scatter has heavy tails, since a machine that changes its speed
between the two windows of a pair moves that pair a long way: so the centre is the Hodges–Lehmann estimate and the interval
Wilcoxon's (`signed_rank_interval`), not the mean and Student's t. References: Hodges & Lehmann, *Annals of Mathematical
Statistics* 34, 1963; Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*, 2014, ch. 3; Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993, ch. 13 (percentile interval); Šidák, JASA 62, 1967.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

_DEPENDENCE_FROM = 12


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


def fewest_pairs(alpha: float) -> int:
    """The fewest pairs whose signed ranks can tell anything at error `alpha`: all on one side has probability 2^(1 − n)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} must be within (0, 1)")
    return max(2, math.ceil(1 - math.log2(alpha) - 1e-12))


def signed_rank_interval(logs: Sequence[float], confidence: float, *, inflation: float = 1.0) -> Interval:
    """The Hodges–Lehmann estimate of the ratio whose logs are given, and the interval that inverts the signed-rank test.

    The value is the median of all averages of two of the logs (Walsh averages), the ends are two of those averages, chosen
    by the exact null distribution of Wilcoxon's statistic. The interval is exact whenever each log, less the true one, is as
    likely above as below by the same amount. Drawing by lot which arm of a pair goes first makes that so, whatever the noise
    does: two arms that are alike exchange their places (Fisher, *The Design of Experiments*, 1935, ch. 3). `inflation` (≥ 1)
    is by how much the variance is larger than that of independent pairs (see `dependence`). Raises `ValueError` with fewer
    pairs than `fewest_pairs`.
    """
    n, alpha = len(logs), 1 - confidence
    if n < fewest_pairs(alpha):
        raise ValueError(f"{n} pairs cannot carry an interval at {confidence:.4%}; {fewest_pairs(alpha)} can")
    z = float(stats.norm.isf(alpha / 2)) * math.sqrt(max(1.0, inflation))
    averages = walsh_averages(logs)
    # The outermost average is the widest interval there is, however much is asked for.
    outside = max(1, _signed_rank_quantile(n, min(alpha / 2, float(stats.norm.sf(z)))))
    low, high = float(averages[outside - 1]), float(averages[len(averages) - outside])
    return Interval(math.exp(_middle(averages)), math.exp(low), math.exp(high), n, confidence)


def walsh_averages(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The averages of all pairs of `values`, each with itself too, in ascending order: n·(n + 1)/2 of them."""
    return _walsh(tuple(values))


@lru_cache(maxsize=4)
def _walsh(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
    one = np.asarray(values, dtype=np.float64)
    rows, columns = _pairs_of(len(one))
    averages = one[rows] + one[columns]
    averages /= 2
    averages.sort()
    averages.flags.writeable = False  # it is shared
    return averages


def _middle(ordered: npt.NDArray[np.float64]) -> float:
    """The median of values in ascending order."""
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


@lru_cache(maxsize=64)
def _pairs_of(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    rows, columns = np.triu_indices(n)
    return rows, columns


def _signed_rank_quantile(n: int, tail: float) -> int:
    """The largest k with P(W < k) ≤ `tail` for Wilcoxon's signed-rank statistic W of n pairs (0 if there is none)."""
    return int(np.searchsorted(_signed_rank_cdf(n), tail * (1 + 1e-12), side="right"))


@lru_cache(maxsize=512)
def _signed_rank_cdf(n: int) -> npt.NDArray[np.float64]:
    """P(W ≤ w) for w = 0 … n·(n + 1)/2: each rank is in the sum with probability one half, independently."""
    mass = np.zeros(n * (n + 1) // 2 + 1)
    mass[0] = 1.0
    for rank in range(1, n + 1):
        mass[rank:] += mass[:-rank].copy()
        mass /= 2
    return np.cumsum(mass)


def dependence(logs: Sequence[float]) -> float:
    """By how much neighbouring pairs that resemble one another widen the scatter of their centre: a variance ratio, ≥ 1.

    A speed-up that differs between two modes of the machine makes runs of similar pairs, and these count for less than as
    many independent ones. Estimated on signed ranks (no outlier decides it) as a long-run variance with Bartlett weights
    (Newey & West, *Econometrica* 55, 1987) and the bandwidth that Andrews derives from the correlation of neighbours
    (*Econometrica* 59, 1991), which is corrected for its bias (Kendall, *Biometrika* 41, 1954). That the variance itself is
    estimated, from few runs where runs are long, widens further: by the 97.5 % point of Kiefer and Vogelsang for the
    bandwidth's share of the series (*Econometric Theory* 21, 2005, table 1). Below 12 pairs there is nothing to estimate
    from, and it is 1.
    """
    n = len(logs)
    if n < _DEPENDENCE_FROM:
        return 1.0
    values = np.asarray(logs, dtype=np.float64)
    away = values - _middle(walsh_averages(logs))
    scores = np.sign(away) * stats.rankdata(np.abs(away))
    total = float(scores @ scores)
    if total == 0:
        return 1.0
    first = float(scores[1:] @ scores[:-1]) / total
    first = min(0.97, first + (1 + 3 * first) / n)
    if first <= 0:
        return 1.0
    bandwidth = min(n / 3, 1.1447 * (4 * first**2 / (1 - first**2) ** 2 * n) ** (1 / 3))
    lags = range(1, math.ceil(bandwidth))
    ratio = 1 + 2 * math.fsum((1 - k / bandwidth) * float(scores[k:] @ scores[:-k]) for k in lags) / total
    share = bandwidth / n
    estimated = 1 + (2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3) / 1.96
    return max(1.0, ratio) * estimated**2


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
