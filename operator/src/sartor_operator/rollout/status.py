"""The status of a rollout: where it stands, both arms, the verdict, and conditions as kstatus reads them.

What history decides (phase, step, times, the cause of a way back) is read again from here: see `position`.
"""

from datetime import datetime

from sartor_api.conditions import ConditionType, Reason
from sartor_api.meta import Condition
from sartor_api.serving_rollout import ArmStatus, RolloutPhase, ServingRolloutStatus, VerdictSummary
from sartor_operator.conditions import Wanted, conditions, done, held, stalled, working
from sartor_operator.rollout.doubt import NO_GATEWAY_API, Doubt, about_this_step, baseline_doubt, wanted_share
from sartor_operator.rollout.observed import ArmSeen, RolloutObserved
from sartor_operator.rollout.position import Position, step_of
from sartor_operator.rollout.progress import Next
from sartor_operator.rollout.route import Shape
from sartor_operator.rollout.samples import ArmCounts
from sartor_operator.times import at

FIGURES_SECONDS = 5.0
"""Least age of the figures in a status before newer ones are worth a write."""
_MOODS = {"working": working, "held": held, "stalled": stalled, "done": done}


def phase_of(following: Next) -> RolloutPhase:
    """The phase that people see."""
    position = following.position
    match position.stage:
        case "pending":
            rejected = following.reason is Reason.CONTENT_REJECTED
            return RolloutPhase.FAILED if rejected else RolloutPhase.PENDING
        case "steps":
            if position.frozen_since is not None:
                return RolloutPhase.FROZEN
            return RolloutPhase.PAUSED if following.paused else RolloutPhase.PROGRESSING
        case "promoting":
            return RolloutPhase.PROMOTING
        case "promoted":
            return RolloutPhase.PROMOTED
        case "back":
            return RolloutPhase.ROLLING_BACK
        case "over":
            return RolloutPhase.PROMOTED if position.handed_over else RolloutPhase.ROLLED_BACK


def rollout_status(
    observed: RolloutObserved, following: Next, shape: Shape | None, doubt: Doubt | None, now: float, *, written: bool
) -> ServingRolloutStatus:
    """The whole status. `written`: whether the route is written in this look, so that nobody has accepted it yet."""
    before, position = observed.before, following.position
    route = observed.route
    believed = route.weights if route is not None and route.mine and route.accepted else None
    counted = position.stage == "steps" and position.step_started is not None
    wanted = [
        *_MOODS[following.mood](following.reason, following.message),
        _route_accepted(observed, written=written),
        _baseline_ready(observed),
        _candidate_ready(observed, position),
    ]
    if position.frozen_since is not None:
        reason = doubt.reason if doubt is not None else following.reason
        wanted.append(
            Wanted(ConditionType.FROZEN, "True", reason, doubt.message if doubt is not None else following.message)
        )
    status = ServingRolloutStatus(
        observed_generation=observed.generation,
        phase=phase_of(following),
        message=following.message[:4096],
        conditions=conditions(
            # A time ahead of the clock is from before the clock went back: what is so now is so since now.
            [c.model_dump(mode="json", by_alias=True) for c in before.conditions if _past(c, now)],
            wanted,
            generation=observed.generation,
            now=now,
        ),
        step=position.step,
        step_started_at=_moment(position.step_started),
        frozen_since=_moment(position.frozen_since),
        baseline=_arm(
            observed.baseline,
            observed.reading.baseline if counted else ArmCounts(),
            before.baseline.weight if believed is None else believed.baseline,
            before.baseline.wanted_weight if shape is None else shape.baseline,
        ),
        candidate=_arm(
            observed.candidate,
            observed.reading.candidate if counted else ArmCounts(),
            before.candidate.weight if believed is None else believed.candidate,
            before.candidate.wanted_weight if shape is None else shape.candidate,
        ),
        verdict=_verdict(observed, position),
        route_generation=route.generation if believed is not None and route is not None else before.route_generation,
        promoted_at=_moment(position.promoted),
        finished_at=_moment(position.finished),
    )
    return _calm(before, status) if position.stage == "steps" else status


def _past(condition: Condition, now: float) -> bool:
    return condition.last_transition_time.timestamp() <= now + 1.0


