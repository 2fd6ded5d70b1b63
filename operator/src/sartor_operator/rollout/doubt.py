"""When nothing can be known: reasons to stand still, each with a sentence. In doubt weights never rise.

A doubt about the world (route, clock, capacity) also stops a human's `promote` and `skipToStep`; one about samples does not:
who promotes by hand takes the place of the verdict. Nor does it lead out of a human's `pause`.
"""

from dataclasses import dataclass
from typing import Literal

from sartor_api.conditions import ConditionType, Reason
from sartor_api.serving_rollout import VerdictSummary
from sartor_operator.conditions import AnyReason
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position, step_of
from sartor_operator.times import format_time

ACCEPT_SECONDS = 30.0
"""How long a Gateway may take to say something of a route before its silence is a doubt."""
SAMPLES_SECONDS = 60.0
"""How long a step may be without a verdict, and how old a verdict may be."""
SKEW_SECONDS = 5.0
"""How far ahead of this clock a verdict's may be."""
STEADY_SECONDS = 15.0
"""How long a candidate has to be ready without a break before it gets (more) weight."""
CANDIDATE_AWAY = frozenset({Reason.CANDIDATE_NOT_READY.value, Reason.CANDIDATE_UNREACHABLE.value})
"""Freezes after which it has to show that it stays, and its step begins again."""


@dataclass(frozen=True)
class Doubt:
    """Why nothing moves. `message` says what would end it."""

    reason: AnyReason
    message: str
    about: Literal["world", "samples"] = "world"


def doubt_of(observed: RolloutObserved, position: Position, now: float) -> Doubt | None:
    """The first reason to stand still where traffic has begun to move, None without any."""
    if position.stage not in ("steps", "promoting"):
        return None
    return (
        clock_doubt(position, now)
        or route_doubt(observed, now)
        or baseline_doubt(observed)
        or candidate_doubt(observed, position, now)
        or samples_doubt(observed, position, now)
    )


def clock_doubt(position: Position, now: float) -> Doubt | None:
    """The clock went back: times of before are ahead of it. The step begins again at the clock as it is now."""
    ahead = [t for t in (position.step_started, position.frozen_since) if t is not None and t > now + 1.0]
    if not ahead:
        return None
    return Doubt(
        Reason.CLOCK_JUMPED,
        f"the clock is behind {format_time(max(ahead))}, which it has shown before; the step begins again",
    )


def route_doubt(observed: RolloutObserved, now: float) -> Doubt | None:
    """The route is not what was written, or its Gateways do not (yet) take it."""
    route = observed.route
    if not observed.gateway_api:
        return Doubt(Reason.FEATURE_MISSING, NO_GATEWAY_API)
    if route is None:
        return None  # it is made anew in this very look
    if route.touched:
        return Doubt(Reason.ROUTE_CONFLICT, f"somebody else changed HTTPRoute {route.name}; it is put back")
    if route.mine and route.acceptance == "refused":
        return Doubt(Reason.ROUTE_NOT_ACCEPTED, f"HTTPRoute {route.name}: {route.message}")
    waits = observed.since(ConditionType.ROUTE_ACCEPTED, "Unknown")
    if not route.accepted and waits is not None and now - waits >= ACCEPT_SECONDS:
        return Doubt(Reason.ROUTE_NOT_ACCEPTED, f"HTTPRoute {route.name}: {route.message} (since {format_time(waits)})")
    return None


NO_GATEWAY_API = (
    "the cluster does not know HTTPRoute (gateway.networking.k8s.io/v1); install the Gateway API's CRDs and an "
    "implementation of it"
)


