"""The next position: a table of (where it stands, what holds) → (where it goes, why), in the order in which it is asked.

| stage | when | then |
|---|---|---|
| any but over | a human aborts; undoes a promotion; a newer rollout replaces it | back |
| pending | something is missing, or these bytes were rolled back before | stay, and say so |
| pending | both arms ready, the route accepted with everything on the baseline | step 1 |
| steps | the verdict on this step fails | back |
| steps, promoting | in doubt for longer than the freeze policy says, with `then: rollBack` | back |
| steps, promoting | in doubt, or paused by a human | stay |
| steps | the route is not accepted as this step wants it | stay; the step begins when it is |
| steps | time over and verdict a pass (a pause: time over); a human skips | next step |
| steps | the same at the last step, or a human promotes | promoting |
| promoting | everything accepted on the candidate, which has the capacity | promoted |
| promoted | a newer rollout starts from what was promoted here | over |
| back | everything accepted on the baseline | over |

A position is stored before anything follows from it that cannot be taken back.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sartor_api.conditions import ConditionType, Reason
from sartor_operator.conditions import AnyReason
from sartor_operator.rollout.control import Command, command_of, turns_back
from sartor_operator.rollout.doubt import (
    CANDIDATE_AWAY,
    NO_GATEWAY_API,
    STEADY_SECONDS,
    Doubt,
    about_this_step,
    baseline_doubt,
    steady,
)
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position, StepSeen, step_of
from sartor_operator.rollout.route import Shape, Weights
from sartor_operator.times import format_time

LOOK_SECONDS = 5.0
"""How often a step under way is looked at, when nothing else asks for it."""
ASK_SECONDS = 30.0
"""How often a Deployment that is not there is looked for: those of users are not watched."""

Mood = Literal["working", "held", "stalled", "done"]


@dataclass(frozen=True)
class Next:
    """The position that comes next, what to say of it, and when time alone brings the next one."""

    position: Position
    reason: AnyReason
    message: str
    mood: Mood = "working"
    paused: bool = False
    wake: float | None = None


def acting(observed: RolloutObserved) -> Position:
    """The position by which weights are chosen: as stored, except that a human's way back is taken at once."""
    position = observed.position
    command = command_of(observed.spec.control, position)
    if position.stage not in ("back", "over") and turns_back(command):
        return _turned_back(position, command)
    return position


def _turned_back(position: Position, command: Command) -> Position:
    why = "a human undid the promotion" if command == "undo" or position.promoted is not None else "a human aborted it"
    return position.back(Reason.CANCELLED.value, f"{why} (spec.control.{command})")


def settled(observed: RolloutObserved, shape: Shape | None) -> bool:
    """Whether the route is as it should be, and its Gateways took it in this generation."""
    route = observed.route
    return (
        shape is not None and route is not None and route.mine and not route.touched and route.accepted
        and route.shape == shape and route.weights == shape.weights
    )  # fmt: skip


def advance(observed: RolloutObserved, shape: Shape | None, doubt: Doubt | None, now: float) -> Next:
    """The next position. `shape` is what the route should be now, `doubt` why nothing may move."""
    position = acting(observed)
    if position.stage not in ("back", "over") and (replaced := _replaced(observed, position, now)) is not None:
        return replaced
    match position.stage:
        case "pending":
            return _pending(observed, position, shape, now)
        case "steps":
            return _steps(observed, position, shape, doubt, now)
        case "promoting":
            return _promoting(observed, position, shape, doubt, now)
        case "promoted":
            return _promoted(observed, position, now)
        case "back":
            return _back(observed, position, shape, now)
        case "over":
            return _over(position)


def _replaced(observed: RolloutObserved, position: Position, now: float) -> Next | None:
    new = observed.successor
    if new is None:
        return None
    moved = observed.route is not None and observed.route.weights == Weights(0, 100)
    if position.stage == "promoted" and new.takes_over and moved:
        text = f"ServingRollout {new.name} goes on from what was promoted here"
        return Next(replace(position, stage="over", finished=float(int(now)), handed_over=True, frozen_since=None),
                    Reason.SUPERSEDED, text, "done")  # fmt: skip
    return _turns(position, Reason.SUPERSEDED, f"ServingRollout {new.name} replaces it") if new.replaces else None


def _turns(position: Position, reason: AnyReason, why: str) -> Next:
    return Next(position.back(reason.value, why), reason, _BACK + why)


_BACK = "traffic goes back to the baseline: "


# --- before anything moves ------------------------------------------------------------------------------------------


