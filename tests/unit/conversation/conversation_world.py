"""A model that is a list of answers, and a task to hold a conversation about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.form import Form
from sartor_agents.backends.conversation.loop import Conversation, StepLimits, Task
from sartor_agents.backends.conversation.messages import Answer, Call, Request
from sartor_agents.backends.conversation.tool import ToolResult
from sartor_api.search.records import Plan

PLAN = '{"action": "stop", "hypothesis": "nothing is left"}'
FORM = Form("plan", Plan, {"kind": "plan", "round": 3})


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""


@dataclass
class Notebook:
    """A tool that keeps what it is told, and fails where `fails` says so."""

    name: str = "note"
    description: str = "Keeps a note."
    parameters: type[Note] = Note
    notes: list[str] = field(default_factory=list[str])
    fails: Callable[[str], bool] = lambda _: False
    answer: Callable[[str], str] = lambda text: f"noted: {text}"

    def call(self, parameters: Note, /) -> ToolResult:
        self.notes.append(parameters.text)
        return ToolResult(self.answer(parameters.text), failed=self.fails(parameters.text))


@dataclass
class Script:
    """Gives its answers in order, the last one for ever; an exception among them is raised."""

    answers: Sequence[Answer | Exception | Callable[[Request], Answer]]
    asked: list[Request] = field(default_factory=list[Request])

    def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        said = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Answer) else said(request)


def says(text: str, tokens: int = 10, **more: Any) -> Answer:
    return Answer(text=text, use=TokenUse(tokens, 0, tokens), **more)


def calls(*texts: str, tokens: int = 10, name: str = "note") -> Answer:
    made = tuple(Call(f"c{number}-{text[:20]}", name, f'{{"text": "{text}"}}') for number, text in enumerate(texts))
    return Answer(calls=made, use=TokenUse(tokens, 0, tokens))


def limits(**changed: Any) -> StepLimits:
    values = {
        "turns": 50, "tokens": 1_000_000, "deadline": 1000.0, "seconds": 1000.0, "context_tokens": 100_000,
        "maximum_output_tokens": 1000,
    }  # fmt: skip
    return StepLimits(**(values | changed))


def converse(
    model: Script,
    *tools: Notebook,
    opening: str = "The plan: be fast.",
    clock: Callable[[], float] = lambda: 0.0,
    **changed: Any,
) -> Conversation[Plan]:
    task = Task("003/plan/1", "Be brief.", opening, FORM, tools or (Notebook(),))
    return Conversation(model, task, limits(**changed), clock=clock)
