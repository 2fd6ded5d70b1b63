"""What must hold at every instant, written down apart from the code that is to keep it. Tests call these after every write.

Each function gets what the operator had observed when it decided, and what is written, and returns the sentences that are
broken by it: none, if all is well. Nothing here uses `weights`, `doubt`, `progress`, `scaling` or `control`.
"""

from collections.abc import Sequence
from itertools import pairwise

from sartor_api.conditions import ConditionType, Reason
from sartor_api.serving_rollout import RolloutPhase, ServingRolloutStatus
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.route import Weights

_BACK = (RolloutPhase.ROLLING_BACK, RolloutPhase.ROLLED_BACK)
_AMONG_STEPS = (RolloutPhase.PROGRESSING, RolloutPhase.PAUSED, RolloutPhase.FROZEN)


def broken_weights(total: int, weights: Weights | None) -> list[str]:
    """Of any route of ours: two arms, 100 per cent. `total` is the plain sum of the weights in the manifest."""
    broken = [] if total == 100 else [f"weights sum to {total}, not to 100"]
    if weights is None:
        return [*broken, "the route gives traffic to something that is no arm"]
    if min(weights.baseline, weights.candidate) < 0:
        broken.append("a weight is negative")
    return broken


def broken_route(observed: RolloutObserved, weights: Weights, now: float) -> list[str]:
    """Of one write of the route."""
    broken: list[str] = []
    baseline, candidate = observed.baseline, observed.candidate
    for arm, seen, weight in (("baseline", baseline, weights.baseline), ("candidate", candidate, weights.candidate)):
        if weight > 0 and not seen.alive and (baseline.alive or candidate.alive):
            broken.append(f"the {arm} gets {weight} % and has nothing ready")
    if (weights.baseline > 0 and not baseline.ready and candidate.ready) or (
        weights.candidate > 0 and not candidate.ready and baseline.ready
    ):
        broken.append("an arm with nothing ready gets traffic, and the other one is only suspected to be out")
    before = observed.before
    has = observed.route.weights if observed.route is not None else None
    if has is None:  # traffic goes nowhere; where the baseline cannot take it all it goes where it went
        small = before.promoted_at is not None or not baseline.can_take(100)
        has = Weights(before.baseline.wanted_weight, before.candidate.wanted_weight) if small else Weights(0, 0)
    if weights.candidate > has.candidate and baseline.alive:
        broken += _broken_rise(observed, weights.candidate, now)
    elif weights.candidate > has.candidate and baseline.ready and _suspect(observed) != "baseline":
        broken.append(f"the candidate gets {weights.candidate} % by a suspicion that is not to be believed")
    if before.promoted_at is not None and weights.baseline > max(has.baseline, baseline.share) and candidate.alive:
        broken.append(
            f"after the promotion the baseline gets {weights.baseline} % and has capacity for {baseline.share} %"
        )
    return broken


def _broken_rise(observed: RolloutObserved, share: int, now: float) -> list[str]:
    """The candidate gets more, while the baseline is alive: only by what is stored, and only without doubt."""
    before, route, broken = observed.before, observed.route, list[str]()
    put_back = route is not None and route.touched and share <= before.candidate.wanted_weight
    if observed.spec.control.abort:
        broken.append(f"the candidate gets {share} % although a human aborted the rollout")
    if before.phase in _BACK or before.finished_at is not None or observed.deleting_since is not None:
        broken.append(f"the candidate gets {share} % on the way back")
    if not observed.candidate.can_take(share):
        broken.append(f"the candidate gets {share} % and has capacity for {observed.candidate.share} %")
    if before.phase in _AMONG_STEPS:
        most = max((s.weight or 0 for s in observed.policy.steps[: before.step or 0]), default=0)
        if share > most:
            broken.append(f"the candidate gets {share} %, and step {before.step} allows {most} %")
    elif before.phase not in (RolloutPhase.PROMOTING, RolloutPhase.PROMOTED):
        broken.append(f"the candidate gets {share} % before the first step")
    if before.promoted_at is None and not put_back:
        if not observed.baseline.can_take(100):
            broken.append("the candidate gets more while the baseline could not take everything")
        if before.frozen_since is not None:
            broken.append("the candidate gets more during a freeze")
        if observed.spec.control.pause:
            broken.append("the candidate gets more during a pause")
        started = before.step_started_at
        if started is not None and started.timestamp() > now + 1:
            broken.append("the candidate gets more although the clock went back")
        if before.phase in _AMONG_STEPS and not _at_pause(observed) and _said(observed) == "error":
            broken.append("the candidate gets more although the verdict is an error")
    return broken


def _suspect(observed: RolloutObserved) -> str:
    """The arm whose outage has to take its traffic away: among the steps, where nobody wants it back, the other one has
    ready capacity for everything, and the candidate has a share anyway."""
    if observed.outage is None or observed.spec.control.abort or observed.deleting_since is not None:
        return ""
    before, steps = observed.before, observed.policy.steps[: observed.before.step or 0]
    promoting = before.phase is RolloutPhase.PROMOTING and not observed.spec.control.undo
    if before.phase not in _AMONG_STEPS and not promoting:
        return ""
    if observed.outage.arm == "candidate":
        return "candidate" if observed.baseline.can_take(100) else ""
    shared = promoting or any(step.weight for step in steps)
    return "baseline" if shared and observed.candidate.can_take(100) else ""


