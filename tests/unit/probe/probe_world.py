"""Arms that answer what a test wants, and a probe between them, all on 127.0.0.1."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from sartor_agents.probe.ring import Ring
from sartor_agents.probe.server import Probe, Settings, Surroundings, servers
from sartor_api.probe import ProbePage, ProbeRecord

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"
END = b"0\r\n\r\n"


@dataclass
class Asked:
    """A request that reached an arm."""

    line: str
    headers: dict[str, str]
    body: dict[str, Any]


Answer = Callable[[asyncio.StreamWriter, Asked], Awaitable[None]]


def chunk(text: str, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, **choice}]}


def sse(*payloads: dict[str, Any] | str) -> bytes:
    lines = [p if isinstance(p, str) else json.dumps(p) for p in payloads]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def chunked(*parts: bytes) -> bytes:
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)


def stream(*parts: bytes, end: bytes = END) -> bytes:
    """A stream of these bytes, each a chunk; without `end` it is not over."""
    return HEAD + b"\r\n" + chunked(*parts) + end


def says(*texts: str, headers: bytes = b"") -> Answer:
    """A whole stream: one event per text, `usage`, `[DONE]`."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(HEAD + headers + b"\r\n")
        for text in texts:
            writer.write(chunked(sse(chunk(text))))
        writer.write(chunked(sse({"choices": [], "usage": {"completion_tokens": len(texts)}}, "[DONE]")) + END)

    return answer


def sends(*pieces: bytes, then: str = "close") -> Answer:
    """These bytes, and then: close, reset, or hang."""

    async def answer(writer: asyncio.StreamWriter, asked: Asked) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then == "hang":
            await asyncio.sleep(60)
        elif then == "reset":
            writer.transport.abort()

    return answer


class FakeArm:
    """An HTTP server that answers each request by `answer` and closes the connection."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.closed_by_client = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            asked = Asked(head[0], headers, json.loads(body))
            self.asked.append(asked)
            work = asyncio.ensure_future(self.answer(writer, asked))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            self.closed_by_client += not work.done()
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def arm(answer: Answer) -> AsyncIterator[FakeArm]:
    made = FakeArm(answer)
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0, limit=32 << 20)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


@dataclass
class World:
    """A probe at work between two arms."""

    probe: Probe
    ring: Ring
    baseline: FakeArm
    candidate: FakeArm
    copies: str
    control: str
    http: aiohttp.ClientSession
    time: "Clock"

    async def copy(
        self,
        body: Any = None,
        *,
        path: str = "/v1/completions",
        headers: dict[str, str] | None = None,
        method: str = "POST",
    ) -> int:
        data = body if isinstance(body, bytes) else json.dumps({"prompt": "p"} if body is None else body).encode()
        async with self.http.request(method, self.copies + path, data=data, headers=headers) as response:
            return response.status

    async def poll(self, *, share: float = 1.0, after: int = 0, boot: str | None = "boot") -> ProbePage:
        ask = {"boot": boot, "after": after, "share": share}
        async with self.http.post(self.control + "/poll", json=ask) as response:
            text = await response.text()
            assert response.status == 200, text
            return ProbePage.model_validate_json(text)

    async def records(self, number: int) -> tuple[ProbeRecord, ...]:
        """At least `number` records, waited for."""
        async with asyncio.timeout(20):
            while len((page := await self.poll()).records) < number:
                await asyncio.sleep(0.005)
        return page.records

    async def pair(self, body: Any = None, **more: Any) -> dict[str, ProbeRecord]:
        """Both records of one copy, by arm."""
        before = len((await self.poll()).records)
        assert await self.copy(body, **more) == 202
        found = (await self.records(before + 2))[before:]
        return {record.arm: record for record in found}


@dataclass
class Clock:
    """The process's own clock, moved on at will."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.perf_counter() + self.ahead


@asynccontextmanager
async def world(
    baseline: Answer | None = None,
    candidate: Answer | None = None,
    *,
    concurrency: int = 4,
    timeout: float = 10.0,
    keep: int = 1000,
    candidate_url: str | None = None,
) -> AsyncIterator[World]:
    """A probe that samples everything. Nothing is left behind when it ends."""
    clock = Clock()
    async with arm(baseline or says("a", "b")) as one, arm(candidate or says("a", "b")) as other:
        settings = Settings(
            baseline=one.url, candidate=candidate_url or other.url, concurrency=concurrency, timeout=timeout
        )
        ring = Ring("boot", keep)
        probe = Probe(
            settings, Surroundings(clock=clock, wall=time.time, draw=random.Random(7).random), ring, salt="salt"
        )
        runners = servers(probe)
        urls: list[str] = []
        try:
            for runner in runners:
                await runner.setup()
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            async with aiohttp.ClientSession() as http:
                made = World(probe, ring, one, other, urls[0], urls[1], http, clock)
                await made.poll()
                yield made
        finally:
            for runner in runners:
                await runner.cleanup()
            await probe.close()


def quiet(records: list[logging.LogRecord]) -> bool:
    """Whether nothing was logged that shows a traceback."""
    return not any(record.exc_info for record in records)
