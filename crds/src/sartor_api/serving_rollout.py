"""`ServingRollout`: moves live traffic from one Service to another. Made by the operator, or by hand for any two."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule, immutable
from sartor_api.fields import Count, Digest, Label, ListMap, ObjectReference, Percent, ShortText, Text
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.objective import GuardrailMetric, Guardrails
from sartor_api.quantities import DecimalString
from sartor_api.rollout_policy import RolloutPolicy


class Arm(ApiModel):
    """One side of a rollout."""

    service: Label
    """Name of the Service, in the same namespace."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Its port."""
    deployment: Label | None = None
    """Deployment behind it, if Sartor may scale it; otherwise its size is left alone."""
    content_hash: Digest | None = None
    """Digest of what it serves. A rolled-back digest is not tried again; without one the rollout is."""

    transitions = tuple(
        immutable(field, "what a verdict is about must not change under it; make a new ServingRollout")
        for field in ("service", "port", "contentHash")
    )


class RolloutControl(ApiModel):
    """What a human asks of a rollout; each field is a plain patch. The strongest one wins: abort, pause, promote."""

    pause: bool = False
    """Freeze the weights where they are. `false` goes on."""
    promote: bool = False
    """Skip the steps that are left: all traffic to the candidate, once it has the capacity."""
    abort: bool = False
    """Give all traffic back to the baseline at once, and end as rolled back. `false` afterwards does not undo it."""
    undo: bool = False
    """After a promotion: return to the baseline, step by step as fast as its capacity allows."""
    skip_to_step: Annotated[int, Field(ge=1, le=32)] | None = None
    """Go on from this step (from 1) once the current one is safe to leave."""

    rules = (
        Rule(
            cel="!(self.promote && self.abort)",
            message="promote and abort contradict each other; set one of them to false",
            holds=lambda control: not (control.promote and control.abort),
        ),
        Rule(
            cel="!(self.promote && self.undo)",
            message="promote and undo contradict each other; set one of them to false",
            holds=lambda control: not (control.promote and control.undo),
        ),
    )


class ServingRolloutSpec(ApiModel):
    """Two arms, and the way from one to the other."""

    baseline: Arm
    """Serves today, and stays the way back."""
    candidate: Arm
    """Is to take over."""
    run_ref: ObjectReference | None = None
    """SynthesisRun that the candidate comes from; absent for a rollout made by hand."""
    policy: RolloutPolicy
    """How traffic moves."""
    guardrails: Guardrails = ()
    """Bounds that the candidate must keep; without any the defaults of ServingSynthesis hold."""
    control: RolloutControl = RolloutControl()
    """What a human asks of it."""

    rules = (
        Rule(
            cel="has(self.policy.parentRefs)",
            message="a rollout needs a Gateway to move traffic in; set policy.parentRefs",
            holds=lambda spec: spec.policy.parent_refs is not None,
            field=".policy.parentRefs",
        ),
        Rule(
            cel="self.baseline.service != self.candidate.service",
            message="baseline and candidate are the same Service; name two",
            holds=lambda spec: spec.baseline.service != spec.candidate.service,
            field=".candidate.service",
        ),
        Rule(
            cel="!has(self.control.skipToStep) || self.control.skipToStep <= size(self.policy.steps)",
            message="skipToStep is beyond the last step; name one of policy.steps, counted from 1",
            holds=lambda spec: spec.control.skip_to_step is None or spec.control.skip_to_step <= len(spec.policy.steps),
            field=".control.skipToStep",
        ),
    )


class RolloutPhase(StrEnum):
    """Where a rollout stands."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    FROZEN = "Frozen"
    PROMOTING = "Promoting"
    PROMOTED = "Promoted"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    FAILED = "Failed"


class ArmStatus(ApiModel):
    """One side, as it is."""

    weight: Percent = 0
    """Per cent of the traffic that the route gives it, as the Gateway accepted it."""
    wanted_weight: Percent = 0
    """Per cent that it is to get."""
    ready_replicas: Count = 0
    """Replicas that are ready."""
    samples: Count = 0
    """Requests seen in this step."""
    errors: Count = 0
    """Of those, failed."""
    handovers: Count = 0
    """Of those, handed over to the baseline."""


class GuardrailState(ApiModel):
    """One guardrail in this step."""

    metric: GuardrailMetric
    """What is bounded."""
    outcome: Literal["pass", "fail", "inconclusive", "error"]
    """How it stands."""
    baseline: DecimalString | None = None
    """The baseline's value (seconds, fraction or plain)."""
    candidate: DecimalString | None = None
    """The candidate's value."""
    source: ShortText = ""
    """Where the samples come from, with their resolution."""
    message: Text = ""
    """Why."""


class VerdictSummary(ApiModel):
    """What the samples of this step say."""

    outcome: Literal["pass", "fail", "inconclusive", "error"]
    """How the step stands."""
    message: Text = ""
    """Why."""
    at: datetime
    """When this was decided."""
    guardrails: Annotated[tuple[GuardrailState, ...], Field(max_length=16), ListMap(("metric",))] = ()
    """The guardrails one by one."""


class ServingRolloutStatus(ApiModel):
    """What is so."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    phase: RolloutPhase | None = None
    """Where it stands."""
    message: Text = ""
    """What happens now, or why nothing does."""
    conditions: Conditions = ()
    """Ready, Reconciling, Stalled, RouteAccepted, BaselineReady, CandidateReady, Frozen."""
    step: Count | None = None
    """Step under way, from 1."""
    step_started_at: datetime | None = None
    """When it began."""
    frozen_since: datetime | None = None
    """Since when nothing can be known."""
    baseline: ArmStatus = ArmStatus()
    """The baseline as it is."""
    candidate: ArmStatus = ArmStatus()
    """The candidate as it is."""
    verdict: VerdictSummary | None = None
    """What the samples of this step say."""
    route_generation: Count | None = None
    """Generation of the HTTPRoute that the Gateway accepted."""
    promoted_at: datetime | None = None
    """When all traffic had moved, for good."""
    finished_at: datetime | None = None
    """When it ended."""


class ServingRollout(Resource):
    """One stack against one baseline: steps, weights, verdicts."""

    naming: ClassVar[Naming] = Naming(
        plural="servingrollouts",
        short_name="sroll",
        columns=(
            Column(name="Phase", path=".status.phase", description="Where it stands."),
            Column(name="Step", path=".status.step", description="Step under way.", type="integer"),
            Column(
                name="Weight",
                path=".status.candidate.weight",
                description="Per cent on the candidate.",
                type="integer",
            ),
            Column(name="Verdict", path=".status.verdict.outcome", description="What the samples say."),
            Column(
                name="Samples",
                path=".status.candidate.samples",
                description="Requests of the candidate in this step.",
                type="integer",
            ),
            Column(name="Baseline", path=".spec.baseline.service", description="Its Service.", wide=True),
            Column(name="Candidate", path=".spec.candidate.service", description="Its Service.", wide=True),
            Column(name="Message", path=".status.message", description="What happens now.", wide=True),
            AGE,
        ),
    )

    kind: Literal["ServingRollout"] = "ServingRollout"
    """Kind of the object."""
    spec: ServingRolloutSpec
    """Two arms, and the way from one to the other."""
    status: ServingRolloutStatus | None = None
    """What is so. Written by the operator."""