def blocked(observed: RolloutObserved) -> Next | None:
    """Why it cannot begin, however ready everything is."""
    position, current = observed.position, observed.route.weights if observed.route is not None else None
    if not observed.gateway_api:
        return Next(position, Reason.FEATURE_MISSING, NO_GATEWAY_API, "stalled")
    if missing := observed.missing_features:
        text = f"the Gateway does not support {', '.join(missing)}; change spec.policy, or use another Gateway"
        return Next(position, Reason.FEATURE_MISSING, text, "stalled")
    if observed.rejected_by:
        text = (
            f"ServingRollout {observed.rejected_by} rolled these bytes back ({observed.spec.candidate.content_hash}); "
            "they are not tried again by themselves: delete that rollout to try them again"
        )
        return Next(position, Reason.CONTENT_REJECTED, text, "stalled")
    if observed.baseline_rejected_by and (current is None or current.baseline < 100):
        text = (
            f"ServingRollout {observed.baseline_rejected_by} rolled back the bytes that are the baseline here "
            f"({observed.spec.baseline.content_hash}), and they do not have the traffic; make a rollout from what serves"
        )
        return Next(position, Reason.CONTENT_REJECTED, text, "stalled")
    if observed.older:
        text = f"{observed.older} has the route; this rollout waits until that one has ended or is deleted"
        return Next(position, Reason.ROUTE_CONFLICT, text, "stalled")
    return None


def _pending(observed: RolloutObserved, position: Position, shape: Shape | None, now: float) -> Next:
    if (why := blocked(observed)) is not None:
        return why
    if observed.spec.control.pause:
        return Next(position, Reason.PAUSED, "spec.control.pause is true; nothing begins", "held", paused=True)
    waits = _waits(observed, shape, now)
    if waits is None:
        first = replace(position.at_step(1), frozen_since=None)
        return Next(first, Reason.PROGRESSING, f"step 1 of {len(observed.policy.steps)} begins")
    return _in_time(observed, waits, now, *_ARMS, _ROUTE)


_ARMS, _ROUTE = (ConditionType.BASELINE_READY, ConditionType.CANDIDATE_READY), ConditionType.ROUTE_ACCEPTED


_LATE = " (for longer than the progress deadline)"


def _in_time(observed: RolloutObserved, waits: Next, now: float, *kinds: ConditionType) -> Next:
    """Waiting is work until one of the conditions has not been true for the progress deadline; then somebody has to act."""
    late = [t for kind in kinds for s in ("False", "Unknown") if (t := observed.since(kind, s)) is not None]
    if not late:
        return waits
    ends = min(late) + observed.policy.progress_deadline.seconds
    if now > ends:
        return replace(waits, message=waits.message + _LATE, mood="stalled")
    return replace(waits, wake=_earliest(waits.wake, ends + 1))


def _waits(observed: RolloutObserved, shape: Shape | None, now: float) -> Next | None:
    """What is not there yet for the first step."""
    position = observed.position
    if (closed := baseline_doubt(observed)) is not None:
        again = now + ASK_SECONDS if observed.baseline.missing else None
        return Next(position, closed.reason, closed.message, wake=again)
    if observed.candidate.missing:
        text = f"Deployment {observed.candidate.missing} of the candidate does not exist; create it"
        return Next(position, Reason.CANDIDATE_NOT_READY, text, wake=now + ASK_SECONDS)
    first = step_of(observed.policy, 1)
    needed = observed.candidate.needed(max(1, first.weight if first is not None else 1))
    if observed.candidate.ready < needed:
        text = f"waiting for the candidate: {observed.candidate.ready} of {needed} replicas are ready"
        return Next(position, Reason.CANDIDATE_NOT_READY, text)
    if not settled(observed, shape):
        said = observed.route.message if observed.route is not None else "HTTPRoute is made"
        return Next(position, Reason.ROUTE_NOT_ACCEPTED, f"waiting for the Gateway: {said}")
    if not steady(observed, now):
        text = f"waiting until the candidate was ready for {STEADY_SECONDS:.0f} s"
        return Next(position, Reason.CANDIDATE_NOT_READY, text, wake=now + STEADY_SECONDS)
    return None


# --- step by step ---------------------------------------------------------------------------------------------------


