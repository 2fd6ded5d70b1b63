"""A small API server for the client's tests: answers are given by functions, requests are kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials

Answer = tuple[int, Any]


@dataclass
class FakeApi:
    """`answer(method, path, query, body)` gives (status, object); a list of bytes is sent piece by piece."""

    answer: Callable[[str, str, dict[str, str], Any], Answer | Awaitable[Answer]]
    requests: list[tuple[str, str, dict[str, str], Any, dict[str, str]]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = json.loads(text) if text else None
        query = dict(request.query)
        self.requests.append((request.method, request.path, query, body, dict(request.headers)))
        found = self.answer(request.method, request.path, query, body)
        status, content = await found if isinstance(found, Awaitable) else found
        if isinstance(content, list):
            response = web.StreamResponse(status=status)
            await response.prepare(request)
            for piece in content:
                await response.write(piece)
                await asyncio.sleep(0)
            return response
        headers = {"Retry-After": "1"} if status == 429 else {}
        return web.json_response(content, status=status, headers=headers)

    @asynccontextmanager
    async def client(self, **credentials: Any) -> AsyncIterator[ApiClient]:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", self.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        client = ApiClient(Credentials(f"http://127.0.0.1:{port}", **credentials))
        try:
            yield client
        finally:
            await client.close()
            await runner.cleanup()


def item(name: str, version: int, uid: str = "u", namespace: str = "n", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, **more}


def event(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"
