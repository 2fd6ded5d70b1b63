"""What all records of a run share: their base, and the closed sets that they speak in."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of everything that is stored: frozen, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FailureClass(StrEnum):
    """Whose fault a failure is; it alone decides what is retried and what costs a candidate its attempt."""

    CANDIDATE = "candidate"
    """The stack is wrong: costs the attempt, goes back to the implementer as feedback."""
    INFRASTRUCTURE = "infrastructure"
    """The machine, a role process, a disk: retried with back-off, never costs an attempt."""
    PROVIDER = "provider"
    """The agent's model provider (rate limit, outage): retried with a longer back-off, never costs an attempt."""
    MEASUREMENT = "measurement"
    """The measurement is not valid (contention, the baseline died in a window): repeated, never costs an attempt."""


class StepKind(StrEnum):
    """The kinds of step that a run is made of."""

    BASELINE = "baseline"
    PLAN = "plan"
    IMPLEMENT = "implement"
    JUDGE = "judge"
    EVALUATE = "evaluate"
    CONFIRM = "confirm"


class Outcome(StrEnum):
    """How a run ended."""

    CONFIRMED = "confirmed"
    """A stack's speed-up was confirmed on a workload seed that no round ever saw."""
    NO_SPEEDUP = "no-speedup"
    """The search ended normally and no candidate beat the baseline by the minimum effect."""
    NOT_CONFIRMED = "not-confirmed"
    """A candidate looked faster in its round, and the confirmation did not hold."""
    FAILED = "failed"
    """The run could not be carried out (infrastructure or provider)."""


class Cost(Record):
    """What a step costs, or is allowed to cost, of each budget (wall clock is not booked: it passes by itself)."""

    accelerator_seconds: float = Field(default=0.0, ge=0)
    tokens: int = Field(default=0, ge=0)
    money: float = Field(default=0.0, ge=0)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            accelerator_seconds=self.accelerator_seconds + other.accelerator_seconds,
            tokens=self.tokens + other.tokens,
            money=self.money + other.money,
        )


def step_id(step: StepKind, round_number: int, attempt: int, execution: int) -> str:
    """The name of one execution of one step, such as `003/judge/1/2` (round, step, attempt, execution)."""
    return f"{round_number:03d}/{step.value}/{attempt}/{execution}"
