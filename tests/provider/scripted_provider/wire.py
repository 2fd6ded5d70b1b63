"""What a program sees of a request, and what it can say, whichever protocol is spoken."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One entry of the conversation. `call` and `result` have an `id`; `name` and `arguments` are a call's."""

    kind: Literal["user", "assistant", "call", "result", "reasoning"]
    text: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Seen:
    """A request as a program sees it. `number` counts the requests that reached a program, from 1; names of `headers` are in
    lower case."""

    api: Literal["responses", "chat"]
    number: int
    model: str
    instructions: str
    items: tuple[Item, ...]
    tools: tuple[str, ...]
    stream: bool
    body: Json
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> tuple[Item, ...]:
        """Results of calls so far, oldest first."""
        return tuple(item for item in self.items if item.kind == "result")

    @property
    def turns(self) -> int:
        """Answers of the model so far: runs of calls and texts between what others said."""
        kinds = [item.kind in ("assistant", "call", "reasoning") for item in self.items]
        return sum(1 for before, now in zip([False, *kinds], kinds, strict=False) if now and not before)

    @property
    def last(self) -> str:
        return self.items[-1].text if self.items else ""


@dataclass(frozen=True)
class Call:
    """`arguments` that are a string go onto the wire as they are, valid JSON or not."""

    name: str
    arguments: str | Json

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Turn:
    """One answer. `finish` is `stop`, or `length` or `content_filter` for one that was ended early.

    `output_tokens` overrides the count that is reported; `usage=False` leaves the report out, as some servers do.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    refusal: str = ""
    finish: Literal["stop", "length", "content_filter"] = "stop"
    output_tokens: int | None = None
    usage: bool = True
    delay: float = 0.0
    piece: int = 40

    def pieces(self, text: str) -> list[str]:
        return [text[at : at + self.piece] for at in range(0, len(text), self.piece)]


@dataclass(frozen=True)
class Status:
    """An answer that is an error."""

    code: int
    message: str = "scripted failure"
    retry_after: str | None = None
    error_code: str | None = None
    content_type: str = "application/json"


@dataclass(frozen=True)
class Stall:
    """Sends the first `after` events of `turn`, and nothing more for `seconds`; with -1 not even the headers."""

    seconds: float
    turn: Turn = Turn(text="never heard")
    after: int = 0


@dataclass(frozen=True)
class Cut:
    """Closes the connection after the first `after` events of `turn`; `abrupt` without ending the body."""

    turn: Turn
    after: int = 2
    abrupt: bool = True


@dataclass(frozen=True)
class Raw:
    """Bytes in place of a stream."""

    body: bytes
    content_type: str = "text/event-stream"


Fault = Status | Stall | Cut | Raw
Program = Callable[[Seen], Turn | Fault]


class RefusedError(Exception):
    """The request is not one that a real provider takes; the message is what it would say."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True)
class Counted:
    """Tokens as they are reported: a token is four bytes, begun ones included."""

    input: int
    cached: int
    output: int
    reasoning: int = 0


def tokens(text: str) -> int:
    return -(-len(text.encode(errors="replace")) // 4)


def check_fields(body: Json, known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            raise RefusedError(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def need(body: Json, name: str, kind: type) -> Any:
    if name not in body:
        raise RefusedError(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if not isinstance(body[name], kind):
        raise RefusedError(f"Invalid type for '{name}'.", name, "invalid_type")
    return body[name]
