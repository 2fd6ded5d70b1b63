"""Where a rollout stands: the part of its status that history decides, and that is therefore stored.

| stage | phases | the candidate's share |
|---|---|---|
| `pending` | Pending, Failed | none |
| `steps` | Progressing, Paused, Frozen | that of the step |
| `promoting` | Promoting | all, once it has the capacity |
| `promoted` | Promoted | all |
| `back` | RollingBack | none, as fast as the baseline has the capacity |
| `over` | any, with `finishedAt` | left as it is |

What follows from a position is done when the API server holds it, so that a restart goes on and never goes back.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sartor_api.conditions import ConditionType
from sartor_api.quantities import Duration
from sartor_api.rollout_policy import RolloutPolicy, Step
from sartor_api.serving_rollout import RolloutPhase, ServingRolloutStatus
from sartor_operator.rollout.samples import StepKind

Stage = Literal["pending", "steps", "promoting", "promoted", "back", "over"]
DEFAULT_HOLD = Duration("10m")

_STAGES: dict[RolloutPhase, Stage] = {
    RolloutPhase.PENDING: "pending",
    RolloutPhase.FAILED: "pending",
    RolloutPhase.PROGRESSING: "steps",
    RolloutPhase.PAUSED: "steps",
    RolloutPhase.FROZEN: "steps",
    RolloutPhase.PROMOTING: "promoting",
    RolloutPhase.PROMOTED: "promoted",
    RolloutPhase.ROLLING_BACK: "back",
    RolloutPhase.ROLLED_BACK: "back",
}


@dataclass(frozen=True)
class Position:
    """Times are Unix seconds. `cause` is the reason of a way back, `why` its sentence."""

    stage: Stage = "pending"
    step: int | None = None
    step_started: float | None = None
    frozen_since: float | None = None
    promoted: float | None = None
    finished: float | None = None
    handed_over: bool = False
    """It ended promoted: a newer rollout took the route from there."""
    cause: str = ""
    why: str = ""

    def back(self, cause: str, why: str) -> "Position":
        """On the way back, for good: nothing leads from here to the candidate again."""
        return replace(self, stage="back", step_started=None, frozen_since=None, cause=cause, why=why)

    def at_step(self, number: int) -> "Position":
        """At a step that has not begun: it begins when its weights are accepted."""
        return replace(self, stage="steps", step=number, step_started=None)


def position_of(status: ServingRolloutStatus) -> Position:
    """The position that a status tells of."""
    stage: Stage = "pending" if status.phase is None else _STAGES[status.phase]
    if status.finished_at is not None:
        stage = "over"
    step = status.step if stage != "pending" else None
    if stage == "steps" and not step:
        stage, step = "pending", None  # nobody but a human could write that; begin again, from the baseline
    ready = next((c for c in status.conditions if c.type == ConditionType.READY.value), None)
    back = stage in ("back", "over") and ready is not None
    return Position(
        stage=stage,
        step=step or None,
        step_started=_seconds(status.step_started_at),
        frozen_since=_seconds(status.frozen_since),
        promoted=_seconds(status.promoted_at),
        finished=_seconds(status.finished_at),
        handed_over=stage == "over" and status.phase is RolloutPhase.PROMOTED,
        cause=ready.reason if ready is not None and back else "",
        why=ready.message if ready is not None and back else "",
    )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


@dataclass(frozen=True)
class StepSeen:
    """A step with what the steps before it left: `weight` is the candidate's per cent, `mirror` that of the copies, `asked`
    whether clients may ask for the candidate. `hold` is the least time in seconds, None for a stop without end."""

    number: int
    kind: StepKind
    weight: int
    mirror: int
    asked: bool
    hold: float | None


def step_of(policy: RolloutPolicy, number: int | None) -> StepSeen | None:
    """A step by its number from 1; a number beyond the last (the policy got shorter) is the last."""
    if number is None:
        return None
    last = min(number, len(policy.steps))
    weight, mirror, asked = 0, 0, False
    kind: StepKind = "pause"
    for one in policy.steps[:last]:
        kind = kind_of(one)
        weight = one.weight if one.weight is not None else weight
        if one.pause is None:
            mirror = one.mirror or 0
        asked = asked or one.header_opt_in is not None or one.weight is not None
    return StepSeen(last, kind, weight, mirror, asked, _hold(policy.steps[last - 1]))


def kind_of(step: Step) -> StepKind:
    if step.mirror is not None:
        return "mirror"
    if step.header_opt_in is not None:
        return "headerOptIn"
    return "weight" if step.weight is not None else "pause"


def _hold(step: Step) -> float | None:
    if step.pause is not None:
        return None if step.pause.duration is None else step.pause.duration.seconds
    return (step.hold or DEFAULT_HOLD).seconds
