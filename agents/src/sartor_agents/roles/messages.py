"""What the processes of planner, implementer and reviewer are asked, and what they answer.

The judge's and the evaluator's messages are in `sartor_agents.measurement.messages`.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sartor_agents.backends.protocol import ImplementContext, PlanContext, ReviewContext, Usage
from sartor_agents.tools.review import Review
from sartor_api.search.records import Implementation, Plan, Verdict


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanRequest(Message):
    """`backend` is a name that `sartor_agents.backends.load_backend` knows."""

    backend: str = Field(min_length=1)
    context: PlanContext


class ImplementRequest(Message):
    backend: str = Field(min_length=1)
    context: ImplementContext


class ReviewRequest(Message):
    """A reviewer is a conversation with a model, whatever backend writes the code."""

    context: ReviewContext


class PlanResponse(Message):
    """Exactly one of `plan` and `failure`."""

    plan: Plan | None = None
    failure: Verdict | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.plan is None) == (self.failure is None):
            raise ValueError("a response has a plan or a failure")
        return self


class ImplementResponse(Message):
    """Exactly one of `implementation` and `failure`; the files are in the worktree."""

    implementation: Implementation | None = None
    failure: Verdict | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.implementation is None) == (self.failure is None):
            raise ValueError("a response has an implementation or a failure")
        return self


class ReviewResponse(Message):
    """Exactly one of `review` and `failure`."""

    review: Review | None = None
    failure: Verdict | None = None
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.review is None) == (self.failure is None):
            raise ValueError("a response has a review or a failure")
        return self