def baseline_doubt(observed: RolloutObserved) -> Doubt | None:
    """The way back is not open."""
    arm = observed.baseline
    if arm.missing:
        return Doubt(Reason.BASELINE_NOT_READY, f"Deployment {arm.missing} of the baseline does not exist; create it")
    if not arm.there:
        service = observed.spec.baseline.service
        return Doubt(Reason.BASELINE_NOT_READY, f"Service {service} of the baseline does not exist; create it")
    if arm.can_take(100):
        return None
    if arm.unreachable:
        return Doubt(Reason.BASELINE_UNREACHABLE, f"the baseline: {arm.unreachable}")
    return Doubt(
        Reason.BASELINE_NOT_READY,
        f"the baseline could not take everything: {arm.ready} of {arm.needed(100)} replicas are ready",
    )


def candidate_doubt(observed: RolloutObserved, position: Position, now: float) -> Doubt | None:
    """The candidate cannot answer its share, or has just come back and has yet to show that it stays."""
    arm, share = observed.candidate, wanted_share(observed, position)
    if arm.missing:
        return Doubt(Reason.CANDIDATE_NOT_READY, f"Deployment {arm.missing} of the candidate does not exist; create it")
    if not arm.there:
        service = observed.spec.candidate.service
        return Doubt(Reason.CANDIDATE_NOT_READY, f"Service {service} of the candidate does not exist; create it")
    if arm.unreachable:
        return Doubt(Reason.CANDIDATE_UNREACHABLE, f"the candidate: {arm.unreachable}")
    if not arm.can_take(max(1, share)):
        text = f"{arm.ready} of the {arm.needed(max(1, share))} replicas that {share} per cent need are ready"
        return Doubt(Reason.CANDIDATE_NOT_READY, f"the candidate: {text}")
    if observed.frozen_for in CANDIDATE_AWAY and not steady(observed, now):
        return Doubt(
            Reason.CANDIDATE_NOT_READY, f"the candidate is ready again, for less than {STEADY_SECONDS:.0f} s yet"
        )
    return None


def wanted_share(observed: RolloutObserved, position: Position) -> int:
    """The candidate's per cent at this position, whatever there is capacity for."""
    if position.stage in ("promoting", "promoted"):
        return 100
    step = step_of(observed.policy, position.step) if position.stage == "steps" else None
    return 0 if step is None else step.weight


def steady(observed: RolloutObserved, now: float) -> bool:
    """Whether the candidate has been ready long enough. A crash loop is ready again and again, and never steady."""
    since = observed.since(ConditionType.CANDIDATE_READY, "True")
    return since is not None and now - since >= STEADY_SECONDS


def samples_doubt(observed: RolloutObserved, position: Position, now: float) -> Doubt | None:
    """The samples of a step that has begun say nothing that could be believed."""
    step = step_of(observed.policy, position.step)
    started = position.step_started
    if position.stage != "steps" or step is None or step.kind == "pause" or started is None:
        return None
    reading = observed.reading
    verdict = about_this_step(observed, position)
    if verdict is None:
        if reading.message:
            return Doubt(reading.reason, reading.message, "samples")
        looked = max(started, reading.begun or started)
        if now - looked <= SAMPLES_SECONDS:
            return None
        return Doubt(Reason.NO_SAMPLES, f"no verdict on this step since {format_time(looked)}", "samples")
    at = verdict.at.timestamp()
    if at > now + SKEW_SECONDS:
        return Doubt(
            Reason.CLOCK_JUMPED, f"the newest verdict is from {format_time(at)}, ahead of this clock", "samples"
        )
    if verdict.outcome == "error":
        return Doubt(reading.reason, verdict.message or reading.message or "the verdict is an error", "samples")
    if now - at > SAMPLES_SECONDS:
        return Doubt(Reason.NO_SAMPLES, f"the newest verdict is from {format_time(at)}", "samples")
    return None


def about_this_step(observed: RolloutObserved, position: Position) -> VerdictSummary | None:
    """The newest verdict, if it was made after this step began; one on an earlier step says nothing here."""
    verdict, started = observed.reading.verdict, position.step_started
    if verdict is None or started is None or verdict.at.timestamp() < started + 1.0:
        return None  # times of a status are whole seconds
    return verdict
