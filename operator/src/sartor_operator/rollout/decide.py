"""What a rollout needs next: a pure, total function of what is observed and the time.

1. The route is written as it should be in this instant (`weights`): by the position that the API server holds, within what
   has ready capacity. Somebody else's changes are put back, at a bounded rate.
2. The baseline's size follows (`scaling`).
3. The next position (`progress`) is stored in the status. What follows from it is done in the next look.
4. The probe (`probe`) is brought there or taken away. Nothing hangs on it.

So weights rise, and the baseline shrinks, only by what is durable; a way back that a human asks for, and the loss of an arm,
need nothing durable and take effect in the same look.
"""

from dataclasses import replace

from sartor_api.conditions import ConditionType
from sartor_operator import names
from sartor_operator.actions import Action, Apply, Decision, StatusOf
from sartor_operator.kinds import ROLLOUT
from sartor_operator.rollout.control import command_of
from sartor_operator.rollout.doubt import STEADY_SECONDS, doubt_of
from sartor_operator.rollout.events import events
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position
from sartor_operator.rollout.probe import probe_writes
from sartor_operator.rollout.progress import acting, advance, blocked, settled
from sartor_operator.rollout.route import Shape, route_manifest
from sartor_operator.rollout.scaling import scale_down_at, scaling
from sartor_operator.rollout.status import rollout_status
from sartor_operator.rollout.weights import target

FINALIZER = "sartor.dev/traffic"
"""Holds a rollout until its traffic is back at the baseline, or its time for that is over."""
QUIET_SECONDS = 10.0
"""Least time between two times that somebody else's changes of the route are put back."""


def decide_rollout(observed: RolloutObserved, now: float) -> Decision:
    """What to write, the status to show, and when to look again."""
    if observed.deleting_since is not None:
        return _farewell(observed, observed.deleting_since, now)
    if observed.position.stage == "over":
        return _at_rest(observed)
    if not _held(observed):
        return Decision((_finalizer(observed, present=True),))  # before anything moves; the rest in the next look
    position = acting(observed)
    doubt = doubt_of(observed, position, now)
    still = doubt is not None or position.frozen_since is not None
    still = still or command_of(observed.spec.control, position) == "pause"
    shape, route, retry = _route(observed, position, now, still=still)
    sized = None if position.stage == "pending" and blocked(observed) is not None else scaling(observed, position, now)
    following = advance(observed, shape, doubt, now)
    told = events(observed, following, shape, doubt, now)
    actions: list[Action] = [a for a in (route, sized) if a is not None]
    status = rollout_status(observed, following, shape, doubt, now, written=route is not None)
    return Decision(
        (*actions, *told),
        (StatusOf(ROLLOUT, observed.manifest, status),),
        _wake(observed, position, (following.wake, retry), now),
        afterwards=probe_writes(observed, position),
    )


def _wake(observed: RolloutObserved, position: Position, given: tuple[float | None, ...], now: float) -> float | None:
    """The earliest moment that may bring something by itself."""
    steady = observed.since(ConditionType.CANDIDATE_READY, "True")
    ahead = [*given, scale_down_at(observed, position), None if steady is None else steady + STEADY_SECONDS]
    return min((m for m in ahead if m is not None and m > now), default=None)


# --- the route ------------------------------------------------------------------------------------------------------


def _route(
    observed: RolloutObserved, position: Position, now: float, *, still: bool
) -> tuple[Shape | None, Apply | None, float | None]:
    """The route as it should be, the write that makes it so, and when to put back what may not be put back yet.

    `still`: in doubt, or paused by a human.
    """
    if not observed.gateway_api or (position.stage == "pending" and blocked(observed) is not None):
        return None, None, None
    if position.step is None and position.stage == "back" and (observed.route is None or not observed.route.mine):
        return None, None, None  # it ended before it began
    shape = target(observed, position, now, still=still)
    if shape is None:
        return None, None, None
    there = observed.route
    name = observed.wanted_name if there is None else there.name
    write = Apply(route_manifest(observed.manifest, observed.spec, name, shape), "sartor-rollout")
    if there is None or _urgent(observed, position, shape):
        return shape, write, None
    if not there.touched:
        as_wanted = there.mine and there.shape == shape and not there.outdated
        return shape, None if as_wanted else write, None
    wait = _quiet_until(observed)
    if wait is None or now >= wait or wait - now > QUIET_SECONDS:  # (the clock went back)
        return shape, write, None
    return shape, None, wait


def _urgent(observed: RolloutObserved, position: Position, shape: Shape) -> bool:
    """Traffic goes to an arm that must not have it: that is put right whoever did it, and as often as it takes."""
    there = observed.route
    assert there is not None
    back = position.stage == "back"
    if there.weights is None:
        return back
    lost = (not observed.baseline.alive and there.weights.baseline > shape.baseline) or (
        not observed.candidate.can_take(there.weights.candidate) and there.weights.candidate > shape.candidate
    )
    return lost or (back and there.weights.candidate > shape.candidate)


def _quiet_until(observed: RolloutObserved) -> float | None:
    """Until when another change of the route is left alone: the time of the last trouble is that of the condition."""
    found = observed.condition(ConditionType.ROUTE_ACCEPTED)
    return None if found is None else found.last_transition_time.timestamp() + QUIET_SECONDS


# --- the end --------------------------------------------------------------------------------------------------------


def _held(observed: RolloutObserved) -> bool:
    return FINALIZER in (observed.manifest["metadata"].get("finalizers") or ())


def _finalizer(observed: RolloutObserved, *, present: bool) -> Apply:
    meta = observed.manifest["metadata"]
    return Apply(
        {
            "apiVersion": ROLLOUT.api_version,
            "kind": ROLLOUT.kind,
            "metadata": {
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": names.uid(observed.manifest),
                "finalizers": [FINALIZER] if present else [],
            },
        },
        "sartor-rollout-finalizer",
    )


def _at_rest(observed: RolloutObserved) -> Decision:
    """It ended: the route is somebody else's by now, or stays as it is. Only what was seen of the spec is kept up."""
    actions = (_finalizer(observed, present=False),) if _held(observed) else ()
    left = probe_writes(observed, observed.position)
    if observed.before.observed_generation == observed.generation:
        return Decision(actions, afterwards=left)
    status = observed.before.model_copy(update={"observed_generation": observed.generation})
    return Decision(actions, (StatusOf(ROLLOUT, observed.manifest, status),), afterwards=left)


def _farewell(observed: RolloutObserved, since: float, now: float) -> Decision:
    """It is being deleted: traffic goes back to the baseline, within the time that the policy gives an arm to get ready.

    After that time what has traffic keeps it: a rollout that cannot be deleted would help nobody.
    """
    if not _held(observed):
        return Decision()
    gone = Decision((_finalizer(observed, present=False),))
    route, position = observed.route, observed.position
    ours = route is not None and (route.mine or route.touched)
    deadline = since + observed.policy.progress_deadline.seconds
    if position.stage == "over" or not observed.gateway_api or not ours or now >= deadline:
        return gone
    if position.stage != "back":
        # Also where no step has begun: a route of ours may have been changed by somebody else.
        position = replace(position.back("Deleted", "the rollout is deleted"), step=position.step or 1)
    shape, write, _ = _route(observed, position, now, still=False)
    if shape is not None and shape.candidate == 0 and settled(observed, shape):
        return gone
    sized = scaling(observed, position, now)
    return Decision(tuple(a for a in (write, sized) if a is not None), wake_at=min(deadline, now + QUIET_SECONDS))
