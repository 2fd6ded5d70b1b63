"""An API server that misbehaves: a proxy before the real one, which cuts, holds, refuses and remembers.

It speaks plain HTTP on 127.0.0.1 and has a kubeconfig of its own. Writes are let through whole: what the API server was
asked is done, whatever becomes of whoever asked.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from sartor_operator.connection import Connection

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: a
contexts: [{{name: a, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]
users: [{{name: u, user: {{}}}}]
"""
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PASSED_BACK = ("Content-Type", "Content-Encoding", "Retry-After")
"""Of an answer; long ones come compressed, and their bytes are handed on as they are."""
_PASSED = ("Content-Type", "User-Agent", "Accept")


@dataclass(frozen=True)
class Request:
    """One request: verb as in the audit log, resource with its subresource behind a slash (`pods/status`)."""

    verb: str
    resource: str
    name: str
    at: float
    """Monotonic seconds."""

    @property
    def is_write(self) -> bool:
        return self.verb in VERBS.values()

    @classmethod
    def of(cls, request: web.Request, data: bytes) -> "Request":
        parts = request.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if len(rest) > 2 and rest[0] == "namespaces":
            rest = rest[2:]
        resource, name = (rest[0] if rest else ""), (rest[1] if len(rest) > 1 else "")
        below = f"/{rest[2]}" if len(rest) > 2 else ""
        if request.method == "POST":
            name = str(json.loads(data)["metadata"]["name"])  # the operator gives every object its name
        reading = "watch" if "watch" in request.query else "get" if name else "list"
        return cls(VERBS.get(request.method, reading), resource + below, name, time.monotonic())


@dataclass(frozen=True)
class Refusal:
    """An answer in place of the API server's."""

    status: int
    reason: str
    retry_after: int | None = None

    def answer(self) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": self.reason, "code": self.status,
                "message": f"{self.reason}, by the test"}  # fmt: skip
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return web.json_response(body, status=self.status, headers=headers)


class Proxy:
    """Use it as a context. What it does is changed by setting its attributes, from any thread."""

    def __init__(self, kubeconfig: Path, own: Path) -> None:
        self._upstream = Connection.load(str(kubeconfig))
        self.kubeconfig = own
        self.seen: list[Request] = []
        """Every request, those that were refused included."""
        self.writes: list[Request] = []
        """Writes that the API server granted, leases left out."""
        self.refuse: Callable[[Request], Refusal | None] = lambda _request: None
        self.written: Callable[[Request, int], bool] = lambda _request, _count: False
        """Called after each granted write with its number, before it is answered; true: it never is."""
        self.remember_at: Callable[[Request], bool] = lambda _request: False
        """Whether the lists are remembered as they are just before this request."""
        self.hang: Callable[[Request], bool] = lambda _request: False
        """Whether a request gets no answer as long as this is true."""
        self.stale = False
        """Whether lists are answered as they are remembered."""
        self.held = False
        """Whether watches say nothing; what they have to say comes later."""
        self._memory: dict[str, bytes] = {}
        self._lists: set[str] = set()
        self._watches: dict[int, web.Request] = {}
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._ready.wait(10), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the proxy does not end"
        self._loop.close()

    def cut_watches(self) -> None:
        """Break the connection of every watch, as a machine in between does."""

        def cut() -> None:
            for request in self._watches.values():
                if request.transport is not None:
                    request.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    @property
    def remembers(self) -> bool:
        return bool(self._memory)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._upstream.ssl_context(), limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{tail:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.kubeconfig.write_text(KUBECONFIG.format(port=runner.addresses[0][1]))
            self._ready.set()
            await self._end.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        seen = Request.of(request, data)
        self.seen.append(seen)
        while self.hang(seen) and request.transport is not None:
            await asyncio.sleep(0.02)
        if (refusal := self.refuse(seen)) is not None:
            return refusal.answer()
        if seen.verb == "watch":
            return await self._watch(request)
        if seen.verb == "list":
            self._lists.add(request.raw_path)
            if self.stale and request.raw_path in self._memory:
                return web.Response(body=self._memory[request.raw_path], content_type="application/json")
        if self.remember_at(seen):
            await self._remember()
        try:
            status, answer, headers = await self._ask(request.method, request.raw_path, data, request)
        except aiohttp.ClientError:
            self._abort(request)  # the API server is away, and so is what stands for it
            return web.Response(status=502)
        if seen.is_write and status < 300 and not seen.resource.startswith("leases"):
            self.writes.append(seen)
            if self.written(seen, len(self.writes)):
                self._abort(request)
        return web.Response(status=status, body=answer, headers=headers)

    @staticmethod
    def _abort(request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()

    async def _ask(
        self, method: str, path: str, data: bytes, request: web.Request | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        sent = {key: request.headers[key] for key in _PASSED if request is not None and key in request.headers}
        url = URL(self._upstream.server + path, encoded=True)
        async with self._session.request(method, url, data=data or None, headers=sent) as answer:
            passed = {key: answer.headers[key] for key in _PASSED_BACK if key in answer.headers}
            return answer.status, await answer.read(), passed

    async def _remember(self) -> None:
        for path in list(self._lists):
            status, data, _ = await self._ask("GET", path, b"")
            if status == 404:
                continue  # of a kind that the cluster does not know
            assert status == 200, f"{path}: {status}"
            self._memory[path] = data

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        sent = {key: request.headers[key] for key in _PASSED if key in request.headers}
        url = URL(self._upstream.server + request.raw_path, encoded=True)
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with self._session.get(url, headers=sent, timeout=timeout) as upstream:
                if upstream.status != 200:
                    return web.Response(status=upstream.status, body=await upstream.read(),
                                        content_type="application/json")  # fmt: skip
                answer = web.StreamResponse(headers={"Content-Type": "application/json"})
                await answer.prepare(request)
                self._watches[id(request)] = request
                pump = asyncio.create_task(self._pump(upstream, answer))
                while not pump.done() and request.transport is not None:
                    await asyncio.wait({pump}, timeout=0.25)
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
                return answer
        except aiohttp.ClientError:
            self._abort(request)
            return web.Response(status=502)
        finally:
            self._watches.pop(id(request), None)

    async def _pump(self, upstream: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
        async for chunk in upstream.content.iter_any():
            while self.held:
                await asyncio.sleep(0.02)
            await answer.write(chunk)
        await answer.write_eof()
