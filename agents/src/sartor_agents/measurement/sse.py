"""Server-sent events of a generation, parsed after the fact from timed pieces of the body.

While load runs the client only notes when which bytes came (see `http1`); decoding here, after the window, keeps the load
generator off the cores that the server needs. The parser follows the WHATWG event-stream grammar as far as a generation
uses it (LF, CRLF or CR line ends, comments, several `data:` lines per event) and takes pieces cut anywhere, in the middle
of a character or of a line ending as well. An event is dated by the piece that completed it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_MOST_TOKENS = 1 << 31  # that a `usage` may speak of
# JSON can escape half of a UTF-16 pair, which no text holds.
_SURROGATE = re.compile("[\ud800-\udfff]")


class StreamError(Exception):
    """The body is not a complete, well-formed generation; the message says where it went wrong."""


class EventParser:
    """The grammar, one piece at a time. An unfinished event is never given out, as the grammar asks."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of a line whose end has not come
        self._data: list[bytes] = []
        self._skip_newline = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that `piece` completes. Work is linear in what is fed, however it is cut."""
        if self._skip_newline and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_newline = False
        lines = piece.splitlines(keepends=True)
        complete: list[bytes] = []
        for raw in lines:
            self._line.append(raw)
            if not raw.endswith((b"\n", b"\r")):
                break  # the last one
            line = b"".join(self._line).rstrip(b"\r\n")
            self._line.clear()
            if not line:
                if self._data:
                    complete.append(b"\n".join(self._data))
                    self._data.clear()
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        # The LF of a CRLF may open the next piece.
        self._skip_newline = self._skip_newline or piece.endswith(b"\r")
        return complete


def events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """(time, data) of each event."""
    parser = EventParser()
    for time, piece in pieces:
        for data in parser.feed(piece):
            yield time, data


@dataclass(slots=True)
class Answer:
    """Text with the time of each part of it, and what the server said about itself."""

    parts: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    finish_reason: str | None = None
    usage_prompt: int | None = None
    usage_completion: int | None = None
    _final: bool = False

    @property
    def text(self) -> str:
        return "".join(part for _, part in self.parts)

    def take(self, time: float, payload: dict[str, Any]) -> None:
        """Add one chunk (or whole answer) of /v1/completions or /v1/chat/completions."""
        if "error" in payload:
            raise StreamError(f"error object in the answer: {ascii(payload['error'])[:200]}")
        choices = payload.get("choices")
        if not isinstance(choices, list):
            raise StreamError(f"no `choices` in {ascii(payload)[:200]}")
        for choice in choices:
            delta = choice.get("delta") or choice.get("message")
            text = delta.get("content") if delta is not None else choice.get("text")
            if text:
                if not isinstance(text, str):
                    raise StreamError(f"the text is not a string: {ascii(text)[:100]}")
                if not text.isascii() and _SURROGATE.search(text):
                    raise StreamError(f"half a character in the text: {ascii(text)[:100]}")
                self.parts.append((time, text))
            finish = choice.get("finish_reason")
            if finish is not None and not isinstance(finish, str):
                raise StreamError(f"`finish_reason` is {ascii(finish)[:60]}, not a word")
            self.finish_reason = finish or self.finish_reason
        usage = payload.get("usage")
        if usage:
            self._take_usage(usage, final=not choices)

    def _take_usage(self, usage: dict[str, Any], *, final: bool) -> None:
        """The last `usage` counts. Servers may send it with every chunk, growing; a final one says it once and for all."""
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if self.usage_completion is not None:
            if self._final and (prompt, completion) != (self.usage_prompt, self.usage_completion):
                raise StreamError(
                    f"`usage` came twice and differs: {self.usage_completion} tokens, then {completion} tokens"
                )
            if completion < self.usage_completion:
                raise StreamError(f"`usage` shrank from {self.usage_completion} to {completion} tokens")
        self.usage_prompt, self.usage_completion = prompt, completion
        self._final = self._final or final


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name, 0 if name == "prompt_tokens" else None)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_TOKENS:
        raise StreamError(f"`usage.{name}` is {ascii(value)[:60]}, not a number of tokens")
    return value


def parse_stream(pieces: Iterable[tuple[float, bytes]]) -> Answer:
    """The streamed answer. Raises `StreamError` on invalid JSON or UTF-8, an error object, or a missing `[DONE]`."""
    answer = Answer()
    done = False
    for number, (time, data) in enumerate(events(pieces)):
        if data == b"[DONE]":
            done = True
            continue
        if done:
            raise StreamError(f"event {number} after [DONE]")
        _take(answer, time, data, f"event {number}")
    if not done:
        raise StreamError("the stream ended without [DONE]")
    return answer


def parse_whole(pieces: Iterable[tuple[float, bytes]]) -> Answer:
    """The answer of a request that was not streamed: one JSON object, dated by its last piece."""
    timed = list(pieces)
    answer = Answer()
    _take(answer, timed[-1][0] if timed else 0.0, b"".join(piece for _, piece in timed), "the body")
    return answer


def _take(answer: Answer, time: float, data: bytes, where: str) -> None:
    try:
        payload = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise StreamError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StreamError(f"{where} is not JSON: {error.msg} at {error.pos}: {data[:80]!r}") from None
    except (ValueError, RecursionError) as error:
        raise StreamError(f"{where} is JSON that nobody means ({error}): {data[:80]!r}") from None
    if not isinstance(payload, dict):
        raise StreamError(f"{where} is not a JSON object: {data[:80]!r}")
    try:
        answer.take(time, payload)
    except (AttributeError, TypeError) as error:
        raise StreamError(f"{where} has an unexpected shape ({error}): {data[:80]!r}") from None
