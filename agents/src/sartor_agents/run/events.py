"""What a run tells while it goes on: typed events, for the terminal, for machines (one JSON line each) and for the log."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sartor_api.search.records import FailureClass, Outcome, Speedup, StepKind


class _Event(BaseModel):
    """`at` is Unix time; `eta_seconds` is what is left at most, `left_seconds` the wall clock left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float


class Budgeted(BaseModel):
    """One budget: what was spent, what steps in flight may use at most, the limit (None: none). Accelerator time in s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    spent: float
    reserved: float
    limit: float | None
    unit: str


class PastRound(BaseModel):
    """A round of an earlier session, for whoever sees only this one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    hypothesis: str
    kept: bool
    speedup: Speedup | None
    failure: str = Field(description="why it has no measurement, as far as it is the candidate's fault")


class Started(_Event):
    """`past` and `best` tell what earlier sessions of a resumed run found."""

    event: Literal["started"] = "started"
    name: str
    scenario: str
    run: str
    resumed: bool
    rounds: int
    eta_seconds: float
    left_seconds: float
    step_seconds: dict[StepKind, float] = Field(description="what each kind of step is expected to take")
    past: tuple[PastRound, ...] = ()
    best: Speedup | None = None


class StepStarted(_Event):
    event: Literal["step-started"] = "step-started"
    id: str
    step: StepKind
    round: int
    attempt: int
    reason: str
    expected_seconds: float
    eta_seconds: float
    left_seconds: float
    budgets: tuple[Budgeted, ...] = ()


class Progress(_Event):
    """Something within a step: a gate that passed, a pair of windows, a setting of the grid."""

    event: Literal["progress"] = "progress"
    id: str
    step: StepKind
    round: int
    message: str


class Planned(_Event):
    event: Literal["planned"] = "planned"
    round: int
    action: str
    hypothesis: str
    forecast_speedup: float | None


class Judged(_Event):
    event: Literal["judged"] = "judged"
    round: int
    gate: str
    passed: bool
    reason: str
    message: str


class Measured(_Event):
    event: Literal["measured"] = "measured"
    round: int
    speedup: Speedup
    confirmation: bool


class StepEnded(_Event):
    """`failure_class` is None for a step that gave what it should."""

    event: Literal["step-ended"] = "step-ended"
    id: str
    step: StepKind
    round: int
    seconds: float
    failure_class: FailureClass | None = None
    reason: str = ""
    message: str = ""


class RoundClosed(_Event):
    event: Literal["round"] = "round"
    round: int
    kept: bool
    speedup: Speedup | None
    best_round: int | None
    best_speedup: Speedup | None
    eta_seconds: float
    left_seconds: float
    budgets: tuple[Budgeted, ...] = ()


class Waiting(_Event):
    event: Literal["waiting"] = "waiting"
    seconds: float
    reason: str


class Payback(_Event):
    """Whether the search pays; `ends` when it cannot, and the manifest wants no search that cannot."""

    event: Literal["payback"] = "payback"
    message: str
    ends: bool = False


class FinishedSpeedup(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    n: int


class RunFinished(_Event):
    """The last event. `stack` is the winner's folder and `evidence` its bundle, None without one."""

    event: Literal["finished"] = "finished"
    outcome: Outcome
    reason: str
    message: str
    speedup: FinishedSpeedup | None
    stack: str | None
    evidence: str | None = None
    report: str | None
    seconds: float


class Interrupted(_Event):
    """The last event of a session that was stopped; the run can go on with --resume."""

    event: Literal["interrupted"] = "interrupted"
    run: str


Event = Annotated[
    Started
    | StepStarted
    | Progress
    | Planned
    | Judged
    | Measured
    | StepEnded
    | RoundClosed
    | Waiting
    | Payback
    | RunFinished
    | Interrupted,
    Field(discriminator="event"),
]