def _at_pause(observed: RolloutObserved) -> bool:
    """A pause has no verdict of its own."""
    steps, number = observed.policy.steps, observed.before.step or 1
    return steps[min(number, len(steps)) - 1].pause is not None


def _said(observed: RolloutObserved) -> str:
    """The verdict on the step under way; empty without one that is younger than the step."""
    verdict, started = observed.reading.verdict, observed.before.step_started_at
    if verdict is None or started is None or verdict.at.timestamp() < started.timestamp() + 1:
        return ""
    return verdict.outcome


def broken_copies(observed: RolloutObserved, services: Sequence[str]) -> list[str]:
    """Of one write of the route: `services` get copies of its requests."""
    broken: list[str] = []
    before, probe = observed.before, observed.probe
    back = observed.spec.control.abort or observed.deleting_since is not None
    for service in services:
        if back or before.phase not in _AMONG_STEPS:
            broken.append(f"copies go to {service} outside of the steps")
        if not (observed.baseline.alive and observed.candidate.alive):
            broken.append(f"copies go to {service} while an arm has nothing ready")
        if service == observed.spec.candidate.service:
            if probe is not None and probe.wanted:
                broken.append("the candidate is mirrored to, and so is the probe that asks it")
        elif probe is None or service != probe.name or not probe.ready:
            broken.append(f"copies go to {service}, which takes none")
    return broken


def broken_probe_end(name: str, services: Sequence[str]) -> list[str]:
    """The probe is deleted; `services` get copies of the requests of the route as it is."""
    return [f"{name} is deleted while copies go to it"] if name in services else []


def broken_scaling(observed: RolloutObserved, replicas: int, now: float) -> list[str]:
    """Of one write of the baseline's size."""
    there = observed.baseline.deployment
    if there is None or replicas >= there.replicas:
        return []
    broken: list[str] = []
    before = observed.before
    if before.phase is not RolloutPhase.PROMOTED or before.promoted_at is None:
        broken.append(f"the baseline shrinks to {replicas} and the promotion is not durable (phase {before.phase})")
    if observed.spec.control.abort or observed.spec.control.undo or observed.deleting_since is not None:
        broken.append("the baseline shrinks although it is wanted back")
    if (ready := observed.since(ConditionType.CANDIDATE_READY, "True")) is None or now - ready < (
        observed.policy.baseline_after_promotion.scale_down_after.seconds
    ):
        broken.append("the baseline shrinks although the candidate was away not long ago")
    if replicas < min(there.replicas, observed.policy.baseline_after_promotion.replicas):
        broken.append(f"the baseline shrinks to {replicas}, below its floor")
    return broken


def broken_status(observed: RolloutObserved, after: ServingRolloutStatus, now: float) -> list[str]:
    """Of one write of the status: where a rollout may go from where it stands."""
    before, broken = observed.before, list[str]()
    route = observed.route
    accepted = route is not None and route.mine and not route.touched and route.accepted
    weights = route.weights if route is not None else None
    if before.phase in _BACK and after.phase not in _BACK:
        broken.append(f"{before.phase} leads to {after.phase}")
    if before.finished_at is not None and after.phase is not before.phase:
        broken.append("what has ended goes on")
    if (
        after.phase is RolloutPhase.ROLLED_BACK
        and before.step is not None
        and not (accepted and weights == Weights(100, 0))
    ):
        broken.append("rolled back, and the Gateway has not accepted that everything goes to the baseline")
    if after.phase is RolloutPhase.PROMOTED and before.phase is not RolloutPhase.PROMOTED:
        if before.phase is not RolloutPhase.PROMOTING:
            broken.append(f"{before.phase} leads to Promoted")
        if not (accepted and weights == Weights(0, 100)):
            broken.append("promoted, and the Gateway has not accepted that everything goes to the candidate")
        if not observed.candidate.can_take(100):
            broken.append("promoted, and the candidate has no capacity for everything")
    if observed.rejected_by and before.step is None and after.step is not None:
        broken.append("bytes that were rolled back are tried again")
    broken += _broken_restart(observed, after, now)
    moved = (after.step or 0) > (before.step or 0) or (
        after.phase is RolloutPhase.PROMOTING and before.phase is not RolloutPhase.PROMOTING
    )
    if moved:
        broken += _broken_step(observed, now, accepted=accepted)
    if before.phase in _AMONG_STEPS and _said(observed) == "fail" and after.phase not in _BACK:
        broken.append("the verdict on this step fails, and the rollout goes on")
    return broken


