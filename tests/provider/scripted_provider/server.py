"""The provider as an HTTP server in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from scripted_provider import chat, responses
from scripted_provider.wire import (
    Counted,
    Cut,
    Item,
    Json,
    Program,
    Raw,
    RefusedError,
    Seen,
    Stall,
    Status,
    Turn,
    tokens,
)

CACHED_FROM, CACHED_STEP = 1024, 128
"""A prefix is cached from so many tokens on, in steps of so many, as OpenAI documents it."""


@dataclass
class Provider:
    """Plays `program` on a port of 127.0.0.1. `seen` are the requests that reached the program; `refused` what others
    were told, `paid` the tokens that were reported. A context manager; `port` 0 takes a free one."""

    program: Program
    key: str = "sk-scripted-0123456789abcdef"
    model: str = "scripted-1"
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    paid: list[Counted] = field(default_factory=list)
    cut_by_client: int = 0
    _prompts: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Provider":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted provider", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/responses", self._handler("responses"))
        app.router.add_post("/v1/chat/completions", self._handler("chat"))
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        stalled = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def _handler(self, api: Literal["responses", "chat"]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self.key}":
                return self._error(401, "Incorrect API key provided.", None, "invalid_api_key")
            try:
                seen = self._read(api, await request.json(), {k.lower(): v for k, v in request.headers.items()})
            except RefusedError as error:
                return self._error(400, str(error), error.param, error.code)
            except ValueError as error:
                return self._error(400, f"We could not parse the JSON body of your request. ({error})", None, None)
            self.seen.append(seen)
            said = await asyncio.to_thread(self.program, seen)
            try:
                return await self._say(request, seen, said)
            except (ConnectionResetError, asyncio.CancelledError):
                self.cut_by_client += 1
                raise

        return handle

    def _read(self, api: Literal["responses", "chat"], body: Json, headers: dict[str, str]) -> Seen:
        if body.get("model") != self.model:
            raise RefusedError(f"The model '{body.get('model')}' does not exist.", "model", "model_not_found")
        instructions, items, tools = (responses if api == "responses" else chat).read(body)
        stream = bool(body.get("stream"))
        return Seen(api, len(self.seen) + 1, self.model, instructions, items, tools, stream, body, headers)

    def _error(self, code: int, message: str, param: str | None, name: str | None) -> web.Response:
        self.refused.append(message)
        kind = "invalid_request_error" if code < 429 else "server_error"
        return web.json_response(
            {"error": {"message": message, "type": kind, "param": param, "code": name}}, status=code
        )

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _say(self, request: web.Request, seen: Seen, said: object) -> web.StreamResponse:
        match said:
            case Status():
                headers = {"Retry-After": said.retry_after} if said.retry_after is not None else {}
                told = {"error": {"message": said.message, "type": "scripted", "param": None, "code": said.error_code}}
                text = json.dumps(told) if said.content_type == "application/json" else said.message
                return web.Response(text=text, status=said.code, headers=headers, content_type=said.content_type)
            case Raw():
                return web.Response(body=said.body, content_type=said.content_type)
            case Stall(after=-1):
                await asyncio.sleep(said.seconds)
                return web.Response(status=503)
            case Stall():
                response = await self._send(request, self._lines(seen, said.turn)[: said.after])
                await asyncio.sleep(said.seconds)
                return response
            case Cut():
                response = await self._send(request, self._lines(seen, said.turn)[: said.after])
                if said.abrupt and request.transport is not None:
                    request.transport.close()
                return response
            case Turn():
                await asyncio.sleep(said.delay)
                if seen.stream:
                    return await self._send(request, self._lines(seen, said))
                encode = responses.answer if seen.api == "responses" else chat.answer
                return web.json_response(encode(said, seen.number, seen.model, self._count(seen, said)))
            case _:
                raise TypeError(f"a program said {said!r}")

    async def _send(self, request: web.Request, lines: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        return response

    def _lines(self, seen: Seen, turn: Turn) -> list[bytes]:
        counted = self._count(seen, turn)
        if seen.api == "responses":
            told = responses.events(turn, seen.number, seen.model, counted)
            return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in told]
        wanted = bool((seen.body.get("stream_options") or {}).get("include_usage"))
        told = chat.chunks(turn, seen.number, seen.model, counted, with_usage=wanted)
        return [f"data: {json.dumps(one)}\n\n".encode() for one in told] + [b"data: [DONE]\n\n"]

    def _count(self, seen: Seen, turn: Turn) -> Counted:
        """What is reported, with the cached part that a prefix cache would find."""
        prompt = "\x00".join([json.dumps(seen.body.get("tools")), seen.instructions, *map(_key, seen.items)])
        shared = max((_common(prompt, before) for before in self._prompts), default="", key=len)
        cached = tokens(shared) // CACHED_STEP * CACHED_STEP
        self._prompts = [*self._prompts[-20:], prompt]
        output = tokens(turn.text) + tokens(turn.reasoning) + sum(tokens(c.name + c.text) for c in turn.calls)
        counted = Counted(
            input=tokens(prompt),
            cached=cached if cached >= CACHED_FROM else 0,
            output=output if turn.output_tokens is None else turn.output_tokens,
            reasoning=tokens(turn.reasoning),
        )
        self.paid.append(counted)
        return counted


def _key(item: Item) -> str:
    return f"{item.kind}:{item.id}:{item.name}:{item.text}"


def _common(one: str, other: str) -> str:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]
