"""Real conversations, recorded by the model proxy and played back.

Whoever has an account makes one with `python -m sartor_agents.model_proxy CONFIG --export RUN FILE` after a run. A recording
is a line of JSON for each call: `step`, `call`, `api`, `request`, `status`, `content_type`, `answer` (the bytes of the
stream, secrets taken out). `Replay` gives the answers in the same order for each step; what it is asked is compared with
what was asked then, so that a change of Sartor that would ask a model something else shows.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from scripted_provider import chat, responses
from scripted_provider.wire import Fault, Item, Raw, Seen, Status


class Replay:
    """A program that plays a recording. Conversations are told apart by how they begin."""

    def __init__(self, recording: Path) -> None:
        self._waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in recording.read_text(encoding="utf-8").splitlines():
            exchange = json.loads(line)
            self._waiting[_opening(self._items(exchange))].append(exchange)

    def __call__(self, seen: Seen) -> Fault:
        waiting = self._waiting.get(_opening(seen.items), [])
        if not waiting:
            return Status(409, "the recording has no such conversation, or it is over", error_code="not_recorded")
        then = self._items(waiting[0])
        if (difference := _difference(then, seen.items)) is not None:
            return Status(409, f"this is not what was asked when it was recorded: {difference}", error_code="differs")
        exchange = waiting.pop(0)
        return Raw(exchange["answer"].encode(), exchange["content_type"].partition(";")[0])

    @property
    def left(self) -> int:
        """Calls that were not asked for yet."""
        return sum(map(len, self._waiting.values()))

    @staticmethod
    def _items(exchange: dict[str, Any]) -> tuple[Item, ...]:
        return (responses if exchange["api"] == "responses" else chat).read(exchange["request"])[1]


def _opening(items: tuple[Item, ...]) -> str:
    return next((item.text for item in items if item.kind == "user"), "")


def _difference(then: tuple[Item, ...], now: tuple[Item, ...]) -> str | None:
    """Where the conversations part. Results may differ in their text: a command never takes the same time twice."""
    if len(then) != len(now):
        return f"{len(then)} entries then, {len(now)} now"
    for place, (one, other) in enumerate(zip(then, now, strict=True)):
        if one.kind != other.kind or (one.kind != "result" and (one.name, one.text) != (other.name, other.text)):
            return f"entry {place} was {one.kind} {one.text[:80]!r}, and is {other.kind} {other.text[:80]!r}"
    return None