def _calm(before: ServingRolloutStatus, status: ServingRolloutStatus) -> ServingRolloutStatus:
    """The status of before, where only its figures are old, and not by much: every write makes one more look, and newer
    figures with every look would make that a loop."""
    old, new = before.verdict, status.verdict
    if old is None or new is None or old.outcome != new.outcome:
        return status
    if not 0 <= new.at.timestamp() - old.at.timestamp() < FIGURES_SECONDS:
        return status
    return before if _without_figures(before) == _without_figures(status) else status


def _without_figures(status: ServingRolloutStatus) -> ServingRolloutStatus:
    """Without the verdict, counts of requests, and the sentences that tell of them."""
    none = {"samples": 0, "errors": 0, "handovers": 0}
    return status.model_copy(
        update={
            "message": "",
            "verdict": None,
            "conditions": tuple(c.model_copy(update={"message": ""}) for c in status.conditions),
            "baseline": status.baseline.model_copy(update=none),
            "candidate": status.candidate.model_copy(update=none),
        }
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else at(seconds)


def _arm(seen: ArmSeen, counts: ArmCounts, weight: int, wanted: int) -> ArmStatus:
    return ArmStatus(
        weight=weight,
        wanted_weight=wanted,
        ready_replicas=seen.ready,
        samples=counts.samples,
        errors=counts.errors,
        handovers=counts.handovers,
    )


def _verdict(observed: RolloutObserved, position: Position) -> VerdictSummary | None:
    """That of the step under way; on the way back, and afterwards, the one that was the last."""
    newest = about_this_step(observed, observed.position)
    if position.stage == "steps":
        same = position.step == observed.position.step and position.step_started is not None
        return newest if same else None
    return None if position.stage == "pending" else newest or observed.before.verdict


def _route_accepted(observed: RolloutObserved, *, written: bool) -> Wanted:
    kind, route = ConditionType.ROUTE_ACCEPTED, observed.route
    if not observed.gateway_api:
        return Wanted(kind, "False", Reason.FEATURE_MISSING, NO_GATEWAY_API)
    if route is None:
        return Wanted(kind, "Unknown", Reason.PROGRESSING, "there is no HTTPRoute yet")
    if route.touched:
        # Two states that take turns: the time of the condition is that of the last trouble, which bounds the fighting.
        text = f"somebody else changed HTTPRoute {route.name}"
        return Wanted(kind, "Unknown" if written else "False", Reason.ROUTE_CONFLICT, text)
    if written or not route.mine:
        return Wanted(kind, "Unknown", Reason.PROGRESSING, f"HTTPRoute {route.name} is written")
    if route.accepted:
        return Wanted(kind, "True", Reason.SUCCEEDED, f"generation {route.generation} of HTTPRoute {route.name}")
    status = "False" if route.acceptance == "refused" else "Unknown"
    return Wanted(kind, status, Reason.ROUTE_NOT_ACCEPTED, f"HTTPRoute {route.name}: {route.message}")


def _baseline_ready(observed: RolloutObserved) -> Wanted:
    closed, arm = baseline_doubt(observed), observed.baseline
    if closed is None:
        return Wanted(ConditionType.BASELINE_READY, "True", Reason.SUCCEEDED, "the baseline can take all traffic")
    scaled = arm.deployment is not None and arm.deployment.full is not None
    text = f"{closed.message} (it was scaled down after the promotion)" if scaled else closed.message
    return Wanted(ConditionType.BASELINE_READY, "False", closed.reason, text)


def candidate_share(observed: RolloutObserved, position: Position) -> int:
    """Per cent that the candidate has to be able to answer; before the first step, that of the first step."""
    if position.stage == "pending":
        first = step_of(observed.policy, 1)
        return max(1, first.weight if first is not None else 1)
    return max(1, wanted_share(observed, position))


def _candidate_ready(observed: RolloutObserved, position: Position) -> Wanted:
    arm, share = observed.candidate, candidate_share(observed, position)
    if arm.unreachable:
        return Wanted(ConditionType.CANDIDATE_READY, "False", Reason.CANDIDATE_UNREACHABLE, arm.unreachable)
    text = f"{arm.ready} ready, {arm.needed(share)} needed for its share"
    if not arm.missing and arm.can_take(share):
        return Wanted(ConditionType.CANDIDATE_READY, "True", Reason.SUCCEEDED, text)
    return Wanted(ConditionType.CANDIDATE_READY, "False", Reason.CANDIDATE_NOT_READY, text)
