"""The owner's own requests: read from JSON lines, and sent again at their own times.

A line is `{"at": seconds, "body": {OpenAI request}}`; `at` is needed only to replay. What a replay keeps is what makes
traffic real: when requests come, how long prompts and answers are, what prompts share. What it changes is the least that
keeps a number honest: answers are greedy and of fixed length, and every prompt of a window begins with a line drawn for
that window from the sealed seed, so that prompts which share a beginning still do, and nothing can be known from before.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import ScenarioError

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line. `at` is None where the line does not say; `prompt` or `messages` is what the model was given."""

    line: int
    at: float | None
    prompt: str | None
    messages: tuple[Mapping[str, str], ...]
    output_tokens: int | None

    @property
    def text(self) -> str:
        return self.prompt if self.prompt is not None else "\n".join(m["content"] for m in self.messages)


def read_trace(path: Path) -> list[TraceRequest]:
    """The requests of a trace in the order of the file. Raises `ScenarioError` naming the line and what is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"the trace {path} cannot be read: {error}") from None
    requests = [_request(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not requests:
        raise ScenarioError(f"the trace {path} is empty")
    return requests


def timed(requests: Sequence[TraceRequest], speed: float) -> list[tuple[float, TraceRequest]]:
    """(seconds from the first, request) in order of time, `speed` times as fast. Raises `ScenarioError` without times."""
    times: list[tuple[float, TraceRequest]] = []
    for request in requests:
        if request.at is None:
            raise ScenarioError(
                f"line {request.line} of the trace has no `at` (seconds); a replay needs it in every line"
            )
        times.append((request.at, request))
    times.sort(key=lambda entry: entry[0])
    origin = times[0][0]
    return [((at - origin) / speed, request) for at, request in times]


def cut(
    entries: Sequence[tuple[float, TraceRequest]], window: int, warm_for: float, total: float
) -> list[tuple[float, TraceRequest]]:
    """The part that window number `window` replays, `total` seconds long: one after the other, then from the start again.

    A part without a request after its first `warm_for` seconds is passed over. Raises `ScenarioError` when no part has one.
    """
    parts = math.floor(entries[-1][0] / total) + 1
    for ahead in range(parts):
        start = (window + ahead) % parts * total
        part = [(at - start, request) for at, request in entries if start <= at < start + total]
        if any(due >= warm_for for due, _ in part):
            return part
    raise ScenarioError(
        f"no window of {total:g} s of the trace has a request after its first {warm_for:g} s; raise replaySpeed or make the "
        "window longer"
    )


def _request(path: Path, number: int, line: str) -> TraceRequest:
    def refuse(what: str) -> ScenarioError:
        return ScenarioError(f"{path}:{number}: {what}: {line[:_SHOWN]}")

    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise refuse("not JSON; each line is a request") from None
    body = row.get("body", row) if isinstance(row, dict) else None
    if not isinstance(body, dict) or not ("prompt" in body or "messages" in body):
        raise refuse("not a request; each line is JSON with `body` holding `prompt` or `messages`")
    at = row.get("at")
    if at is not None and (isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < math.inf):
        raise refuse(f"`at` must be seconds, zero or more, not {at!r}")
    tokens = body.get("max_tokens", body.get("max_completion_tokens"))
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise refuse(f"`max_tokens` must be 1 or more, not {tokens!r}")
    prompt = body.get("prompt")
    messages: tuple[Mapping[str, str], ...] = ()
    if prompt is None:
        messages = _messages(body.get("messages"), refuse)
    elif not isinstance(prompt, str) or not prompt:
        raise refuse("`prompt` must be text")
    return TraceRequest(number, None if at is None else float(at), prompt, messages, tokens)


def _messages(value: Any, refuse: Any) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise refuse("`messages` must be a list of messages")
    for message in value:
        fields = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not all(isinstance(field, str) for field in fields):
            raise refuse("each message needs `role` and `content` as text")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)
