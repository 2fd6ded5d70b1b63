"""The issues of a run, with their states: derived from its records like everything else.

Planners open issues with their plans, a rejected candidate opens one by itself, and a plan that takes an issue moves it on.

| state | holds when |
|---|---|
| open | nobody works on it, and it is worth a round |
| in work | an open round took it |
| done | a round that took it was kept |
| abandoned | it was shown to gain less than the minimum effect, or it was tried `MOST_TRIES` times without a gain |
| withdrawn | a planner said that it is no longer worth a round |
"""

import math
from collections.abc import Iterable
from enum import StrEnum

from sartor_api.search.base import Record
from sartor_api.search.comparison import flat
from sartor_api.search.directive import IssueKind, Recipe
from sartor_api.search.state import Round, RunState

MOST_TRIES = 2
"""Rounds that one issue may take without a gain."""

UNKNOWN_GAIN = 1.02
"""What is expected of an issue whose planner said nothing."""


class IssueState(StrEnum):
    OPEN = "open"
    IN_WORK = "in work"
    DONE = "done"
    ABANDONED = "abandoned"
    WITHDRAWN = "withdrawn"


class Issue(Record):
    """One issue. `id` is `RRR-N`: the round that opened it and its place there (0: a candidate that was rejected); `tries`
    are the rounds that took it."""

    id: str
    kind: IssueKind
    title: str
    detail: str
    forecast_gain: float
    recipes: tuple[Recipe, ...] = ()
    state: IssueState = IssueState.OPEN
    tries: tuple[int, ...] = ()


def issues(run: RunState) -> tuple[Issue, ...]:
    """All issues in the order in which they were opened."""
    found: dict[str, Issue] = {}
    for current in run.rounds:
        plan = current.plan
        if plan is None:
            continue
        for name in plan.withdrawn:
            if name in found and found[name].state is IssueState.OPEN:
                found[name] = found[name].model_copy(update={"state": IssueState.WITHDRAWN})
        if plan.issue in found:
            found[plan.issue] = _taken(found[plan.issue], current, run)
        for position, draft in enumerate(plan.issues, start=1):
            name = f"{current.number:03d}-{position}"
            gain = draft.forecast_gain or UNKNOWN_GAIN
            found[name] = Issue(
                id=name,
                kind=draft.kind,
                title=draft.title,
                detail=draft.detail,
                forecast_gain=gain,
                recipes=draft.recipes,
            )
        if current.closed and current.failure is not None and plan.issue is None:
            found |= {(one := _defect(current)).id: one}
    return tuple(found.values())


def _taken(issue: Issue, current: Round, run: RunState) -> Issue:
    tries = (*issue.tries, current.number)
    if not current.closed:
        state = IssueState.IN_WORK
    elif current.kept:
        state = IssueState.DONE
    elif _refuted(current, run) or len(tries) >= MOST_TRIES:
        state = IssueState.ABANDONED
    else:
        state = IssueState.OPEN
    return issue.model_copy(update={"state": state, "tries": tries})


def _refuted(current: Round, run: RunState) -> bool:
    """Whether the round showed that there is no gain over the incumbent of its time."""
    before = run.incumbent_before(current)
    incumbent = before.speedup if before is not None else None
    return current.speedup is not None and flat(current.speedup, incumbent, run.spec.policy.minimum_effect)


def _defect(current: Round) -> Issue:
    plan, failure = current.plan, current.failure
    assert plan is not None and failure is not None, "only a planned round can be rejected"
    title = f"{failure.reason}: {' '.join(plan.hypothesis.split())}"[:120]
    return Issue(
        id=f"{current.number:03d}-0",
        kind=IssueKind.DEFECT,
        title=title,
        detail=f"{failure.gate}: {failure.message}"[:2000],
        forecast_gain=UNKNOWN_GAIN,
        recipes=plan.recipes,
        tries=(current.number,),
    )


def queue(known: Iterable[Issue]) -> tuple[Issue, ...]:
    """The open issues, the one that promises most first.

    Expected logarithmic gain: the forecast times the share of issues of its kind that brought one (with one success and one
    failure assumed beforehand), halved for each try that this one took already. Ties go to the older one.
    """
    every = tuple(known)

    def worth(issue: Issue) -> float:
        tried = [one for one in every if one.kind is issue.kind and one.tries and one.state is not IssueState.IN_WORK]
        share = (1 + sum(one.state is IssueState.DONE for one in tried)) / (2 + len(tried))
        return math.log(issue.forecast_gain) * share * 0.5 ** len(issue.tries)

    waiting = [one for one in every if one.state is IssueState.OPEN]
    return tuple(sorted(waiting, key=lambda one: (-worth(one), one.id)))
