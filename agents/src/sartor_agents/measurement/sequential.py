"""When to stop adding pairs, valid although we look in between.

Looking after every pair and stopping at the first interval that pleases inflates the error several-fold. Here the looks are
planned beforehand and share the error α by a spending function (Lan & DeMets, *Biometrika* 70, 1983), a mixture of two of
Kim & DeMets's (*Biometrika* 74, 1987): α·(t + 4·t³)/5 at the share t of the pairs. The linear part gives early looks enough
for ranks of few pairs to resolve, the cubic one keeps most for the late ones, where small effects are decided. What a look
may spend is the probability of being wrong there *for the first time*; since looks share their pairs, the interval at each
is formed at a larger error than that, found by the recursion of Armitage, McPherson & Rowe (JRSS A 132, 1969) for the
standardised signed-rank statistic, whose increments are independent in the limit. These are repeated confidence intervals
(Jennison & Turnbull, JRSS B 51, 1989): *all* of them cover together with probability at least 1 − α, so the one at
whichever look ended the measurement stands, for whatever reason it ended.

A measurement whose time is up between two looks closes with one more look at all its pairs, which may spend what is left of
the error: how many pairs fit into the time says nothing about which arm is faster.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

import numpy as np
from scipy import optimize, stats

from .policy import MeasurementPolicy
from .statistics import Interval, dependence, fewest_pairs, sidak, signed_rank_interval

Stop = Literal["clear", "futile", "precise", "exhausted"]

_GROWTH = 1.3  # pairs at a look, over those at the look before
_EFFECT_SHARE = 5  # a clear effect is told to a fifth of itself
_GRID = 400  # points of the recursion's integral


@dataclass(frozen=True, slots=True)
class Look:
    """After `n` pairs an interval at error `alpha` is formed."""

    n: int
    alpha: float


def plan_looks(first: int, last: int, alpha: float) -> tuple[Look, ...]:
    """Looks at `first` pairs or soon after, then at steps of about 1.3, to `last`; their intervals hold together at `alpha`.

    A look that may spend less than signed ranks of so few pairs can resolve is put off to the first number of pairs that
    can; what it would have spent is kept for it. Raises `ValueError` if even `last` pairs cannot resolve `alpha`.
    """
    if not 2 <= first <= last:
        raise ValueError(f"needs 2 <= first <= last, not {first}, {last}")
    if last < fewest_pairs(alpha):
        raise ValueError(f"{last} pairs cannot carry an interval at error {alpha:.3g}; {fewest_pairs(alpha)} can")
    n = next(n for n in range(first, last + 1) if n >= fewest_pairs(_spent(alpha, n / last)))
    numbers = [n]
    while numbers[-1] < last:
        numbers.append(max(numbers[-1] + 1, round(numbers[-1] * _GROWTH)))
        if numbers[-1] * math.sqrt(_GROWTH) > last:
            numbers[-1] = last
    errors = nominal_errors([n / last for n in numbers], [_spent(alpha, n / last) for n in numbers])
    return tuple(Look(n, error) for n, error in zip(numbers, errors, strict=True))


@lru_cache(maxsize=256)
def last_look(looks: tuple[Look, ...], n: int, alpha: float) -> float:
    """The error of a last look at `n` pairs, which none of `looks` was planned at: it may spend what is left of `alpha`."""
    last = looks[-1].n
    done = [look.n for look in looks if look.n < n]
    spent = [*(_spent(alpha, m / last) for m in done), alpha]
    return nominal_errors([*(m / n for m in done), 1.0], spent)[-1]


def _spent(alpha: float, share: float) -> float:
    return alpha * (share + 4 * share**3) / 5


def nominal_errors(shares: Sequence[float], spent: Sequence[float]) -> list[float]:
    """Two-sided errors of the looks at `shares` (0, 1] of the information, so that up to each `spent` (rising) is used.

    The standardised statistic at share t is B(t)/√t of a Brownian motion B. Its density among those who crossed no earlier
    bound is carried from look to look on a grid (trapezoids), and each bound is where the first crossings reach what may be
    spent.
    """
    errors = [spent[0]]
    bound = float(stats.norm.isf(spent[0] / 2)) * math.sqrt(shares[0])
    at = np.linspace(-bound, bound, _GRID + 1)
    density = stats.norm.pdf(at, scale=math.sqrt(shares[0]))
    for index in range(1, len(shares)):
        step = math.sqrt(shares[index] - shares[index - 1])
        mass = density * np.gradient(at)
        mass[[0, -1]] /= 2
        wanted = spent[index] - spent[index - 1]

        def crossing(z: float) -> float:
            edge = z * math.sqrt(shares[index])  # noqa: B023  (used within this turn only)
            return float(mass @ (stats.norm.sf((edge - at) / step) + stats.norm.cdf((-edge - at) / step)))  # noqa: B023

        z = cast(float, optimize.brentq(lambda z: crossing(z) - wanted, 0.0, 40.0))  # noqa: B023
        errors.append(2 * float(stats.norm.sf(z)))
        bound = z * math.sqrt(shares[index])
        following = np.linspace(-bound, bound, _GRID + 1)
        density = stats.norm.pdf((following[:, None] - at[None, :]) / step) @ mass / step
        at = following
    return errors


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The interval at a look, and why nothing more is measured (None: go on)."""

    interval: Interval
    stop: Stop | None


