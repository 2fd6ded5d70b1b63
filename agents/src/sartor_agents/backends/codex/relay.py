"""The one way out of a Codex sandbox: a UNIX socket that leads to one address of one provider (or of the model proxy).

The sandbox holds no key: the relay adds it. It takes `POST /v1/responses` and nothing else, counts the tokens that the
provider reports in each answer, and refuses calls once the limit is used up, so that a run that is over its budget ends
whatever the program inside does. An answer without a report is charged by its size.
"""

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import aiohttp
from aiohttp import web

from sartor_agents.backends.access import CALL_HEADER, RECORDED_HEADER
from sartor_agents.backends.codex.events import Lines, Tokens
from sartor_agents.backends.codex.names import call_name

LARGEST_REQUEST = 64 << 20
BYTES_PER_TOKEN = 3
"""For answers without a report: fewer than any tokenizer needs for text, so that the charge is not too small."""
STALL_SECONDS = 600.0
_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_PASSED_BACK = ("Content-Type", "Retry-After", "x-request-id")
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    """`url` up to and including the version (`http://127.0.0.1:8080/v1`). `token` is sent as bearer; None: nothing is.

    `conversation` begins the names of the calls, for the model proxy to know them again: it is the same in every life of the
    step, and no other conversation's. Without one they have no names."""

    url: str
    token: str | None = None
    conversation: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"


class Relay:
    """Runs in a thread of its own while the context lasts. `tokens` and `calls` are what was used so far."""

    def __init__(self, endpoint: Endpoint, socket: Path, *, most_tokens: int | None) -> None:
        self._endpoint = endpoint
        self._socket = socket
        self._most = most_tokens
        self._lock = threading.Lock()
        self._tokens = Tokens()
        self.calls = 0
        self.refused = 0
        self.last_failure = ""

    @property
    def tokens(self) -> Tokens:
        with self._lock:
            return self._tokens

    @property
    def exhausted(self) -> bool:
        return self._most is not None and self.tokens.total >= self._most

    def __enter__(self) -> "Relay":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="codex relay", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_STOP_SECONDS)
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=STALL_SECONDS)
        self._client = aiohttp.ClientSession(timeout=timeout, auto_decompress=True)
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_post("/v1/responses", self._responses)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._socket)).start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        if self.exhausted:
            self.refused += 1
            return _error(403, "tokens_exhausted", f"this step has used its {self._most} tokens")
        body = await request.read()
        headers = {"Content-Type": "application/json", "Accept": request.headers.get("Accept", "*/*")}
        if self._endpoint.token is not None:
            headers["Authorization"] = f"Bearer {self._endpoint.token}"
        conversation = self._endpoint.conversation
        if conversation is not None and (name := call_name(conversation, body)) is not None:
            headers[CALL_HEADER] = name
        self.calls += 1
        try:
            async with self._client.post(
                f"{self._endpoint.url.rstrip('/')}/responses", data=body, headers=headers, allow_redirects=False
            ) as answer:
                return await self._pass_back(request, answer, len(body))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.last_failure = f"{type(error).__name__}: {error}"
            return _error(502, "provider_unreachable", "the provider cannot be reached")

    async def _pass_back(self, request: web.Request, answer: aiohttp.ClientResponse, asked: int) -> web.StreamResponse:
        if answer.status >= 400:
            self.last_failure = f"HTTP {answer.status}"
        kept = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        # A recorded answer was paid for when it came first.
        lines, size, charged = Lines(), 0, answer.status >= 400 or RECORDED_HEADER in answer.headers

        def charge_by_size() -> None:
            if not charged:
                self._charge(Tokens(input=asked // BYTES_PER_TOKEN, output=size // BYTES_PER_TOKEN))

        # Charged before it is passed on: the next call may come at once.
        try:
            async for data in answer.content.iter_any():
                size += len(data)
                for line in lines.add(data):
                    if not charged and (report := _report(line)) is not None:
                        self._charge(report)
                        charged = True
                await response.write(data)
        except BaseException:
            charge_by_size()  # what was sent until it was cut off was paid for
            raise
        charge_by_size()
        await response.write_eof()
        return response

    def _charge(self, more: Tokens) -> None:
        with self._lock:
            was = self._tokens
            self._tokens = Tokens(
                was.input + more.input,
                was.cached + more.cached,
                was.output + more.output,
                was.reasoning + more.reasoning,
            )


def _report(line: str) -> Tokens | None:
    """The tokens that a line of the event stream reports, if it is the last event's."""
    if not line.startswith("data:"):
        return None
    try:
        event = json.loads(line.removeprefix("data:"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or cast(dict[str, Any], event).get("type") not in _FINAL:
        return None
    response = cast(dict[str, Any], event).get("response")
    usage = cast(dict[str, Any], response).get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return None
    values = cast(dict[str, Any], usage)

    def number(group: object, name: str) -> int:
        value = cast(dict[str, Any], group).get(name) if isinstance(group, dict) else None
        return value if isinstance(value, int) and value >= 0 else 0

    return Tokens(
        number(values, "input_tokens"),
        number(values.get("input_tokens_details"), "cached_tokens"),
        number(values, "output_tokens"),
        number(values.get("output_tokens_details"), "reasoning_tokens"),
    )


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "sartor", "param": None, "code": code}}, status=status
    )
