"""Where a cheat gets hold of a composed stack. Copied into the stack beside the cheat; the twin has it too.

`around` puts a handler around every generation request; `events` changes a stream event by event; `say` writes a stream
without any model.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .app import App, read_body, send_error
from .engine import Engine
from .errors import RequestError

PATHS = ("/v1/completions", "/v1/chat/completions")
Event = dict[str, Any] | None
"""One event of a stream; None is `[DONE]`."""


@dataclass
class Asked:
    """One generation request on its way to the honest application."""

    app: App
    scope: Any
    receive: Any
    send: Any
    raw: bytes
    body: dict[str, Any]

    @property
    def tokens(self) -> int:
        return int(self.body.get("max_tokens") or 16)

    async def forward(self, body: dict[str, Any] | None = None, send: Any = None) -> None:
        """The honest answer, to `body` if given, through `send` if given."""
        raw = self.raw if body is None else json.dumps(body).encode()
        pending = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> Any:
            return pending.pop() if pending else await self.receive()

        await _honest(self.app, self.scope, receive, send or self.send)

    def encode(self, text: str) -> list[int]:
        return self.app._service.text.encode(text, add_special_tokens=False)

    def decode(self, tokens: list[int]) -> str:
        return self.app._service.text.detokenizer.decode(tokens, skip_special_tokens=False)


_honest = App.__call__


def around(handler: Callable[[Asked], Awaitable[None]]) -> None:
    """Every well-formed generation request goes to `handler`, everything else its honest way."""

    async def call(app: App, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await _honest(app, scope, receive, send)
            return
        try:
            raw = await read_body(scope, receive)
        except RequestError as error:
            await send_error(send, error)
            return
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        whole = isinstance(body, dict) and isinstance(body.get("max_tokens", 16), int)
        asked = Asked(app, scope, receive, send, raw, body if isinstance(body, dict) else {})
        await (handler(asked) if whole else asked.forward())

    App.__call__ = call


def events(send: Any, change: Callable[[Event], list[Event]]) -> Any:
    """A `send` that puts what `change` makes of every event in its place."""

    async def changed(message: Any) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] == "http.response.body" and body.startswith(b"data: "):
            made: list[Event] = []
            for event in filter(None, body.split(b"\n\n")):
                data = event.removeprefix(b"data: ")
                made += change(None if data == b"[DONE]" else json.loads(data))
            message = {**message, "body": b"".join(map(_event, made))}
        await send(message)

    return changed


def text_of(event: Event) -> str | None:
    """The text of a completions event, None where it has none."""
    return event["choices"][0].get("text") if event and event.get("choices") else None


def pace(seconds: float) -> None:
    """Every step of the engine takes so much longer: two layers are so fast that nothing could be told from jitter."""
    honest = Engine.step

    def step(self: Engine) -> bool:
        worked = honest(self)
        if worked:
            time.sleep(seconds)
        return worked

    Engine.step = step


async def say(asked: Asked, text: str, *, tokens: int, finish: str = "length", paced: bool = False) -> None:
    """A whole stream (or whole answer) of `text`, with a usage of `tokens`; `paced`: one token after the other."""
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    frame = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": asked.body.get("model")}
    last = {"index": 0, "text": "", "logprobs": None, "finish_reason": finish}
    if not asked.body.get("stream"):
        whole = {**frame, "choices": [{**last, "text": text}], "usage": usage}
        await _send(asked.send, b"application/json", [json.dumps(whole).encode()])
        return
    pieces = [asked.decode([token]) for token in asked.encode(text)]
    chunks = [{**frame, "choices": [{**last, "text": piece, "finish_reason": None}]} for piece in pieces]
    made: list[Event] = [*chunks, {**frame, "choices": [last]}, {**frame, "choices": [], "usage": usage}, None]
    parts = [_event(event) for event in made]
    await _send(asked.send, b"text/event-stream", parts if paced else [b"".join(parts)])


async def _send(send: Any, kind: bytes, parts: list[bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(event: Event) -> bytes:
    return b"data: " + (b"[DONE]" if event is None else json.dumps(event).encode()) + b"\n\n"
