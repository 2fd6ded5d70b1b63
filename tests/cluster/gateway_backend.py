"""An HTTP server for the tests of the Gateway: `python gateway_backend.py ADDRESS PORT NAME`. Prints a line when it serves.

Every answer names the arm. `/?ms=20&status=503` waits and answers, `/?hangs=NAME` takes half a minute where that is the arm;
`/stream?seconds=5` sends an event every 100 ms and `[DONE]` at the end; `/cut` breaks off in the middle of a stream;
`/seen?path=/x` tells how many requests to a path came, `/metrics` how many in all, for Prometheus.
"""

import asyncio
import contextlib
import sys
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

EVENT_SECONDS = 0.1
HANG_SECONDS = 30.0


class Backend:
    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: Counter[str] = Counter()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.seen[request.path] += 1
        return await handler(request)

    async def answer(self, request: web.Request) -> web.Response:
        hangs = HANG_SECONDS if request.query.get("hangs") == self.name else 0.0
        await asyncio.sleep(float(request.query.get("ms", 0)) / 1000 + hangs)
        headers = {"X-Arm": self.name}
        if "handover" in request.query:
            headers["X-Sartor-Handover"] = request.query["handover"]
        return web.Response(text=self.name, status=int(request.query.get("status", 200)), headers=headers)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = await self._begin(request)
        with contextlib.suppress(ConnectionResetError):  # the client has gone
            for number in range(round(float(request.query.get("seconds", 1)) / EVENT_SECONDS)):
                await response.write(f"data: {number}\n\n".encode())
                await asyncio.sleep(EVENT_SECONDS)
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    async def cut(self, request: web.Request) -> web.StreamResponse:
        response = await self._begin(request)
        for number in range(3):
            await response.write(f"data: {number}\n\n".encode())
            await asyncio.sleep(EVENT_SECONDS)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def tell(self, request: web.Request) -> web.Response:
        return web.Response(text=str(self.seen[request.query["path"]]))

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=f"backend_requests_total {self.seen.total()}\n")

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "X-Arm": self.name}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        return response


async def main(address: str, port: int, name: str) -> None:
    backend = Backend(name)
    app = web.Application(middlewares=[backend.count])
    app.router.add_get("/seen", backend.tell)
    app.router.add_get("/metrics", backend.metrics)
    app.router.add_route("*", "/stream", backend.stream)
    app.router.add_route("*", "/cut", backend.cut)
    app.router.add_route("*", "/{path:.*}", backend.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
