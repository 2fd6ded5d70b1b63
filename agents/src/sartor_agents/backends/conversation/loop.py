"""The turn loop: ask, carry out the calls, ask again, until the answer is the record that was asked for.

What a model does wrong is told to it and costs its turn. What ends a step is a limit (turns, tokens, time), an answer that
stays invalid after one repair, or going round in circles; each with a reason of its own, so that a run's history says which.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.compaction import compact, cut
from sartor_agents.backends.conversation.form import Form, FormError
from sartor_agents.backends.conversation.messages import (
    Answer,
    ContextTooLongError,
    End,
    Item,
    Model,
    Request,
    Result,
    Said,
)
from sartor_agents.backends.conversation.tool import AnyTool, ToolResult, call_tool, definition, toolbox
from sartor_agents.backends.protocol import BackendError
from sartor_api.search.records import FailureClass

R = TypeVar("R", bound=BaseModel)

LONGEST_RESULT, LONGEST_TEXT = 40_000, 60_000
"""Characters that the model reads of one result, and that are sent back to it of its own answer."""
MOST_CALLS = 16
"""Calls of one answer that are carried out."""
STALE_TOLD, STALE_ENDED = 3, 8
"""Turns without anything new, call or result, after which the model is told, and after which the step ends."""
CHARACTERS_PER_TOKEN = 3.0
"""Before the provider has counted anything; below what text has, so that a context is not overrun."""
CLOSING_TURNS = 2
"""Turns that are kept for the answer and its repair."""
CLOSING_SHARE, CLOSING_SECONDS = 0.1, 120.0
"""Time that is kept for them: this share of the whole, at most so much."""
LEAST_ANSWER = 1_000
"""Tokens that there must be room for, or the model is not asked."""
ROOM = 0.9
"""Share of the context that is used before it is compacted; estimates err."""

OWN_FAULTS = frozenset({
    "AnswerInvalid", "AnswerFiltered", "AnswerTooLong", "Looping", "ModelRefused", "TimeSpent", "TokensSpent", "TurnsSpent",
})  # fmt: skip
"""The reasons by which a conversation ends that a model had every chance to bring to a result."""

CLOSING = "Your {what} end here. No further calls are carried out: give your final answer now, as one JSON object."
TRUNCATED = (
    "Your answer was cut at the limit of output tokens. Write less at once: large files in several calls, and no long "
    "prose."
)
STALE = "You have made these very calls before, with the same results. Do something else, or give your final answer."


@dataclass(frozen=True)
class StepLimits:
    """What one step may use. `deadline` is on the conversation's clock, `seconds` what it was at the start."""

    turns: int
    tokens: int
    deadline: float
    seconds: float
    context_tokens: int
    maximum_output_tokens: int


@dataclass(frozen=True)
class Task(Generic[R]):
    """What a conversation is about. `name` is the same in every life of the step, and no other's in the run: under it and by
    what was said since, a call is known again."""

    name: str
    instructions: str
    opening: str
    form: Form[R]
    tools: Sequence[AnyTool] = ()


