"""Conditions as kstatus reads them, and the words of the search in the words of the API.

`Ready` is always there; `Reconciling` and `Stalled` are there exactly while they hold. So `kubectl wait`, Flux and Argo CD
see work in progress, a dead end, and a finished object apart from one another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sartor_api.conditions import ConditionType, Reason
from sartor_api.meta import Condition
from sartor_api.search.reasons import Reason as SearchReason
from sartor_operator.reasons import OperatorReason
from sartor_operator.times import at, parse_time

AnyReason = Reason | OperatorReason
State = Literal["True", "False", "Unknown"]

SEARCH_REASONS: Mapping[SearchReason, Reason] = {
    SearchReason.TARGET_MET: Reason.TARGET_MET,
    SearchReason.PLATEAU: Reason.PLATEAU,
    SearchReason.THRASHING: Reason.THRASHING,
    SearchReason.NOTHING_LEFT: Reason.EXHAUSTED,
    SearchReason.ROUNDS_SPENT: Reason.BUDGET_SPENT,
    SearchReason.WALL_CLOCK_SPENT: Reason.BUDGET_SPENT,
    SearchReason.ACCELERATOR_TIME_SPENT: Reason.BUDGET_SPENT,
    SearchReason.TOKENS_SPENT: Reason.BUDGET_SPENT,
    SearchReason.MONEY_SPENT: Reason.BUDGET_SPENT,
    SearchReason.INFRASTRUCTURE_UNAVAILABLE: Reason.INFRASTRUCTURE_FAILURE,
    SearchReason.PROVIDER_UNAVAILABLE: Reason.PROVIDER_FAILURE,
    SearchReason.MEASUREMENT_IMPOSSIBLE: Reason.MEASUREMENT_FAILURE,
    SearchReason.BASELINE_UNAVAILABLE: Reason.BASELINE_FAILURE,
    SearchReason.CONFIRMATION_REFUTED: Reason.NOT_CONFIRMED,
    SearchReason.CONFIRMATION_UNAVAILABLE: Reason.MEASUREMENT_FAILURE,
}
"""Ends of a search, as conditions name them."""


@dataclass(frozen=True)
class Wanted:
    """A condition as it should be."""

    type: ConditionType
    status: State
    reason: AnyReason
    message: str = ""


def done(reason: AnyReason, message: str) -> list[Wanted]:
    """The object is what its spec wants."""
    return [Wanted(ConditionType.READY, "True", reason, message)]


def working(reason: AnyReason, message: str) -> list[Wanted]:
    """Work is under way, or waits for something that comes by itself."""
    return [
        Wanted(ConditionType.READY, "False", reason, message),
        Wanted(ConditionType.RECONCILING, "True", reason, message),
    ]


def stalled(reason: AnyReason, message: str) -> list[Wanted]:
    """Nothing will happen until somebody changes something."""
    return [
        Wanted(ConditionType.READY, "False", reason, message),
        Wanted(ConditionType.STALLED, "True", reason, message),
    ]


def held(reason: AnyReason, message: str) -> list[Wanted]:
    """Somebody stopped it; it goes on when they say so. Neither at work nor at a dead end."""
    return [Wanted(ConditionType.READY, "False", reason, message)]


def conditions(
    before: Iterable[Mapping[str, Any]], wanted: Iterable[Wanted], *, generation: int, now: float
) -> tuple[Condition, ...]:
    """The conditions in a fixed order. A transition time stays as long as the status does."""
    known = {str(one.get("type")): one for one in before}
    order = list(ConditionType)
    made: list[Condition] = []
    for one in sorted(wanted, key=lambda w: order.index(w.type)):
        old = known.get(one.type.value, {})
        since = parse_time(old.get("lastTransitionTime")) if old.get("status") == one.status else None
        made.append(
            Condition(
                type=one.type.value,
                status=one.status,
                reason=one.reason.value,
                message=one.message[:32768],
                last_transition_time=at(now if since is None else since),
                observed_generation=generation,
            )
        )
    return tuple(made)
