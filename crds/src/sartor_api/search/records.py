"""What a run writes down: one typed, immutable record for every step that was taken.

The records are the run's only memory. `fold` (in `state`) turns them into the state that `decide` looks at, the
report and the status of a custom resource are rendered from them, and a run that was killed goes on from them. So
they hold facts, never conclusions: which candidate is the best, whether a round counts, and what comes next are
derived.

Agents produce `Plan` and `Implementation`; only judge and evaluator produce `Judgement`, `Measurement` and `BaselineRecord`.

Units: seconds (also for points in time: Unix time), tokens, bytes. Durations of latencies are seconds.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sartor_api.search.base import Cost, FailureClass, Outcome, Record, StepKind, step_id
from sartor_api.search.directive import MOST_ISSUES, IssueDraft, Recipe
from sartor_api.search.intent import (
    DEFAULT_RETRIES,
    DEFAULT_STEPS,
    Budget,
    Envelope,
    GuardrailLimit,
    RetryPolicy,
    RunSpec,
    SearchPolicy,
    StepPolicy,
)
from sartor_api.search.measured import (
    ArmSummary,
    BaselineRecord,
    ConditionResult,
    GridPoint,
    Judgement,
    Measurement,
    Peak,
    SeedCommitment,
    Speedup,
    Verdict,
)

__all__ = [
    "DEFAULT_RETRIES",
    "DEFAULT_STEPS",
    "ArmSummary",
    "BaselineRecord",
    "Budget",
    "ConditionResult",
    "Cost",
    "Envelope",
    "FailureClass",
    "Finished",
    "GridPoint",
    "GuardrailLimit",
    "Implementation",
    "IssueDraft",
    "Judgement",
    "Measurement",
    "Outcome",
    "Peak",
    "Plan",
    "Recipe",
    "Record",
    "RetryPolicy",
    "RunSpec",
    "SearchPolicy",
    "SeedCommitment",
    "Speedup",
    "StepKind",
    "StepPolicy",
    "StepRecord",
    "StepResult",
    "Verdict",
    "step_id",
]


class Plan(Record):
    """One falsifiable hypothesis, or a way back, or the statement that nothing is left to try.

    `action`: `build` makes a candidate from `parent`; `return` makes `parent` the base of the next rounds and
    builds nothing; `stop` says that the planner has no hypothesis left (the reason stands in `hypothesis`), with a `parent`
    that it has none left on that commit. `parent` is the commit of an earlier candidate, or None for an empty stack.
    `partner` is the candidate that a recombination takes from. `issue` is the issue that is taken, `issues` are those that
    this plan opens and `withdrawn` those that are no longer worth a round.
    `forecast_speedup` (over the baseline) is what the planner expects; `threshold_speedup` is the value below which the
    hypothesis counts as refuted. Neither ever chooses anything.
    """

    kind: Literal["plan"] = "plan"
    round: int = Field(ge=1)
    action: Literal["build", "return", "stop"]
    parent: str | None = None
    hypothesis: str = Field(min_length=1)
    changes: tuple[str, ...] = ()
    evidence_active: str = ""
    refuted_by: str = ""
    forecast_speedup: float | None = Field(default=None, gt=0)
    threshold_speedup: float | None = Field(default=None, gt=0)
    recipes: tuple[Recipe, ...] = ()
    skills_consulted: tuple[str, ...] = ()
    partner: str | None = None
    issue: str | None = None
    issues: tuple[IssueDraft, ...] = Field(default=(), max_length=MOST_ISSUES)
    withdrawn: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.action == "return" and self.parent is None:
            raise ValueError("a plan that returns names the commit to return to in `parent`")
        return self


class Implementation(Record):
    """A candidate as it was committed.

    `commit` is on branch `candidate/NNN`; `content_hash` is the SHA-256 over the sorted files of `stack/`
    (see `sartor_agents.run.content`), the identity under which gates pass it. The driver sets both after checking
    the worktree; what an agent writes there is overwritten.
    """

    kind: Literal["implementation"] = "implementation"
    commit: str = ""
    content_hash: str = ""
    skills_used: tuple[str, ...] = ()
    summary: str = ""
    lines: int | None = Field(default=None, ge=0)


StepResult = Annotated[
    Plan | Implementation | Judgement | Measurement | BaselineRecord | Verdict, Field(discriminator="kind")
]
"""What a step gives back. A bare `Verdict` (never passed) means that the step itself failed."""


class StepRecord(Record):
    """One step that was carried out: the unit of commit, of resume and of retry.

    `id` names one execution of one step (`step_id`); two records with one id are the same record. `sequence` numbers the
    records of a run from 1 without gaps, so a lost record is noticed. `round` is 0 for baseline and confirmation,
    `attempt` counts the implementer's tries in a round (2 is the repair), for a confirmation the candidates that were tried.
    """

    id: str
    sequence: int = Field(ge=1)
    step: StepKind
    round: int = Field(ge=0)
    attempt: int = Field(default=1, ge=1)
    started: float
    finished: float
    cost: Cost = Cost()
    result: StepResult

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected: dict[StepKind, type[Record]] = {
            StepKind.BASELINE: BaselineRecord,
            StepKind.PLAN: Plan,
            StepKind.IMPLEMENT: Implementation,
            StepKind.JUDGE: Judgement,
            StepKind.EVALUATE: Measurement,
            StepKind.CONFIRM: Measurement,
        }
        if isinstance(self.result, Verdict):
            if self.result.passed:
                raise ValueError("a bare verdict records a failed step; a judge's result is a Judgement")
        elif not isinstance(self.result, expected[self.step]):
            raise ValueError(f"a {self.step} step cannot produce a {self.result.kind}")
        if isinstance(self.result, Plan) and self.result.round != self.round:
            raise ValueError(f"the plan of round {self.round} says that it is for round {self.result.round}")
        failure = self.failure
        if (
            self.step in (StepKind.BASELINE, StepKind.PLAN)
            and failure is not None
            and failure.failure_class is FailureClass.CANDIDATE
        ):
            raise ValueError(f"a {self.step} step has no candidate whose fault a failure could be")
        if self.finished < self.started:
            raise ValueError("a step cannot finish before it started")
        return self

    @property
    def failure(self) -> Verdict | None:
        """Why the step did not give what it should, or None. Invalid measurements and failed judgements included."""
        match self.result:
            case Verdict():
                return self.result
            case Judgement():
                return self.result.failure
            case Measurement(valid=False) as measurement:
                return Verdict(
                    gate=self.step.value,
                    passed=False,
                    reason=measurement.invalid_reason or "MeasurementInvalid",
                    message=measurement.message,
                    failure_class=measurement.failure_class,
                )
            case _:
                return None


class Finished(Record):
    """The end of a run. `reason` is why the search ended, `message` a sentence for people."""

    kind: Literal["finished"] = "finished"
    outcome: Outcome
    reason: str
    message: str = ""
    best_round: int | None = None
    commit: str | None = None
    content_hash: str | None = None
    speedup: Speedup | None = None
    at: float
