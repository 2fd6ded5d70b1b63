"""Bad clients: many and silent, slow to write, slow to read, and many requests at once on one connection."""

import asyncio
import contextlib
import json
import resource
from urllib.parse import urlsplit

from sartor_agents.measurement.http1 import Connection, Exchange
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample

from .metamorphic import passed
from .opening import Bench
from .prompts import with_length

TOKENS = 16
HALF_REQUESTS = 50
_SPARE_FILES = 128
"""File descriptors that are left to everything else in this process."""
_CONNECT_SECONDS = 60.0
_PIPELINE_SECONDS = 60.0
_SLOW_TRIES = 3


async def idle_connections(bench: Bench, request: GenerationRequest) -> Check:
    """A request is served while very many connections are open and silent."""
    name, wanted = "idle-connections", bench.request.idle_connections
    possible = min(wanted, max(0, raise_file_limit(wanted + _SPARE_FILES) - _SPARE_FILES))
    idle: list[Connection] = []
    refused = ""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                while len(idle) < possible and not refused:
                    try:
                        idle.append(await bench.client.connect())
                    except OSError as error:
                        refused = f" (then: {error})"
        sample = await bench.send(_small(request))
    finally:
        for connection in idle:
            connection.close()
    limit = "" if possible == wanted else f", {wanted} wanted: this process may open no more files"
    message = f"{len(idle)} silent connections{refused}{limit}"
    return _served(name, sample, message, connections=len(idle), wanted=wanted)


def raise_file_limit(wanted: int) -> int:
    """Open files that this process may have, after raising its own limit towards `wanted` as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return wanted if soft == resource.RLIM_INFINITY else soft


async def half_requests(bench: Bench, request: GenerationRequest) -> Check:
    """A request is served while others have sent half of their headers, or half of their bodies, and go on no more."""
    name, payload = "half-requests", bench.client.encode(_small(request))
    head = payload.index(b"\r\n\r\n")
    waiting: list[tuple[Connection, asyncio.Future[Exchange]]] = []
    try:
        for number in range(HALF_REQUESTS):
            part = payload[: head // 2] if number % 2 else payload[: (head + len(payload)) // 2]
            try:
                connection = await bench.client.connect()
            except (OSError, TimeoutError) as error:
                return _crashed(name, f"no connection beside {number} half requests: {error}")
            limit = bench.request.request_timeout
            exchange = asyncio.ensure_future(connection.exchange(part, timeout=limit, stall_timeout=limit))
            waiting.append((connection, exchange))
        sample = await bench.send(_small(request))
    finally:
        for connection, _ in waiting:
            connection.close()
        await asyncio.gather(*(exchange for _, exchange in waiting), return_exceptions=True)
    return _served(name, sample, f"{HALF_REQUESTS} half requests")


async def slow_reader(bench: Bench, request: GenerationRequest) -> Check:
    """A client that does not read holds up nobody else, and gets its whole answer when it reads on.

    A few tries, each given up after a silence, not after a time that a slow engine may need: once a client's buffers
    are full, when the system lets the sender go on is not the server's doing (the window's update may be lost and
    probes for it come ever more rarely: RFC 9293, 3.8.6.1).
    """
    check = await _read_slowly(bench, request)
    for _ in range(_SLOW_TRIES - 1):
        if check.passed:
            break
        check = await _read_slowly(bench, request)
    return check


async def _read_slowly(bench: Bench, request: GenerationRequest) -> Check:
    name, longest = "slow-reader", bench.request.request_timeout
    try:
        connection = await bench.client.connect()
    except (OSError, TimeoutError) as error:
        return _crashed(name, f"no connection: {error}")
    connection.pause()
    payload = bench.client.encode(request)
    reading = asyncio.ensure_future(connection.exchange(payload, timeout=longest, stall_timeout=longest / _SLOW_TRIES))
    try:
        sample = await bench.send(_small(request))
        connection.resume()
        exchange = await reading
    finally:
        connection.close()
        if not reading.done():
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
    if exchange.error is not None or exchange.status != 200:
        return _crashed(name, f"its answer: {exchange.detail or f'HTTP {exchange.status}'}")
    return _served(name, sample, "")


async def pipelined(bench: Bench, request: GenerationRequest) -> tuple[Reason, str] | None:
    """Two requests in one packet (RFC 9112, 9.3.2): both are answered, in order, or the connection ends after the first.

    What is wrong, or None. vLLM's own server answers both.
    """
    parts = urlsplit(bench.client.endpoint.url)
    one, other = (with_length(_small(request), tokens) for tokens in (2, 3))
    payload = b"".join(bench.client.encode(r, stream=False) for r in (one, other))
    try:
        async with asyncio.timeout(min(_PIPELINE_SECONDS, bench.request.request_timeout)):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(payload)
                answers = [await _read_answer(reader), await _read_answer(reader)]
            finally:
                writer.close()
    except TimeoutError:
        return Reason.BAD_INPUT_CRASHED, "not both answered in time"
    except (OSError, EOFError, ValueError) as error:
        return Reason.BAD_INPUT_CRASHED, f"not both answered: {error or type(error).__name__}"
    counts = [bench.counter.count(text) for text in answers]
    if counts[0] > counts[1]:
        return Reason.CROSS_TALK, f"answered in the wrong order: {counts} tokens instead of [2, 3]"
    return None


async def _read_answer(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    if not lengths or " 200 " not in head.split("\r\n")[0] + " ":
        raise ValueError(f"not 200 with a length: {head[:100]!r}")
    choice = json.loads(await reader.readexactly(int(lengths[0])))["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _small(request: GenerationRequest) -> GenerationRequest:
    return with_length(request, min(TOKENS, request.output_tokens))


def _served(name: str, sample: Sample, message: str, **evidence: int) -> Check:
    if not sample.ok:
        return _crashed(name, f"another request meanwhile: {sample.error}: {sample.detail}; {message}")
    return passed(name, 1, message, **evidence)


def _crashed(name: str, message: str) -> Check:
    return Check(name=name, passed=False, reason=Reason.BAD_INPUT_CRASHED, message=message)
