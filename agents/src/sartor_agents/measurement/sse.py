"""Server-sent events of a generation, parsed after the fact from timed pieces of the body.

While load runs the client only notes when which bytes came (see `http1`); decoding here, after the window, keeps the load
generator off the cores that the server needs. The parser follows the WHATWG event-stream grammar as far as a generation
uses it (LF, CRLF or CR line ends, comments, several `data:` lines per event) and takes pieces cut anywhere, in the middle
of a character or of a line ending as well. An event is dated by the piece that completed it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


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

    @property
    def text(self) -> str:
        return "".join(part for _, part in self.parts)

    def take(self, time: float, payload: dict[str, Any]) -> None:
        """Add one chunk (or whole answer) of /v1/completions or /v1/chat/completions."""
        if "error" in payload:
            raise StreamError(f"error object in the answer: {str(payload['error'])[:200]}")
        choices = payload.get("choices")
        if not isinstance(choices, list):
            raise StreamError(f"no `choices` in {str(payload)[:200]}")
        for choice in choices:
            delta = choice.get("delta") or choice.get("message")
            text = delta.get("content") if delta is not None else choice.get("text")
            if text:
                if not isinstance(text, str):
                    raise StreamError(f"the text is not a string: {str(text)[:100]}")
                self.parts.append((time, text))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        usage = payload.get("usage")
        if usage:
            self.usage_prompt = usage.get("prompt_tokens")
            self.usage_completion = usage.get("completion_tokens")


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
    if not isinstance(payload, dict):
        raise StreamError(f"{where} is not a JSON object: {data[:80]!r}")
    try:
        answer.take(time, payload)
    except (AttributeError, TypeError) as error:
        raise StreamError(f"{where} has an unexpected shape ({error}): {data[:80]!r}") from None
