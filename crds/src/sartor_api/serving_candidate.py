"""`ServingCandidate`: one attempt. Made by the operator; small, since everything large is in the run's repository."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.base import ApiModel, immutable
from sartor_api.fields import Commit, Count, Digest, ListMap, ObjectReference, ShortText, Text
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.quantities import DecimalString
from sartor_api.serving_synthesis import Speedup, Spent

FailureClass = Literal["candidate", "infrastructure", "provider", "measurement"]


class Hypothesis(ApiModel):
    """What one attempt claims, so that it can be refuted."""

    summary: Text
    """What is changed, and why that should help."""
    active_evidence: Text = ""
    """What shows that the change is in use."""
    refuted_by: Text = ""
    """What would refute it."""
    forecast: DecimalString | None = None
    """Speed-up over its parent that the planner expects. It never decides anything."""
    recipes: Annotated[tuple[ShortText, ...], Field(max_length=32)] = ()
    """Recipes that it uses."""


class ServingCandidateSpec(ApiModel):
    """One attempt, fixed when it is planned."""

    run_ref: ObjectReference
    """The SynthesisRun."""
    round: Annotated[int, Field(ge=1, le=10_000)]
    """Its round."""
    parent: ShortText | None = None
    """Candidate that it starts from; none for the first."""
    branch: ShortText
    """Its branch in the run's repository."""
    hypothesis: Hypothesis
    """What it claims."""

    transitions = tuple(
        immutable(field, "it is a record; make a new candidate for a new attempt")
        for field in ("runRef", "round", "parent", "branch", "hypothesis")
    )


class CandidatePhase(StrEnum):
    """Where an attempt stands."""

    IMPLEMENTING = "Implementing"
    JUDGING = "Judging"
    EVALUATING = "Evaluating"
    KEPT = "Kept"
    DROPPED = "Dropped"
    REJECTED = "Rejected"
    FAILED = "Failed"


class GateVerdict(ApiModel):
    """What one gate said."""

    gate: ShortText
    """The gate."""
    passed: bool
    """Whether it passed."""
    reason: ShortText
    """Why, in one documented word."""
    message: Text = ""
    """Why, in a sentence."""
    failure_class: FailureClass | None = None
    """Whose failure it is; only the candidate's own costs it an attempt."""


class ServingCandidateStatus(ApiModel):
    """What is so."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    phase: CandidatePhase | None = None
    """Where it stands."""
    message: Text = ""
    """Why it was kept, dropped or rejected."""
    conditions: Conditions = ()
    """Ready when it has passed every gate."""
    commit: Commit | None = None
    """Its commit."""
    content_hash: Digest | None = None
    """Digest of the stack's files; verdicts and measurements are about exactly these."""
    attempts: Count = 0
    """Attempts of the implementer."""
    verdicts: Annotated[tuple[GateVerdict, ...], Field(max_length=32), ListMap(("gate",))] = ()
    """What the gates said."""
    speedup: Speedup | None = None
    """Over the baseline."""
    speedup_over_parent: Speedup | None = None
    """Over the candidate that it started from: what the hypothesis was worth."""
    spent: Spent | None = None
    """What it cost."""
    evidence: Commit | None = None
    """Commit with verdicts, raw samples and fingerprints."""
    finished_at: datetime | None = None
    """When it was decided."""


class ServingCandidate(Resource):
    """One attempt: hypothesis, commit, verdicts, numbers."""

    naming: ClassVar[Naming] = Naming(
        plural="servingcandidates",
        short_name="scand",
        selectable=(".spec.runRef.name",),
        columns=(
            Column(name="Round", path=".spec.round", description="Its round.", type="integer"),
            Column(name="Phase", path=".status.phase", description="Where it stands."),
            Column(name="Speedup", path=".status.speedup.text", description="Over the baseline, with interval."),
            Column(name="Hypothesis", path=".spec.hypothesis.summary", description="What it claims.", wide=True),
            Column(name="Commit", path=".status.commit", description="Its commit.", wide=True),
            Column(name="Message", path=".status.message", description="Why it was decided so.", wide=True),
            AGE,
        ),
    )

    kind: Literal["ServingCandidate"] = "ServingCandidate"
    """Kind of the object."""
    spec: ServingCandidateSpec
    """One attempt."""
    status: ServingCandidateStatus | None = None
    """What is so. Written by the operator."""
