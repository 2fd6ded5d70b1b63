"""What the Codex CLI says with `exec --json`, one JSON object a line, as typed events.

Kinds that are not known are kept as `Other`, with their name: a new kind must not end a step. Texts are cut, since a command
may have printed anything.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

LONGEST_TEXT = 16 << 10


@dataclass(frozen=True)
class Tokens:
    """Of one invocation, as it says itself. `cached` are part of `input`, `reasoning` part of `output`."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True)
class Started:
    thread: str


@dataclass(frozen=True)
class Said:
    """A message of the model; the last one is its answer."""

    text: str


@dataclass(frozen=True)
class Thought:
    text: str


@dataclass(frozen=True)
class Ran:
    """A command that ended. `code` is None where it was not told."""

    command: str
    output: str
    code: int | None


@dataclass(frozen=True)
class Changed:
    """Files that a patch changed."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Something went wrong; `final` when the turn ended with it."""

    message: str
    final: bool = False


@dataclass(frozen=True)
class Ended:
    tokens: Tokens


@dataclass(frozen=True)
class Other:
    kind: str


Event = Started | Said | Thought | Ran | Changed | Problem | Ended | Other


def read_event(line: str) -> Event | None:
    """The event of a line; None for one that is no event, such as a log line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    event = cast(dict[str, Any], content)
    kind = event.get("type")
    if not isinstance(kind, str):
        return None
    match kind:
        case "thread.started":
            return Started(_text(event.get("thread_id")))
        case "turn.completed":
            return Ended(_tokens(event.get("usage")))
        case "turn.failed":
            error = event.get("error")
            return Problem(_text(error.get("message") if isinstance(error, dict) else error), final=True)
        case "error":
            return Problem(_text(event.get("message")))
        case "item.completed":
            return _item(event.get("item"))
        case _:
            return Other(_text(kind))


def _item(given: object) -> Event:
    if not isinstance(given, dict):
        return Other("item.completed")
    item = cast(dict[str, Any], given)
    match item.get("type"):
        case "agent_message":
            # An answer is read as JSON, so it is not cut.
            text = item.get("text")
            return Said(text if isinstance(text, str) else "")
        case "reasoning":
            return Thought(_text(item.get("text")))
        case "command_execution":
            code = item.get("exit_code")
            return Ran(
                _text(item.get("command")),
                _text(item.get("aggregated_output")),
                code if isinstance(code, int) else None,
            )
        case "file_change":
            changes = item.get("changes")
            listed = cast(list[Any], changes) if isinstance(changes, list) else []
            return Changed(
                tuple(_text(cast(dict[str, Any], one).get("path")) for one in listed if isinstance(one, dict))
            )
        case "error":
            return Problem(_text(item.get("message")))
        case kind:
            return Other(f"item.completed/{_text(kind)}")


def _tokens(given: object) -> Tokens:
    usage = cast(dict[str, Any], given) if isinstance(given, dict) else {}

    def number(name: str) -> int:
        value = usage.get(name)
        return value if isinstance(value, int) and value >= 0 else 0

    return Tokens(
        number("input_tokens"),
        number("cached_input_tokens"),
        number("output_tokens"),
        number("reasoning_output_tokens"),
    )


def _text(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " […]"


class Lines:
    """Whole lines out of pieces of bytes. A line over `longest` bytes is left out."""

    def __init__(self, longest: int = 8 << 20) -> None:
        self._longest = longest
        self._begun = bytearray()
        self._skipping = False

    def add(self, data: bytes) -> list[str]:
        found: list[str] = []
        while data:
            piece, end, data = data.partition(b"\n")
            if not self._skipping:
                self._begun += piece
            if len(self._begun) > self._longest:
                self._skipping = True
                self._begun.clear()
            if end:
                if not self._skipping:
                    found.append(self._begun.decode(errors="replace"))
                self._begun.clear()
                self._skipping = False
        return found
