"""What a human asks of a run under way, and what that means for the search. The same on one machine and in a cluster."""

from collections.abc import Iterable

from pydantic import Field

from sartor_api.search.base import Record
from sartor_api.search.records import RunSpec, StepRecord


class Control(Record):
    """The wishes as they stand; each holds until it is taken back."""

    pause: bool = False
    """Nothing begins after the step in flight."""
    stop_after_round: bool = False
    """The open round is the last; the best is confirmed, and the run ends."""
    message: str = Field(default="", max_length=4096)
    """A word to the planner, told with each plan."""


def last_round(spec: RunSpec, records: Iterable[StepRecord]) -> RunSpec:
    """The intent with no further round than those that were begun: the search ends when they are closed."""
    begun = max((record.round for record in records), default=0)
    budget = spec.budget.model_copy(update={"rounds": min(spec.budget.rounds, begun)})
    return spec.model_copy(update={"budget": budget})
