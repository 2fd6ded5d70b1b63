"""One simulated measurement: the evaluator's own stopping rule, fed with pairs that are cut out of a machine's noise.

Nothing of the method is written a second time here, but for `before`: what the evaluator did when its windows were long.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from benchmarks.support.noise import Noise, Plan, Series, pairs
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sequential import Conclusion, StopRule, stop
from sartor_agents.measurement.statistics import Interval

WINDOWS_SHARE = 0.85
"""Of the wall clock; the rest is kept for checking answers."""


@dataclass(frozen=True)
class Setting:
    """What is measured how. `ratio`: the true one where both arms feel the modes alike; `old`: by `before`."""

    policy: MeasurementPolicy
    plan: Plan
    noise: Noise
    ratio: float = 1.0
    feels: tuple[float, float] = (1.0, 1.0)
    old: bool = False

    @property
    def truth(self) -> float:
        """The long-run geometric mean of the ratio: half of the time is spent in the slow mode."""
        if not self.noise.mode_seconds:
            return self.ratio
        return self.ratio * self.noise.mode_factor ** ((self.feels[1] - self.feels[0]) / 2)

    @property
    def most(self) -> int:
        """Pairs that fit into the wall clock, and into the policy."""
        return min(self.policy.replicates_max, int(WINDOWS_SHARE * self.policy.wall_clock / self.plan.pair_seconds))


@dataclass(frozen=True)
class Outcome:
    """Where a measurement ended."""

    value: float
    low: float
    high: float
    n: int
    seconds: float
    stop: str

    def covers(self, truth: float) -> bool:
        return self.low <= truth <= self.high


def generator(name: str, chunk: int) -> np.random.Generator:
    """The randomness of one chunk of one kind of trial: the same in every run."""
    return np.random.default_rng([2026, zlib.crc32(name.encode()), chunk])


def trials(setting: Setting, runs: int, rng: np.random.Generator) -> list[Outcome]:
    """`runs` measurements of `setting`."""
    logs = pairs(
        setting.noise, setting.plan, setting.most, runs, rng,
        effect=math.log(setting.ratio), feels=setting.feels, lots=not setting.old,
    )  # fmt: skip
    return [outcome(setting, row) for row in logs]


def outcome(setting: Setting, logs: Series) -> Outcome:
    """What the measurement with these pairs says."""
    conclusion = before(setting.policy, list(logs)) if setting.old else _measure(setting.policy, list(logs))
    interval = conclusion.interval
    seconds = interval.n * setting.plan.pair_seconds
    return Outcome(interval.value, interval.low, interval.high, interval.n, seconds, conclusion.stop or "time")


@lru_cache(maxsize=64)
def _rule(policy: MeasurementPolicy) -> StopRule:
    return StopRule(policy)


def _measure(policy: MeasurementPolicy, logs: Sequence[float]) -> Conclusion:
    rule = _rule(policy)
    for look in rule.looks:
        if (
            look.n <= len(logs)
            and (conclusion := rule.look(logs[: look.n])) is not None
            and conclusion.stop is not None
        ):
            return conclusion
    conclusion = rule.close(logs)
    assert conclusion is not None, f"{len(logs)} pairs are too few"
    return conclusion


def before(policy: MeasurementPolicy, logs: Sequence[float]) -> Conclusion:
    """Student's t interval on few pairs of long windows; looks in steps of 1.4 share the error by the union bound."""
    last, spent = policy.replicates_max, 0.0
    alpha = 1 - policy.confidence
    n, conclusion = policy.replicates_min, None
    while n <= len(logs):
        upto = alpha * math.log1p((math.e - 1) * n / last)
        interval = t_interval(logs[:n], 1 - (upto - spent))
        spent = upto
        final = stop(interval, policy.minimum_speedup, policy.precision, final=n == last)
        conclusion = Conclusion(interval, final)
        if final is not None:
            break
        n = min(last, max(n + 1, round(1.4 * n)))
    assert conclusion is not None, f"{len(logs)} pairs are too few"
    return conclusion


# --- intervals that were tried ---------------------------------------------------------------------------------------


def t_interval(logs: Sequence[float], confidence: float) -> Interval:
    """Student's interval on the mean of the logs."""
    values = np.asarray(logs)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * float(stats.sem(values))
    return _interval(float(values.mean()), half, half, len(values), confidence)


def trimmed_interval(logs: Sequence[float], confidence: float) -> Interval:
    """Tukey & McLaughlin's interval on the mean without a fifth of the logs at either end (Sankhyā A 25, 1963)."""
    values = np.sort(np.asarray(logs))
    n, cut = len(values), len(values) // 5
    winsorised = np.clip(values, values[cut], values[n - cut - 1])
    error = float(winsorised.std(ddof=1)) / ((1 - 2 * cut / n) * math.sqrt(n))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 2 * cut - 1)) * error
    return _interval(float(values[cut : n - cut].mean()), half, half, n, confidence)


def sign_interval(logs: Sequence[float], confidence: float) -> Interval:
    """Order statistics about the median, from the binomial distribution."""
    values = np.sort(np.asarray(logs))
    n, middle = len(values), float(np.median(logs))
    rank = max(1, int(stats.binom.ppf(0.5 - confidence / 2, n, 0.5)))
    return _interval(middle, middle - float(values[rank - 1]), float(values[n - rank]) - middle, n, confidence)


def _interval(centre: float, below: float, above: float, n: int, confidence: float) -> Interval:
    return Interval(math.exp(centre), math.exp(centre - below), math.exp(centre + above), n, confidence)
