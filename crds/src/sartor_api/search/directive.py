"""What a search policy asks of the next plan, and what a planner may leave for later plans.

A `Directive` is derived from the run's records (`policies`), so it is stored nowhere and the same however often it is asked
for. It binds: a plan that does not keep to it is refused (`plans.problem`) before anything is built. What binds is what the
records can show: the commit that is built on and the issue that is taken.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from sartor_api.search.base import Record

MOST_ISSUES = 8
"""Issues that one plan may open."""


class Recipe(Record):
    """One skill's recipe in a stack, with the values of its parameters (spec names, as the recipe declares them)."""

    name: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class Mode(StrEnum):
    """The kind of step that is asked for."""

    EXPLOIT = "exploit"
    """One change of the base that promises most."""
    EXPLORE = "explore"
    """A change of another kind than those tried, or larger: what lies near the base is known to bring nothing."""
    RETURN = "return"
    """Go on from an earlier candidate, off the incumbent's line: the line that was followed ends here."""
    RECOMBINE = "recombine"
    """Bring what makes `partner` good into the base."""


class Directive(Record):
    """What the next plan has to keep to.

    `parents` are the commits that may be built on, the one that is asked for first; None among them is the empty stack, and
    an empty tuple leaves the choice to the planner. `partner` is the second parent of a recombination. `issue` is the issue
    that has to be taken. `why` is a sentence for planner and people.
    """

    mode: Mode = Mode.EXPLOIT
    parents: tuple[str | None, ...] = ()
    partner: str | None = None
    issue: str | None = None
    why: str = ""


class IssueKind(StrEnum):
    """What an issue is about."""

    IDEA = "idea"
    """A hypothesis that nobody tried yet."""
    BOTTLENECK = "bottleneck"
    """Where the time goes, as a profile or a measurement shows it."""
    DEFECT = "defect"
    """A candidate that a gate rejected, and that may be worth repairing."""
    QUESTION = "question"
    """Something to find out before a plan can be made."""


class IssueDraft(Record):
    """An issue as a planner opens it. `forecast_gain` is the ratio to the incumbent that it expects; it orders the queue and
    chooses nothing. `recipes` are what to put into the stack, for backends that compose."""

    kind: IssueKind = IssueKind.IDEA
    title: Annotated[str, Field(min_length=1, max_length=120)]
    detail: Annotated[str, Field(max_length=2000)] = ""
    forecast_gain: float | None = Field(default=None, gt=0)
    recipes: tuple[Recipe, ...] = ()
