"""What a conversation is made of, and who answers in it, whatever provider and protocol carry it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pydantic import JsonValue

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.tool import ToolDefinition


class End(StrEnum):
    """Why an answer ended."""

    DONE = "done"
    """The model was finished, or waits for the results of its calls."""
    CUT = "cut"
    """At the limit of output tokens: the text, or the last call's arguments, stop half-way."""
    FILTERED = "filtered"
    """The provider's content filter ended it."""
    REFUSED = "refused"
    """The model will not do it; the text says why."""


@dataclass(frozen=True)
class Said:
    """What the model is told. `digest`: it stands for older turns that were left out."""

    text: str
    digest: bool = False


@dataclass(frozen=True)
class Call:
    """A tool call as the model wrote it; `arguments` is meant to be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """One answer of the model.

    `native` is the answer in the provider's own form, sent back as it is (reasoning that only the provider can read lies
    in it); empty for an answer that is to be sent from `text` and `calls`. `recorded`: it was paid for before, in an
    earlier life of this step.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    end: End = End.DONE
    use: TokenUse = field(default_factory=TokenUse)
    native: tuple[dict[str, JsonValue], ...] = ()
    recorded: bool = False


@dataclass(frozen=True)
class Result:
    """What a call gave."""

    call: str
    name: str
    text: str
    failed: bool = False


Item = Said | Answer | Result


@dataclass(frozen=True)
class Schema:
    """The form of the final answer: a JSON schema of an object."""

    name: str
    schema: dict[str, JsonValue]


@dataclass(frozen=True)
class Request:
    """One call of a model. What does not change comes first, so that a provider's prompt cache finds it again.

    `id` names the call: the same call made again after a crash has the same id, and a result that was recorded under it is
    given back instead of being paid for twice. `deadline` is on the clock of `Conversation`. With `may_call` False the
    model has to answer; the tools are told all the same, since leaving them out would change the cached prefix.
    """

    id: str
    instructions: str
    items: tuple[Item, ...]
    deadline: float
    tools: tuple[ToolDefinition, ...] = ()
    schema: Schema | None = None
    may_call: bool = True
    maximum_output_tokens: int | None = None


class Model(Protocol):
    """Who answers: a provider behind its protocol, with retries and time limits of its own."""

    def ask(self, request: Request) -> Answer:
        """The model's answer. Idempotent by `request.id` where the model proxy is between.

        Raises `ContextTooLongError` for a conversation that the model cannot take, and `BackendError` when there is no
        answer to be had: the provider is out for longer than it is waited for, refuses, or the budget is spent.
        """
        ...


class ContextTooLongError(Exception):
    """The conversation has more tokens than the model takes."""
