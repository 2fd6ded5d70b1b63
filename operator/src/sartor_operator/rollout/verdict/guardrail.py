"""How one guardrail stands: each of its bounds kept, broken, or not known yet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sartor_api.objective import GuardrailMetric
from sartor_operator.rollout.verdict import words
from sartor_operator.rollout.verdict.bounds import Bound, weigh
from sartor_operator.rollout.verdict.budget import Budget
from sartor_operator.rollout.verdict.figures import Pair, SharePair, TimePair
from sartor_operator.rollout.verdict.metrics import METRICS
from sartor_operator.rollout.verdict.reading import Gathered, Missing, Window
from sartor_operator.rollout.verdict.samples import ArmName, Source

Standing = Literal["pass", "fail", "inconclusive", "error"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A guardrail in this step. Values are what is shown: shares, seconds, tokens per second; None: not known."""

    metric: GuardrailMetric
    outcome: Standing
    message: str
    baseline: float | None = None
    candidate: float | None = None
    source: str = ""
    both_bad: bool = False
    """The baseline breaks the bound, too."""


def broken(bound: Bound, pair: Pair, nats: float) -> bool:
    """Whether the candidate surely breaks the bound."""
    return weigh(bound.broken, pair, nats) >= nats


def held(bound: Bound, pair: Pair, budget: Budget, minimum: int) -> bool:
    """Whether the candidate surely keeps the bound, and every arm that counts has given `minimum` requests."""
    arms = (pair.candidate, pair.baseline) if bound.relative else (pair.candidate,)
    enough = all(arm is not None and arm.requests >= minimum for arm in arms)
    return enough and weigh(bound.held, pair, budget.held) >= budget.held


def judge(
    metric: GuardrailMetric,
    bounds: Sequence[Bound],
    gathered: Gathered,
    budget: Budget,
    *,
    minimum: int,
    patient: bool,
) -> Judged:
    """How a guardrail stands. `patient`: the step has just begun, and figures that are missing may still come."""
    spec = METRICS[metric]
    relative = any(bound.relative for bound in bounds)
    found = gathered.pair(spec, gathered.whole, relative=relative)
    if isinstance(found, Missing):
        return Judged(metric, "inconclusive" if patient else "error", f"{words.NAMES[metric]}: {found.message}")
    pair, source = found
    shown = _Shown(metric, pair, source)
    for window, nats in budget.tests(gathered.whole, pair.SHORTEST):
        part = found if window == gathered.whole else gathered.pair(spec, window, relative=relative)
        if isinstance(part, Missing):
            continue
        for bound in bounds:
            if broken(bound, part[0], nats):
                return _failed(shown, bound, part[0], nats, window, gathered.whole)
    if gathered.whole.seconds < pair.SHORTEST:
        return shown.judged("inconclusive", f"nothing is decided in the first {pair.SHORTEST:.0f} s of a step")
    if _unbounded(pair):
        message = "more requests of both arms failed than the quantile leaves out, so it has no value to compare"
        return shown.judged("error", message, both_bad=True)
    open_bounds = [bound for bound in bounds if not held(bound, pair, budget, minimum)]
    if not open_bounds:
        return shown.judged("pass", "; ".join(_range(shown, bound, pair, budget) for bound in bounds))
    return shown.judged("inconclusive", "; ".join(_open(shown, b, pair, budget, minimum) for b in open_bounds))


def _failed(shown: "_Shown", bound: Bound, pair: Pair, nats: float, window: Window, whole: Window) -> Judged:
    shown = _Shown(shown.metric, pair, shown.source)
    recent = "" if window == whole else f" in the last {words.duration(window.seconds)}"
    if not bound.relative and pair.baseline is not None and _exceeds(pair, bound.value):
        what = words.allowed(shown.metric, bound)
        message = f"the baseline breaks {what}, too{recent}: this says nothing of the candidate"
        return shown.judged("error", message, both_bad=True)
    low = _end(bound, pair, nats, "broken")
    least = "" if low is None else f", surely {words.excess(shown.metric, bound, low)} or worse"
    return shown.judged("fail", f"{words.allowed(shown.metric, bound)} is broken{recent}{least}")