def _steps(observed: RolloutObserved, position: Position, shape: Shape | None, doubt: Doubt | None, now: float) -> Next:
    step = step_of(observed.policy, position.step)
    assert step is not None, "a position among the steps has one"
    if (failed := _failed(observed, position)) is not None:
        return failed
    command = command_of(observed.spec.control, position)
    human = command in ("pause", "promote", "skip")  # takes the place of the verdict, but for one that fails
    if doubt is not None and not (human and doubt.about == "samples"):
        return _frozen(observed, position, doubt, now)
    position = replace(position, frozen_since=None)
    if command == "pause":
        text = f"spec.control.pause is true; step {step.number} stands still"
        return Next(_begun(observed, position, step, shape, now), Reason.PAUSED, text, "held", paused=True,
                    wake=now + LOOK_SECONDS)  # fmt: skip
    if command == "promote":
        return Next(_promotes(position), Reason.PROGRESSING, "a human promotes it (spec.control.promote)")
    if command == "skip":
        number = observed.spec.control.skip_to_step or step.number
        return Next(position.at_step(number), Reason.PROGRESSING, f"a human skips to step {number}")
    begun = _begun(observed, position, step, shape, now)
    where = f"step {step.number} of {len(observed.policy.steps)} ({_words(step)})"
    if begun.step_started is None or not settled(observed, shape):
        said = observed.route.message if observed.route is not None and not observed.route.accepted else ""
        text = f"{where}: waiting for its weights" + (f": {said}" if said else "")
        return Next(begun, Reason.PROGRESSING, text, wake=now + LOOK_SECONDS)
    if position.step_started is None:
        ends = None if step.hold is None else begun.step_started + step.hold + 1.0  # a verdict is younger than the step
        return Next(begun, Reason.PROGRESSING, f"{where} begins", wake=_earliest(now + LOOK_SECONDS, ends))
    return _under_way(observed, begun, step, where, begun.step_started, now)


def _begun(observed: RolloutObserved, position: Position, step: StepSeen, shape: Shape | None, now: float) -> Position:
    """The step begins when its weights are accepted, and begins again when they were others in between. Copies to the probe
    come and go with it, and begin nothing again."""
    as_wanted = shape is not None and shape.candidate == step.weight and shape.mirror == observed.mirror_of(step)
    if as_wanted and settled(observed, shape):
        started = position.step_started
        return replace(position, step_started=float(int(now)) if started is None else started)
    route = observed.route
    if not as_wanted or shape is None or route is None or route.touched or route.weights != shape.weights:
        return replace(position, step_started=None)
    return position


def _failed(observed: RolloutObserved, position: Position) -> Next | None:
    verdict = about_this_step(observed, position)
    if verdict is None or verdict.outcome != "fail":
        return None
    return _turns(position, Reason.GUARDRAIL_FAILED, f"step {position.step}: {verdict.message or 'a guardrail failed'}")


def _under_way(
    observed: RolloutObserved, position: Position, step: StepSeen, where: str, started: float, now: float
) -> Next:
    """A step whose weights are accepted: is its time over, and what do the samples say?"""
    elapsed = now - started
    ends = None if step.hold is None else started + step.hold
    wake = now + LOOK_SECONDS
    if step.kind == "pause":
        if ends is None:
            text = f"{where}: waiting for a human; go on with spec.control.skipToStep or promote"
            return Next(position, Reason.PAUSED, text, "held", paused=True, wake=wake)
        if not is_over(step, elapsed):
            return Next(
                position,
                Reason.PAUSED,
                f"{where}: until {format_time(ends)}",
                "held",
                paused=True,
                wake=_earliest(wake, ends),
            )
        return _passed(observed, position, step, f"{where}: its time is over")
    verdict = about_this_step(observed, position)
    outcome = verdict.outcome if verdict is not None else "inconclusive"
    if outcome == "pass" and is_over(step, elapsed):
        return _passed(observed, position, step, f"{where} passed")
    said = verdict.message if verdict is not None else "no verdict yet"
    if outcome == "pass" and ends is not None:
        text = f"{where}: passes so far, until {format_time(ends)}"
        return Next(position, Reason.PROGRESSING, text, wake=_earliest(wake, ends))
    if elapsed >= observed.policy.analysis.inconclusive_after.seconds:
        text = (
            f"{where}: undecided since {format_time(started)} ({said}); wait for more traffic, skip, promote or abort"
        )
        return Next(position, Reason.INCONCLUSIVE, text, "held", paused=True, wake=wake)
    return Next(position, Reason.PROGRESSING, f"{where}: {said}", wake=wake)


def is_over(step: StepSeen, elapsed: float) -> bool:
    """Whether a step's least time is over; that of a stop without end never is."""
    return step.hold is not None and elapsed >= step.hold


