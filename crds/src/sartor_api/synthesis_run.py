"""`SynthesisRun`: one search. Made by the operator; its snapshot never changes."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.base import ApiModel, immutable
from sartor_api.fields import Commit, Count, Digest, ObjectReference, ShortText, Text
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.quantities import Duration
from sartor_api.serving_synthesis import (
    BaselineSummary,
    BestCandidate,
    PaybackSummary,
    ServingSynthesisSpec,
    Spent,
)


class RunCause(StrEnum):
    """Why a run was started."""

    CREATED = "Created"
    SPEC_CHANGED = "SpecChanged"
    MODEL_REVISION = "ModelRevision"
    BASELINE_VERSION = "BaselineVersion"
    DRIVER = "Driver"
    HARDWARE = "Hardware"
    DRIFT = "Drift"
    SKILLS = "Skills"
    MANUAL = "Manual"


class Environment(ApiModel):
    """What was found when the run began and stands in no spec. Found different later, it can start a re-synthesis."""

    product: ShortText | None = None
    """Product of the nodes, as the status of the HardwareTarget said it; absent while it was unknown."""
    driver_version: ShortText | None = None
    """Driver of the nodes, in the same way."""
    baseline_image: Annotated[str, Field(max_length=512)] | None = None
    """Image of the baseline's engine; the run uses it to its end."""
    request: ShortText = ""
    """Value of the annotation `sartor.dev/resynthesize` of the synthesis; another value asks for another run."""


class Snapshot(ApiModel):
    """The intent and what it referred to, as they were when the run began."""

    synthesis: ServingSynthesisSpec
    """The intent."""
    hardware: HardwareTargetSpec
    """The hardware."""
    agents: AgentProfileSpec = AgentProfileSpec()
    """The agents."""
    environment: Environment | None = None
    """What else was found."""


class RunControl(ApiModel):
    """What a human may ask of a run under way."""

    pause: bool = False
    """Stop after the step in flight and hold."""
    stop_after_round: bool = False
    """Finish the round, confirm the best, and end."""
    cancel: bool = False
    """End now, and keep the best so far unconfirmed."""
    message: Text = ""
    """A word to the planner; it reads it before its next plan."""


class SynthesisRunSpec(ApiModel):
    """One search."""

    synthesis_ref: ObjectReference
    """The ServingSynthesis and its generation."""
    cause: RunCause = RunCause.CREATED
    """Why it was started."""
    content_hash: Digest
    """Digest of the snapshot; a run with the same one is the same run."""
    snapshot: Snapshot
    """The intent as it was."""
    control: RunControl = RunControl()
    """What a human asks of it. The only part that may be changed."""

    transitions = tuple(
        immutable(field, "a run is a snapshot; change the ServingSynthesis, which starts a new run")
        for field in ("synthesisRef", "cause", "contentHash", "snapshot")
    )


class RunPhase(StrEnum):
    """Where a run stands."""

    PENDING = "Pending"
    BASELINE = "Baseline"
    ROUND = "Round"
    CONFIRMING = "Confirming"
    PAUSED = "Paused"
    SUCCEEDED = "Succeeded"
    NO_GAIN = "NoGain"
    CANCELLED = "Cancelled"
    FAILED = "Failed"


class StepInFlight(ApiModel):
    """The step that is under way."""

    id: ShortText
    """Its identity in the run's repository; a step is carried out once for it."""
    kind: Literal["tuneBaseline", "plan", "implement", "judge", "evaluate", "confirm"]
    """What it is."""
    round: Count | None = None
    """Its round."""
    attempt: Count = 1
    """Which attempt this is; those that failed for reasons outside the candidate do not count against it."""
    job: ShortText | None = None
    """Job that carries it out."""
    started_at: datetime | None = None
    """When it began."""
    deadline: datetime | None = None
    """When it is given up."""


class SynthesisRunStatus(ApiModel):
    """What is so. Everything large is in the run's repository."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    phase: RunPhase | None = None
    """Where it stands."""
    message: Text = ""
    """What happens now, or why nothing does."""
    conditions: Conditions = ()
    """Ready, Reconciling, Stalled and those of the domain."""
    repository: Annotated[str, Field(max_length=2048)] = ""
    """Address of the run's repository."""
    head: Commit | None = None
    """Commit of its records."""
    round: Count = 0
    """Round that is under way."""
    step: StepInFlight | None = None
    """Step that is under way, the oldest of them."""
    beside: Annotated[tuple[StepInFlight, ...], Field(max_length=32)] = ()
    """Steps that are under way beside it (`spec.search.parallelism`)."""
    baseline: BaselineSummary | None = None
    """The baseline as measured."""
    best: BestCandidate | None = None
    """The best so far."""
    spent: Spent = Spent()
    """What was spent."""
    reserved: Spent = Spent()
    """What steps in flight may still spend."""
    payback: PaybackSummary | None = None
    """Whether it pays."""
    estimate: Duration | None = None
    """Time to the end, by what the steps took so far."""
    started_at: datetime | None = None
    """When it began."""
    finished_at: datetime | None = None
    """When it ended."""


class SynthesisRun(Resource):
    """One search: an immutable snapshot of the intent, what was spent, and the best so far."""

    naming: ClassVar[Naming] = Naming(
        plural="synthesisruns",
        short_name="srun",
        selectable=(".spec.synthesisRef.name",),
        columns=(
            Column(name="Phase", path=".status.phase", description="Where it stands."),
            Column(name="Round", path=".status.round", description="Round under way.", type="integer"),
            Column(name="Step", path=".status.step.kind", description="Step under way."),
            Column(name="Best", path=".status.best.name", description="Best candidate."),
            Column(name="Speedup", path=".status.best.speedup.text", description="Of the best, with interval."),
            Column(name="Cost", path=".status.spent.money.amount", description="Money spent."),
            Column(name="Cause", path=".spec.cause", description="Why it was started.", wide=True),
            Column(name="Message", path=".status.message", description="What happens now.", wide=True),
            AGE,
        ),
    )

    kind: Literal["SynthesisRun"] = "SynthesisRun"
    """Kind of the object."""
    spec: SynthesisRunSpec
    """One search."""
    status: SynthesisRunStatus | None = None
    """What is so. Written by the operator."""
