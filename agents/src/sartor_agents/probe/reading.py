"""Reading the answer of an arm while it comes: when text came, what the text is, how many tokens the arm says it has.

Each piece is read when it arrives rather than afterwards: events are spread over the answer, and reading a whole answer at
its end would hold up the clock of the other pairs under way.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

from sartor_agents.measurement.sse import EventParser

Channel = tuple[int, str]
"""Where text belongs: the number of the choice, and what kind of text of it."""


class AnswerReader:
    """Takes the body of an event stream piece by piece. Never raises for what an arm sends: see `fault`."""

    def __init__(self) -> None:
        self._events = EventParser()
        self._parts: dict[Channel, list[str]] = {}
        self._choices: set[int] = set()
        self.began = False
        """Whether an event of a generation came, with text or without."""
        self.done = False
        """Whether the stream said that it is over."""
        self.fault = ""
        """`error`: the arm sent an error object. `stream`: what it sent is no generation."""
        self.arrivals: list[tuple[float, int]] = []
        """(time, bytes of text as UTF-8) of each event that brought text."""
        self.tokens: int | None = None
        """`usage.completion_tokens`."""
        self.stopped = False
        """Whether the model ended by itself (`finish_reason` is `stop`): its last token then brings no text."""

    @property
    def choices(self) -> int:
        """How many choices brought text."""
        return len(self._choices)

    def texts(self) -> dict[Channel, str]:
        """All text of the answer."""
        return {channel: "".join(parts) for channel, parts in self._parts.items()}

    def take(self, time: float, piece: bytes) -> None:
        """Read on: `piece` arrived at `time`."""
        if self.fault:
            return  # nothing that follows can make it right
        for data in self._events.feed(piece):
            if data == b"[DONE]":
                self.done = True
            elif self.done or not self._event(time, data):
                self.fault = self.fault or "stream"
                return
            self.began = True

    def _event(self, time: float, data: bytes) -> bool:
        """Whether the event is one of a generation."""
        try:
            payload = json.loads(data)
        except (ValueError, RecursionError):
            return False
        if not isinstance(payload, dict):
            return False
        chunk = cast("dict[str, Any]", payload)
        if chunk.get("error"):
            self.fault = "error"
            return False
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return False
        size = 0
        for choice in cast("list[Any]", choices):
            taken = self._choice(choice)
            if taken is None:
                return False
            size += taken
        if size:
            self.arrivals.append((time, size))
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            tokens = cast("dict[str, Any]", usage).get("completion_tokens")
            if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
                self.tokens = tokens
        return True

    def _choice(self, choice: object) -> int | None:
        """Bytes of text in it; None where it is no choice."""
        if not isinstance(choice, dict):
            return None
        entry = cast("dict[str, Any]", choice)
        index = entry.get("index", 0)
        delta = entry.get("delta", entry)
        if not isinstance(index, int) or not isinstance(delta, dict):
            return None
        self.stopped = self.stopped or entry.get("finish_reason") == "stop"
        size = 0
        for kind, text in _texts(cast("dict[str, Any]", delta)):
            if not isinstance(text, str):
                return None
            self._parts.setdefault((index, kind), []).append(text)
            size += len(text.encode("utf-8", "surrogatepass"))
        if size:
            self._choices.add(index)
        return size


def _texts(delta: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """(kind, text) of everything in a choice that the model wrote. Ids of tool calls are drawn by the server, so they are
    left out; engines that send reasoning under both of its names send it once."""
    for kind in ("text", "content", "refusal"):
        if delta.get(kind):
            yield kind, delta[kind]
    reasoning = delta.get("reasoning") or delta.get("reasoning_content")
    if reasoning:
        yield "reasoning", reasoning
    calls = delta.get("tool_calls") or []
    if delta.get("function_call"):
        calls = [{"function": delta["function_call"]}, *(calls if isinstance(calls, list) else [calls])]
    for call in cast("list[Any]", calls) if isinstance(calls, list) else [calls]:
        entry = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
        function = entry.get("function")
        if not isinstance(function, dict):
            yield "tool", None
            continue
        for part in ("name", "arguments"):
            text = cast("dict[str, Any]", function).get(part)
            if text:
                yield f"tool {entry.get('index', 0)} {part}", text
