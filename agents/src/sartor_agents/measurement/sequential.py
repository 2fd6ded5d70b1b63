"""When to stop adding pairs, valid although we look in between.

Looking after every pair and stopping at the first interval that pleases inflates the error several-fold. Here the looks are
planned beforehand and share the error α by Lan and DeMets' spending function of Pocock type, α·ln(1 + (e − 1)·t) at the
share t of the pairs (Biometrika 70, 1983). Look k uses an interval at the error it alone may spend; by the union bound *all*
looks' intervals cover together with probability at least 1 − α, so the interval at whichever look ended the measurement
stands, and no joint distribution of small-sample t statistics is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .policy import MeasurementPolicy
from .statistics import Interval, sidak, t_interval

Stop = Literal["clear", "futile", "precise", "exhausted"]


@dataclass(frozen=True, slots=True)
class Look:
    """After `n` pairs an interval at error `alpha` is formed."""

    n: int
    alpha: float


def plan_looks(first: int, last: int, alpha: float) -> tuple[Look, ...]:
    """Looks at `first` pairs, then at steps of about 1.4, to `last`; their errors add up to `alpha`."""
    if not 2 <= first <= last:
        raise ValueError(f"needs 2 <= first <= last, not {first}, {last}")
    numbers = [first]
    while numbers[-1] < last:
        numbers.append(min(last, max(numbers[-1] + 1, round(numbers[-1] * 1.4))))
    looks: list[Look] = []
    spent = 0.0
    for n in numbers:
        upto = alpha * math.log1p((math.e - 1) * n / last)
        looks.append(Look(n, upto - spent))
        spent = upto
    return tuple(looks)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The interval at a look, and why nothing more is measured (None: go on)."""

    interval: Interval
    stop: Stop | None


def conclude(
    logs: Sequence[float], look: Look, *, final: bool, confidence: float, minimum: float, precision: float
) -> Conclusion:
    """What a look at the log ratios of all pairs so far says.

    `clear`: the interval lies above `minimum` and is as precise as the size of the effect asks for (its half-width on the
    log scale is at most `precision` or a fifth of the effect, whichever is larger). `futile`: it lies below. `precise`: the
    half-width is at most `precision`. `exhausted`: this was the last look.
    """
    interval = t_interval(logs, 1 - look.alpha)
    interval = Interval(interval.value, interval.low, interval.high, interval.n, confidence)
    half = math.log(interval.high / interval.low) / 2
    effect = abs(math.log(interval.value / minimum))
    stop: Stop | None = None
    if half <= precision:
        stop = "precise"
    elif interval.low > minimum and half <= effect / 5:
        stop = "clear"
    elif interval.high < minimum:
        stop = "futile"
    elif final:
        stop = "exhausted"
    return Conclusion(interval, stop)


class StopRule:
    """When the measurement of one policy is over: a pure function of the log ratios of its valid pairs, in order.

    The clock is the caller's, who calls `look` after every valid pair and `close` once when there is no time for another.
    Replaying the same pairs gives the same conclusions. Raises `ValueError` for a policy without room for a look.
    """

    def __init__(self, policy: MeasurementPolicy) -> None:
        self.alpha = sidak(1 - policy.confidence, policy.comparisons)
        """The error of the whole measurement."""
        self.looks = plan_looks(policy.replicates_min, policy.replicates_max, self.alpha)
        self._policy = policy

    @property
    def fewest(self) -> int:
        """The fewest pairs that a measurement may be closed with."""
        return self.looks[0].n

    def look(self, logs: Sequence[float]) -> Conclusion | None:
        """What all pairs so far say if it is time to look, else None."""
        look = next((look for look in self.looks if look.n == len(logs)), None)
        if look is None:
            return None
        policy = self._policy
        return conclude(
            logs, look, final=look is self.looks[-1], confidence=policy.confidence,
            minimum=policy.minimum_speedup, precision=policy.precision,
        )  # fmt: skip

    def close(self, logs: Sequence[float]) -> Conclusion | None:
        """What the last look said that there was time for; None if there was none."""
        done = [look.n for look in self.looks if look.n <= len(logs)]
        return self.look(logs[: done[-1]]) if done else None