class StopRule:
    """When the measurement of one policy is over: a pure function of the log ratios of its valid pairs, in order.

    The clock is the caller's, who calls `look` after every valid pair and `close` once when there is no time for another.
    Replaying the same pairs gives the same conclusions. Raises `ValueError` for a policy whose `replicates_max` pairs cannot
    carry an interval at its confidence.
    """

    def __init__(self, policy: MeasurementPolicy) -> None:
        self.alpha = sidak(1 - policy.confidence, policy.comparisons)
        """The error of the whole measurement."""
        self.looks = plan_looks(policy.replicates_min, policy.replicates_max, self.alpha)
        self._policy = policy

    @property
    def fewest(self) -> int:
        """The fewest pairs that a measurement may be closed with."""
        return max(self._policy.replicates_min, fewest_pairs(self.alpha))

    def look(self, logs: Sequence[float]) -> Conclusion | None:
        """What all pairs so far say if it is time to look, else None."""
        look = next((look for look in self.looks if look.n == len(logs)), None)
        return None if look is None else self._conclude(logs, look.alpha, final=look is self.looks[-1])

    def close(self, logs: Sequence[float]) -> Conclusion | None:
        """The last look, at pairs that time has cut short; None if they are too few."""
        if len(logs) < self.fewest:
            return None
        return self.look(logs) or self._conclude(logs, last_look(self.looks, len(logs), self.alpha), final=False)

    def _conclude(self, logs: Sequence[float], error: float, *, final: bool) -> Conclusion:
        policy = self._policy
        interval = replace(
            signed_rank_interval(logs, 1 - error, inflation=dependence(logs)), confidence=policy.confidence
        )
        return Conclusion(interval, stop(interval, policy.minimum_speedup, policy.precision, final=final))


def stop(interval: Interval, minimum: float, precision: float, *, final: bool) -> Stop | None:
    """Why an interval ends the measurement, None if it does not.

    `clear`: it lies above `minimum` and is as precise as the size of the effect asks for (its half-width on the log scale is
    at most `precision` or a fifth of the effect, whichever is larger). `futile`: it lies below. `precise`: the half-width is
    at most `precision`. `exhausted`: this was the last look.
    """
    half = math.log(interval.high / interval.low) / 2
    effect = abs(math.log(interval.value / minimum))
    if half <= precision:
        return "precise"
    if interval.low > minimum and half <= effect / _EFFECT_SHARE:
        return "clear"
    if interval.high < minimum:
        return "futile"
    return "exhausted" if final else None
