"""What a human asks of a run under way, and what that means for the search. The same on one machine and in a cluster."""

from dataclasses import replace

from pydantic import Field

from sartor_api.search.base import Record
from sartor_api.search.state import RunState


class Control(Record):
    """The wishes as they stand; each holds until it is taken back."""

    pause: bool = False
    """Nothing begins after the steps in flight."""
    stop_after_round: bool = False
    """The open rounds are the last; the best is confirmed, and the run ends."""
    message: str = Field(default="", max_length=4096)
    """A word to the planner, told with each plan."""


def last_round(run: RunState) -> RunState:
    """The run with no further round than those that were begun: the search ends when they are closed."""
    budget = run.spec.budget.model_copy(update={"rounds": min(run.spec.budget.rounds, run.rounds_used)})
    return replace(run, spec=run.spec.model_copy(update={"budget": budget}))
