"""The baseline's size: everything until a promotion is durable, a floor afterwards, and everything again when it is needed.

Only a Deployment that the spec names is scaled, by a field manager of its own. Its replicas of before are written beside the
new ones, in the same request. Whatever somebody else sets in between (above the floor) is left alone.
"""

from sartor_api.conditions import ConditionType
from sartor_operator.actions import Apply
from sartor_operator.kinds import DEPLOYMENT, Manifest
from sartor_operator.rollout.observed import FULL_ANNOTATION, DeploymentSeen, RolloutObserved
from sartor_operator.rollout.position import Position


def scale_down_at(observed: RolloutObserved, position: Position) -> float | None:
    """When the baseline may be scaled down: after its last requests had time to end, and the candidate has been ready for
    as long without a break."""
    ready = observed.since(ConditionType.CANDIDATE_READY, "True")
    if position.promoted is None or ready is None:
        return None
    policy = observed.policy
    wait = max(policy.baseline_after_promotion.scale_down_after.seconds, policy.drain_timeout.seconds)
    return max(position.promoted, ready) + wait


def may_shrink(observed: RolloutObserved, position: Position, now: float) -> bool:
    """Whether the baseline is needed no more than its floor: the API server holds the promotion, nothing asks it back."""
    due = scale_down_at(observed, position)
    route = observed.route
    return (
        observed.position.stage == "promoted" and position.stage == "promoted" and due is not None and now >= due
        and observed.candidate.can_take(100)
        and route is not None and route.accepted and route.weights is not None and route.weights.candidate == 100
    )  # fmt: skip


def scaling(observed: RolloutObserved, position: Position, now: float) -> Apply | None:
    """What is to be written of the baseline's Deployment. `position` is the one that is acted by."""
    there = observed.baseline.deployment
    if there is None or position.stage == "over":
        return None
    if not may_shrink(observed, position, now):
        if there.full is None or (
            position.stage == "promoted" and observed.candidate.can_take(100) and _on_candidate(observed)
        ):
            return None  # never scaled down; or at its floor, and rightly so
        return _sized(observed, there, max(there.full, there.replicas), None)
    floor = observed.policy.baseline_after_promotion.replicas
    if there.full is None:
        return _sized(observed, there, floor, there.replicas) if there.replicas > floor else None
    return _sized(observed, there, floor, there.full) if there.replicas < min(floor, there.full) else None


def _on_candidate(observed: RolloutObserved) -> bool:
    weights = observed.route.weights if observed.route is not None else None
    return weights is not None and weights.candidate == 100


def _sized(observed: RolloutObserved, there: DeploymentSeen, replicas: int, full: int | None) -> Apply:
    annotations: Manifest = {} if full is None else {"annotations": {FULL_ANNOTATION: str(full)}}
    meta = {"name": there.name, "namespace": observed.namespace, "uid": there.uid, **annotations}
    return Apply(
        {
            "apiVersion": DEPLOYMENT.api_version,
            "kind": DEPLOYMENT.kind,
            "metadata": meta,
            "spec": {"replicas": replicas},
        },
        "sartor-rollout-scale",
    )