def _exceeds(pair: Pair, limit: float) -> bool:
    """Whether the baseline's own value is beyond an absolute bound."""
    if isinstance(pair, SharePair):
        return pair.baseline is not None and pair.baseline.share > limit
    return pair.baseline is not None and pair.baseline.quantile(pair.level, high=False) > limit


def _unbounded(pair: Pair) -> bool:
    if not isinstance(pair, TimePair) or pair.baseline is None:
        return False
    return all(arm.quantile(pair.level, high=False) == math.inf for arm in (pair.candidate, pair.baseline))


def _range(shown: "_Shown", bound: Bound, pair: Pair, budget: Budget) -> str:
    high = _end(bound, pair, budget.held, "held")
    most = "" if high is None else f": surely {words.excess(shown.metric, bound, high)} or better"
    return f"{words.allowed(shown.metric, bound)} is kept{most}"


def _open(shown: "_Shown", bound: Bound, pair: Pair, budget: Budget, minimum: int) -> str:
    for name, arm in ((ArmName.CANDIDATE, pair.candidate), (ArmName.BASELINE, pair.baseline)):
        if arm is not None and (bound.relative or name is ArmName.CANDIDATE) and arm.requests < minimum:
            return f"the {name} has {arm.requests:.0f} of the {minimum} requests that are asked for"
    low = _end(bound, pair, budget.broken, "broken")
    high = _end(bound, pair, budget.held, "held")
    between = words.between(shown.metric, bound, low, high)
    evidence = weigh(bound.held, pair, 0.0)
    ahead = ""
    if evidence > 1:
        more = pair.candidate.requests * (budget.held / evidence - 1)
        ahead = f"; if it goes on like this, about {max(1, math.ceil(more)):,} more requests of the candidate show it"
    return f"whether {words.allowed(shown.metric, bound)} is kept is not known yet: it is {between}{ahead}"


def _end(bound: Bound, pair: Pair, nats: float, side: Literal["held", "broken"]) -> float | None:
    """The end of the confidence sequence on this side: the least value that is surely kept, or the greatest that is surely
    broken; by bisection, None where there is no such value within reach."""
    low, high = words.reach(bound)

    def sure(value: float) -> bool:
        one = bound.at(value)
        return weigh(one.held if side == "held" else one.broken, pair, nats) >= nats

    if not sure(high if side == "held" else low):
        return None
    middle = words.middle(bound)
    for _ in range(24):
        value = middle(low, high)
        if sure(value) == (side == "held"):
            high = value
        else:
            low = value
    return high if side == "held" else low


@dataclass(frozen=True, slots=True)
class _Shown:
    metric: GuardrailMetric
    pair: Pair
    source: Source

    def judged(self, outcome: Standing, why: str, *, both_bad: bool = False) -> Judged:
        """With values of both arms and counts in front of the reason."""
        candidate, baseline = self._values()
        resolution = ""
        if isinstance(self.pair, TimePair):
            resolution = f", {self.pair.candidate.resolution(self.pair.level)}"
        counts = f"candidate {words.value(self.metric, candidate)} of {self.pair.candidate.requests:,.0f} requests"
        if self.pair.baseline is not None:
            counts += f", baseline {words.value(self.metric, baseline)} of {self.pair.baseline.requests:,.0f}"
        message = f"{words.NAMES[self.metric]}: {counts} ({self.source}{resolution}); {why}"
        return Judged(self.metric, outcome, message, baseline, candidate, f"{self.source}{resolution}", both_bad)

    def _values(self) -> tuple[float | None, float | None]:
        if isinstance(self.pair, SharePair):
            one = self.pair.candidate.share
            other = None if self.pair.baseline is None else self.pair.baseline.share
        else:
            one = self.pair.candidate.quantile(self.pair.level, high=True)
            other = None if self.pair.baseline is None else self.pair.baseline.quantile(self.pair.level, high=True)
        return words.shown(self.metric, one), None if other is None else words.shown(self.metric, other)
