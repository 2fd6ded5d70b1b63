"""Simulated canaries: the verdict looking at the traffic of `canary_traffic` every few seconds.

What decides is the operator's own code (`budget`, `bounds`, `guardrail`). Hundreds of millions of requests are looked at, so
a screen leaves out looks at which nothing can be decided.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from benchmarks.support.canary_traffic import Arm, Floats, Gaps, Rollout, Step
from sartor_operator.rollout.verdict import guardrail
from sartor_operator.rollout.verdict.bounds import Bound, QuantileRegression, ShareRegression
from sartor_operator.rollout.verdict.budget import Budget
from sartor_operator.rollout.verdict.dispersion import BLOCK_SECONDS, FEWEST_BLOCKS, LONGEST_BLOCK
from sartor_operator.rollout.verdict.figures import Pair, SharePair, TimePair
from sartor_operator.rollout.verdict.reading import Window
from sartor_operator.rollout.verdict.samples import GapSketch

Ending = Literal["promoted", "rolledBack", "paused"]
Name = Literal["errors", "whole", "ttft", "gaps"]
BOUNDS: tuple[Name, ...] = ("errors", "whole", "ttft", "gaps")
LEVEL = 0.99
Broken = Callable[[Bound, Pair, float], bool]
TENTH = ShareRegression(0.001)
TEN_PER_CENT = QuantileRegression(1.1, LEVEL)


@dataclass(frozen=True)
class Rules:
    """What is looked for: bounds, and the tests. The defaults are the operator's; the default guardrails and whole answers
    at p99 beside them."""

    errors: ShareRegression = TENTH
    whole: QuantileRegression = TEN_PER_CENT
    ttft: QuantileRegression = TEN_PER_CENT
    gaps: QuantileRegression = TEN_PER_CENT
    alpha: float = 0.01
    minimum: int = 300
    every: float = 10.0
    broken: Broken | None = guardrail.broken
    """None: never rolled back, so that nothing but a pass ends a step."""
    guardrails: Sequence[Name] = BOUNDS
    screened: bool = True
    """Leave out looks at which no test can be decided (see `_Screen`)."""
    advance: bool = False
    """Go to the next step at the end of the hold, whatever is known, so that every step is exposed to false alarms."""


def naive(bound: Bound, pair: Pair, nats: float) -> bool:
    """How not to do it: a textbook z test at 1 %, repeated at every look, requests taken as independent."""
    if isinstance(pair, SharePair):
        one, other = pair.candidate, pair.baseline
        assert other is not None
        pooled = (one.hits + other.hits) / (one.n + other.n)
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / one.n + 1 / other.n))
        return one.share - other.share - bound.value > 2.33 * error and one.hits >= 3
    assert pair.baseline is not None
    share = 1 - pair.level
    above = pair.candidate.more_than(bound.value * pair.baseline.quantile(pair.level, high=False), high=False)
    n = pair.candidate.n
    return n >= 100 and above / n - share > 2.33 * math.sqrt(share * (1 - share) / n)


@dataclass(frozen=True)
class End:
    """How a canary ended: in which step (from 0), after how many seconds of it, with how many requests of the candidate, and
    by which bound where it was rolled back."""

    ending: Ending
    step: int
    seconds: float
    requests: int
    bound: str = ""


def canary(rollout: Rollout, rules: Rules, rng: np.random.Generator) -> End:
    """One rollout from its first step to its end."""
    budget = Budget(rules.alpha, len(rules.guardrails), len(rollout.steps))
    end = End("paused", 0, 0.0, 0)
    for number, step in enumerate(rollout.steps):
        asked = replace(step, limit=step.hold) if rules.advance else step
        outcome, seconds, bound, requests = _Looks(rollout.both(rng, asked), asked, rules, budget).outcome()
        end = End("promoted", number, seconds, requests)
        if outcome == "fail":
            return replace(end, ending="rolledBack", bound=bound)
        if outcome == "inconclusive" and not rules.advance:
            return replace(end, ending="paused")
    return end


def pair_of(arms: tuple[Arm, Arm], name: Name, window: Window) -> Pair | None:
    """The figures of both arms for one bound, where both have any."""
    one, other = arms
    if name == "errors":
        mine, theirs = one.failures.shares(window), other.failures.shares(window)
        return None if mine is None or theirs is None else SharePair(mine, theirs)
    slow, fast = getattr(one, name).times(window), getattr(other, name).times(window)
    return None if slow is None or fast is None else TimePair(slow, fast, LEVEL)


class _Looks:
    """One step, looked at again and again."""

    def __init__(self, arms: tuple[Arm, Arm], step: Step, rules: Rules, budget: Budget) -> None:
        self._arms, self._step, self._rules, self._budget = arms, step, rules, budget
        self._looks = np.arange(rules.every, step.limit + 1e-9, rules.every).tolist()

    def outcome(self) -> tuple[str, float, str, int]:
        """Fail, pass or inconclusive; when; by which bound; after how many requests of the candidate."""
        failing, passing = self._tests(), self._passes()
        for look in self._looks:
            for name, window, nats in failing.get(look, ()):
                if self._broken(name, window, nats):
                    return "fail", look, name, self._seen(look)
            if look in passing and all(self._held(name, Window(0.0, look)) for name in self._rules.guardrails):
                return "pass", look, "", self._seen(look)
        return "inconclusive", self._step.limit, "", self._seen(self._step.limit)

    def _tests(self) -> dict[float, list[tuple[Name, Window, float]]]:
        """What is tested at each look, as far as it may be decided."""
        found: dict[float, list[tuple[Name, Window, float]]] = {}
        for name in self._rules.guardrails if self._rules.broken is not None else ():
            shortest = SharePair.SHORTEST if name == "errors" else TimePair.SHORTEST
            tests = [(look, *test) for look in self._looks for test in self._budget.tests(Window(0.0, look), shortest)]
            most = self._screens[name].most([window for _, window, _ in tests], 1)
            for (look, window, nats), evidence in zip(tests, most.tolist(), strict=True):
                if evidence >= nats or not self._rules.screened:
                    found.setdefault(look, []).append((name, window, nats))
        return found

    def _passes(self) -> set[float]:
        """The looks at which the step may pass."""
        looks = [] if self._rules.advance else [look for look in self._looks if look >= self._step.hold]
        if not looks or not self._rules.screened:
            return set(looks)
        windows = [Window(0.0, look) for look in looks]
        least = np.min([self._screens[name].most(windows, -1) for name in self._rules.guardrails], axis=0)
        return {look for look, evidence in zip(looks, least.tolist(), strict=True) if evidence >= self._budget.held}

    def _broken(self, name: Name, window: Window, nats: float) -> bool:
        pair = pair_of(self._arms, name, window)
        assert self._rules.broken is not None
        return pair is not None and self._rules.broken(getattr(self._rules, name), pair, nats)

    def _held(self, name: Name, whole: Window) -> bool:
        pair = pair_of(self._arms, name, whole)
        bound: Bound = getattr(self._rules, name)
        return pair is not None and guardrail.held(bound, pair, self._budget, self._rules.minimum)

    @cached_property
    def _screens(self) -> dict[Name, "_Screen"]:
        edges = np.arange(0.0, self._step.limit + 1e-9, self._rules.every)
        return {name: _Screen(self._arms, name, getattr(self._rules, name), edges) for name in self._rules.guardrails}

    def _seen(self, look: float) -> int:
        return int(np.searchsorted(self._arms[0].failures.arrivals, look))


class _Screen:
    """An upper bound of the evidence in any window, from counts at the looks alone: the evidence of whoever had known the
    best alternative beforehand, against one of the claims. Where that does not suffice nothing does. It saves nine tenths
    of the time and changes no outcome (a test compares)."""

    def __init__(
        self, arms: tuple[Arm, Arm], name: Name, bound: ShareRegression | QuantileRegression, edges: Floats
    ) -> None:
        self._every = float(edges[1])
        if isinstance(bound, ShareRegression):
            self._margin, self._share = bound.value, None
            ones, others = (side.failures.counts(edges) for side in arms)
            self._broken = self._held = (ones[0][None], others[0][None])
        else:
            one, other = (getattr(side, name) for side in arms)
            finite = np.concatenate((other.values, one.values / bound.value))
            thresholds = np.quantile(finite[finite < math.inf], 1 - np.geomspace(0.2, 0.0005, 12))
            self._margin, self._share = 0.0, 1 - bound.level
            # Resolution only ever lessens evidence; a little is given away here so that it needs no care.
            slack = GapSketch.STEP**2 if isinstance(one, Gaps) else 1 + 1e-9
            ones = one.counts(edges, thresholds * bound.value / slack - one.width)
            others = other.counts(edges, thresholds * slack + other.width)
            self._broken = (ones[0], others[0])
            self._held = (
                one.counts(edges, thresholds * bound.value * slack + one.width)[0],
                other.counts(edges, thresholds / slack - other.width)[0],
            )
        self._n, self._m = ones[1], others[1]

    def most(self, windows: Sequence[Window], sign: int) -> Floats:
        """For "broken" (sign 1) or "held" (−1), for each window, which must begin and end with looks."""
        begin = np.array([round(window.begin / self._every) for window in windows], np.int64)
        end = np.array([round(window.end / self._every) for window in windows], np.int64)
        mine, theirs = self._broken if sign > 0 else self._held
        n, m = self._n[end] - self._n[begin], self._m[end] - self._m[begin]
        k, j = mine[:, end] - mine[:, begin], theirs[:, end] - theirs[:, begin]
        with np.errstate(divide="ignore", invalid="ignore"):
            if self._share is None:
                lowest, highest = max(0.0, -self._margin), min(1.0, 1 - self._margin)
                theirs_at = np.clip((k + j - self._margin * n) / (n + m), lowest, highest)
            else:
                theirs_at = np.full_like(k, self._share)
            mine_at = theirs_at + self._margin
            one = np.where(sign * (k / n - mine_at) > 0, _likelihood_ratio(k, n, mine_at), 0.0)
            other = np.where(sign * (theirs_at - j / m) > 0, _likelihood_ratio(j, m, theirs_at), 0.0)
        total = np.where((n > 0) & (m > 0), np.min(one + other, axis=0), 0.0)
        return _discounted(total, (end - begin) * self._every) + 1e-6


def _discounted(nats: Floats, seconds: Floats) -> Floats:
    """What evidence is worth at most with the longest blocks that a window has enough of."""
    found = nats
    length = BLOCK_SECONDS
    while length <= LONGEST_BLOCK:
        freedom = np.maximum(np.ceil(seconds / length) - 1, 1)
        worth = freedom / 2 * np.log1p(2 * nats / freedom)
        found = np.where(freedom + 1 >= FEWEST_BLOCKS, np.minimum(found, worth), found)
        length *= 2
    return found


def _likelihood_ratio(hits: Floats, n: Floats, share: Floats) -> Floats:
    """ln of the greatest likelihood over that of `share`."""
    seen = hits / n
    one = np.where(hits > 0, hits * np.log(seen / share), 0.0)
    return one + np.where(hits < n, (n - hits) * np.log((1 - seen) / (1 - share)), 0.0)