def _broken_restart(observed: RolloutObserved, after: ServingRolloutStatus, now: float) -> list[str]:
    """A step that is under way begins again only where its weights were others, or its samples are void."""
    before, route = observed.before, observed.route
    started = before.step_started_at
    among = before.phase in _AMONG_STEPS and after.phase in _AMONG_STEPS
    if not among or started is None or before.step != after.step or started == after.step_started_at:
        return []
    steps = observed.policy.steps[: before.step or 0]
    weight = max((s.weight or 0 for s in steps), default=0)
    arms = observed.baseline.alive and observed.candidate.can_take(max(1, weight)) and not observed.candidate.missing
    ours = route is not None and route.mine and not route.touched
    as_it_was = ours and route is not None and route.weights == Weights(100 - weight, weight)
    mirrored = any(s.mirror is not None for s in steps) and (observed.probe is None or not observed.probe.wanted)
    ahead = any(t is not None and t.timestamp() > now for t in (started, before.frozen_since))
    away = (Reason.CANDIDATE_NOT_READY.value, Reason.CANDIDATE_UNREACHABLE.value)
    void = ahead or observed.frozen_for in away
    if not (arms and as_it_was) or mirrored or void:
        return []
    return [f"step {before.step} begins again, and its weights were never others"]


def _broken_step(observed: RolloutObserved, now: float, *, accepted: bool) -> list[str]:
    """A step was left: its weights were accepted, its time is over and its verdict a pass, or a human said so."""
    before, control = observed.before, observed.spec.control
    if before.step is None:
        return [] if accepted else ["the first step begins, and the Gateway has not accepted the route"]
    broken: list[str] = []
    if not observed.baseline.can_take(100):
        broken.append(f"step {before.step} is left while the baseline could not take everything")
    if control.promote or control.skip_to_step is not None:
        return broken
    steps = observed.policy.steps
    step = steps[min(before.step, len(steps)) - 1]
    if not accepted:
        broken.append(f"step {before.step} is left, and the Gateway has not accepted its weights")
    if before.step_started_at is None:
        return [*broken, f"step {before.step} is left before it began"]
    started = before.step_started_at.timestamp()
    least = step.pause.duration if step.pause is not None else step.hold
    if least is None and step.pause is not None:
        broken.append(f"step {before.step} is a pause for a human, and it is left without one")
    if least is not None and now - started < least.seconds:
        broken.append(f"step {before.step} is left before its time")
    verdict = observed.reading.verdict
    if step.pause is None and (verdict is None or verdict.outcome != "pass" or verdict.at.timestamp() < started):
        said = "none" if verdict is None else f"{verdict.outcome} of {verdict.at}"
        broken.append(
            f"step {before.step} is left, and its verdict is no pass on it ({said}, begun {before.step_started_at})"
        )
    return broken


def broken_end(observed: RolloutObserved, weights: Weights | None) -> list[str]:
    """Of a whole look, when all its writes are done: what was not allowed to wait."""
    if observed.route is None or not observed.route.mine or weights is None or observed.before.finished_at is not None:
        return []
    broken: list[str] = []
    baseline, candidate, before = observed.baseline, observed.candidate, observed.before
    begun = before.phase not in (None, RolloutPhase.PENDING, RolloutPhase.FAILED)
    if weights.candidate > 0 and not candidate.ready and baseline.ready:
        broken.append(f"the candidate is lost and keeps {weights.candidate} %")
    if candidate.alive and weights.candidate > candidate.share and baseline.share >= 100 - candidate.share:
        broken.append(f"the candidate keeps {weights.candidate} % and has capacity for {candidate.share} %")
    if weights.baseline > 0 and not baseline.ready and candidate.ready and begun:
        broken.append(f"the baseline is lost and keeps {weights.baseline} %")
    match _suspect(observed):
        case "candidate" if weights.candidate > 0:
            broken.append(f"the gateway cannot connect to the candidate, and it keeps {weights.candidate} %")
        case "baseline" if weights.baseline > 0:
            broken.append(f"the gateway cannot connect to the baseline, and it keeps {weights.baseline} %")
        case _:
            pass
    back = observed.spec.control.abort or before.phase in _BACK
    room = 100 if before.promoted_at is None else baseline.share
    if back and begun and baseline.ready and weights.candidate > max(0, 100 - room):
        broken.append(f"back is wanted, and the candidate keeps {weights.candidate} %")
    return broken


def broken_farewell(observed: RolloutObserved, now: float) -> list[str]:
    """The finalizer is taken away: the traffic is back, or the time for that is over."""
    route, since = observed.route, observed.deleting_since
    if since is None:
        return [] if observed.before.finished_at is not None else ["a rollout that lives loses its finalizer"]
    ours = route is not None and (route.mine or route.touched)
    if not ours or not observed.gateway_api or observed.before.finished_at is not None:
        return []
    if route is not None and route.accepted and not route.touched and route.weights == Weights(100, 0):
        return []
    late = now - since >= observed.policy.progress_deadline.seconds
    return [] if late else ["the rollout goes, and traffic is not back at the baseline"]


def broken_fight(put_back_at: list[float], least: float) -> list[str]:
    """Times at which another's changes, that took traffic from no arm that needs it, were put back."""
    return [f"put back twice within {b - a:.0f} s" for a, b in pairwise(put_back_at) if 0 <= b - a < least]
