"""What a human asks of a rollout, and which of it wins: abort, undo, pause, promote, skipToStep, in this order.

Everything is a level, not an event: the same words, applied again and again (as GitOps does), change nothing more.
"""

from typing import Literal

from sartor_api.serving_rollout import RolloutControl
from sartor_operator.rollout.position import Position

Command = Literal["abort", "undo", "pause", "promote", "skip", "none"]


def command_of(control: RolloutControl, position: Position) -> Command:
    """The strongest wish that means anything where the rollout stands.

    After a promotion `abort` and `undo` are one: back, as fast as the baseline has the capacity.
    """
    if control.abort:
        return "abort"
    if control.undo and position.stage in ("promoting", "promoted"):
        return "undo"
    if control.pause:
        return "pause"
    if control.promote and position.stage in ("pending", "steps"):
        return "promote"
    if control.skip_to_step is not None and position.stage == "steps" and control.skip_to_step > (position.step or 0):
        return "skip"
    return "none"


def turns_back(command: Command) -> bool:
    """Whether traffic goes back at once, before anything else is looked at."""
    return command in ("abort", "undo")