class Conversation(Generic[R]):
    """One conversation, held once. `use` is what was paid for, also after an error."""

    def __init__(
        self,
        model: Model,
        task: Task[R],
        limits: StepLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._model, self._task, self._limits = model, task, limits
        self._clock, self._say = clock, say
        self._tools: Mapping[str, AnyTool] = toolbox(task.tools)
        self._told = tuple(definition(tool) for tool in task.tools)
        self._schema = task.form.schema()
        self._instructions = f"{task.instructions}\n\n{task.form.wanted()}"
        self._items: tuple[Item, ...] = (Said(task.opening),)
        # Not the opening: it may say how much of a budget is left, which a crash changes. The task's name stands for it.
        self._shape = hashlib.sha256(repr((self._instructions, self._told, self._schema)).encode())
        self._fixed = len(self._instructions) + len(repr(self._told))
        self._ratio = 1.0 / CHARACTERS_PER_TOKEN
        self._context = limits.context_tokens
        self._seen: set[str] = set()
        self._stale = 0
        self.use = TokenUse()
        self.turns = 0

    def run(self) -> R:
        """The record. Raises `BackendError`; what the model did wrong is a failure of its candidate."""
        repaired = closed = False
        while True:
            ending = self._ending()
            if ending is not None and not closed:
                closed = True
                self._add(Said(CLOSING.format(what=ending)))
            answer = self._ask(may_call=not closed)
            if answer.calls and not closed:
                self._carry_out(answer)
                continue
            try:
                return self._read(answer)
            except FormError as error:
                if repaired:
                    raise _own_fault(
                        "AnswerInvalid", f"the answer was not valid, nor was its repair: {error}"
                    ) from error
                repaired = True
                self._refuse(answer, str(error))

    # --- one turn -----------------------------------------------------------------------------------------------------

    def _ask(self, *, may_call: bool) -> Answer:
        self.turns += 1
        if self.turns > self._limits.turns:
            raise _own_fault("TurnsSpent", f"the step has used its {self._limits.turns} turns without an answer")
        while True:
            self._make_room()
            most = self._check_limits()
            request = Request(
                id=f"{self._task.name}/{self.turns:04d}/{self._shape.hexdigest()[:16]}",
                instructions=self._instructions,
                items=self._items,
                deadline=self._limits.deadline,
                tools=self._told,
                schema=self._schema,
                may_call=may_call,
                maximum_output_tokens=most,
            )
            try:
                answer = self._model.ask(request)
            except ContextTooLongError as error:
                # The model takes less than was configured, or the estimate is off: go on with half of it.
                if self._context < 2048 or len(self._items) < 3:
                    raise BackendError("ContextTooLong", str(error), FailureClass.INFRASTRUCTURE) from error
                self._context //= 2
                continue
            break
        if not answer.recorded:
            self.use = self.use + answer.use
        if answer.use.input:
            self._ratio = max(0.05, min(1.0, answer.use.input / max(1, self._characters())))
        self._say(f"turn {self.turns}: {_summary(answer)} ({self.use.total:,} tokens)")
        if answer.end is End.REFUSED:
            raise _own_fault("ModelRefused", f"the model refused: {answer.text[:300]}")
        if answer.end is End.FILTERED:
            raise _own_fault("AnswerFiltered", "the provider's content filter ended the answer")
        return answer

    def _carry_out(self, answer: Answer) -> None:
        self._add(_bounded(answer))
        news = False
        for number, call in enumerate(answer.calls):
            if number < MOST_CALLS:
                result = call_tool(self._tools, call.name, call.arguments)
            else:
                result = ToolResult(f"Not done: at most {MOST_CALLS} calls of one answer are carried out.", failed=True)
            mark = hashlib.sha256(repr((call.name, call.arguments, result.text)).encode()).hexdigest()
            news |= mark not in self._seen
            self._seen.add(mark)
            self._add(Result(call.id, call.name, cut(result.text, LONGEST_RESULT), result.failed))
        if answer.end is End.CUT:
            self._add(Said(TRUNCATED))
        self._stale = 0 if news else self._stale + 1
        if self._stale >= STALE_ENDED:
            raise _own_fault("Looping", f"{self._stale} turns in a row brought nothing new")
        if self._stale >= STALE_TOLD:
            self._add(Said(STALE))

    def _read(self, answer: Answer) -> R:
        if answer.end is End.CUT:
            raise FormError(TRUNCATED)
        return self._task.form.read(answer.text)

    def _refuse(self, answer: Answer, problem: str) -> None:
        """Tell the model what is wrong with its answer. Calls that were not carried out are not sent back."""
        if answer.text.strip():
            self._add(Answer(text=cut(answer.text, LONGEST_TEXT), end=answer.end))
        self._add(Said(f"{problem}\nMend it, and give the whole answer again."))

    def _add(self, item: Item) -> None:
        """Append, and take it into the name of the next call: what was said and done, not how long a command took."""
        self._items = (*self._items, item)
        match item:
            case Answer():
                mark = repr((item.text, [(call.name, call.arguments) for call in item.calls]))
            case Result():
                mark = repr((item.name, item.failed))
            case Said():
                mark = item.text
        self._shape.update(mark.encode(errors="replace"))

    # --- limits -------------------------------------------------------------------------------------------------------

    def _ending(self) -> str | None:
        """What of the step is nearly used up, or None."""
        limits = self._limits
        if self.turns + CLOSING_TURNS >= limits.turns:
            return "turns"
        left = limits.deadline - self._clock()
        if left < min(CLOSING_SECONDS, CLOSING_SHARE * limits.seconds):
            return "time"
        spoken = self.use.output // max(1, self.turns)
        if self.use.total + (CLOSING_TURNS + 1) * (self._tokens() + spoken) > limits.tokens:
            return "tokens"
        return None

    def _check_limits(self) -> int:
        """How many tokens the next answer may have. Raises `BackendError` when the time or the tokens are spent."""
        limits = self._limits
        if self._clock() >= limits.deadline:
            raise _own_fault("TimeSpent", f"the step has used its {limits.seconds:.0f} s without an answer")
        left = limits.tokens - self.use.total - self._tokens()
        if left < min(LEAST_ANSWER, limits.maximum_output_tokens):
            raise _own_fault(
                "TokensSpent",
                f"the step has used {self.use.total:,} of its {limits.tokens:,} tokens, and a turn more does not fit",
            )
        return min(left, limits.maximum_output_tokens)

    def _make_room(self) -> None:
        room = int(ROOM * self._context) - self._limits.maximum_output_tokens
        if self._tokens() <= room:
            return
        before = self._tokens()
        budget = room - int(self._fixed * self._ratio)
        self._items = compact(self._items, budget=max(budget, 1), weigh=self._weigh)
        self._say(f"the conversation was compacted from {before:,} to {self._tokens():,} tokens")
        if self._tokens() > room and len(self._items) < 3:
            raise BackendError(
                "ContextTooSmall",
                f"the task alone takes {self._tokens():,} tokens and an answer up to "
                f"{self._limits.maximum_output_tokens:,}, and the context has {self._context:,}; raise contextTokens",
                FailureClass.INFRASTRUCTURE,
            )

    def _weigh(self, item: Item) -> int:
        return int(_characters(item) * self._ratio) + 1

    def _characters(self) -> int:
        return self._fixed + sum(map(_characters, self._items))

    def _tokens(self) -> int:
        """Of the next request, estimated from how the provider counted the last one."""
        return int(self._characters() * self._ratio)


def _characters(item: Item) -> int:
    match item:
        case Answer(native=native) if native:
            return len(repr(native))
        case Answer():
            return len(item.text) + sum(len(call.name) + len(call.arguments) + 60 for call in item.calls)
        case _:
            return len(item.text) + 60


def _bounded(answer: Answer) -> Answer:
    """An answer as it is sent back: whole, unless its text is of no reasonable length."""
    if len(answer.text) <= LONGEST_TEXT:
        return answer
    return Answer(text=cut(answer.text, LONGEST_TEXT), calls=answer.calls, end=answer.end, use=answer.use)


def _summary(answer: Answer) -> str:
    if not answer.calls:
        return "answered"
    names = [call.name[:40] for call in answer.calls[:4]]
    more = len(answer.calls) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _own_fault(reason: str, message: str) -> BackendError:
    return BackendError(reason, message, FailureClass.CANDIDATE)