def _passed(observed: RolloutObserved, position: Position, step: StepSeen, why: str) -> Next:
    if step.number < len(observed.policy.steps):
        return Next(position.at_step(step.number + 1), Reason.PROGRESSING, f"{why}; step {step.number + 1} is next")
    if observed.policy.promotion == "automatic":
        return Next(_promotes(position), Reason.PROGRESSING, f"{why}; the candidate is promoted")
    text = f"{why}; promote to go on (spec.control.promote)"
    return Next(position, Reason.AWAITING_PROMOTION, text, "held", paused=True)


def _promotes(position: Position) -> Position:
    return replace(position, stage="promoting", step_started=None, frozen_since=None)


def _words(step: StepSeen) -> str:
    return {
        "mirror": f"mirror {step.mirror} %",
        "headerOptIn": "opt-in by header",
        "weight": f"weight {step.weight} %",
        "pause": "pause",
    }[step.kind]


def _frozen(observed: RolloutObserved, position: Position, doubt: Doubt, now: float) -> Next:
    """Stand still, for as long as the freeze policy says."""
    policy, since = observed.policy.freeze, position.frozen_since
    if since is None or since > now:
        since = float(int(now))
    started = position.step_started
    if doubt.about == "world" and doubt.reason in (Reason.CLOCK_JUMPED, *CANDIDATE_AWAY):
        started = None  # its samples are void: the step begins again
    stands = replace(position, frozen_since=since, step_started=started)
    if policy.then == "rollBack" and now - since >= policy.for_.seconds:
        return _turns(position, doubt.reason, f"frozen since {format_time(since)}: {doubt.message}")
    stuck = now - since >= observed.policy.progress_deadline.seconds
    end = since + policy.for_.seconds if policy.then == "rollBack" else None
    wake = _earliest(now + LOOK_SECONDS, end)
    return Next(stands, doubt.reason, f"frozen: {doubt.message}", "stalled" if stuck else "working", wake=wake)


# --- promotion, and the way back ------------------------------------------------------------------------------------


def _promoting(
    observed: RolloutObserved, position: Position, shape: Shape | None, doubt: Doubt | None, now: float
) -> Next:
    if doubt is not None:
        return _frozen(observed, position, doubt, now)
    position = replace(position, frozen_since=None)
    if command_of(observed.spec.control, position) == "pause":
        return Next(
            position, Reason.PAUSED, "spec.control.pause is true; the promotion stands still", "held", paused=True
        )
    if shape is None or shape.candidate != 100 or not settled(observed, shape):
        return Next(position, Reason.PROGRESSING, "all traffic moves to the candidate", wake=now + LOOK_SECONDS)
    done = replace(position, stage="promoted", promoted=float(int(now)))
    return Next(done, Reason.PROMOTED, "all traffic is on the candidate", "done")


def _promoted(observed: RolloutObserved, position: Position, now: float) -> Next:
    candidate = observed.candidate
    share = observed.route.weights.candidate if observed.route is not None and observed.route.weights is not None else 0
    if candidate.can_take(100) and share == 100:
        return Next(position, Reason.PROMOTED, "all traffic is on the candidate", "done")
    text = (
        f"the candidate was promoted, and {candidate.ready} of {candidate.needed(100)} replicas are ready: the baseline is "
        f"brought back and takes what it can ({100 - share} % now)"
    )
    return Next(position, Reason.CANDIDATE_NOT_READY, text, wake=now + LOOK_SECONDS)


def _back(observed: RolloutObserved, position: Position, shape: Shape | None, now: float) -> Next:
    reason = Reason(position.cause) if position.cause in set(Reason) else Reason.ROLLED_BACK
    why = position.why.removeprefix(_BACK).removesuffix(_LATE)
    never = position.step is None and (observed.route is None or not observed.route.mine)
    if never or (shape is not None and shape.candidate == 0 and settled(observed, shape)):
        ended = replace(position, stage="over", finished=float(int(now)), cause=reason.value, why=why)
        return Next(ended, reason, f"all traffic is on the baseline: {why}", "stalled")
    moves = Next(position, reason, _BACK + why, wake=now + LOOK_SECONDS)
    return _in_time(observed, moves, now, _ARMS[0], _ROUTE)


def _over(position: Position) -> Next:
    reason = Reason(position.cause) if position.cause in set(Reason) else Reason.ROLLED_BACK
    return Next(position, reason, position.why, "done" if position.handed_over else "stalled")


def _earliest(*moments: float | None) -> float | None:
    return min((m for m in moments if m is not None), default=None)
