"""What the load generator itself can take: `python -m sartor_agents.measurement.ceiling`.

A null server in a process of its own answers every request at once with a stream made beforehand. What the client reaches
against it is an upper bound of what it can measure; a server measured near this bound would be measuring the client. Both
share the machine's cores, as in a real measurement, so the bound is a cautious one. The share of its core that the client
used belongs to each rate: it is what windows are refused by (`generator`), since it holds for any mix of requests.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from typing import cast

import uvloop

from .client import LoadClient
from .generator import GeneratorLoad
from .http1 import Exchange
from .messages import Endpoint
from .samples import GenerationRequest, Purpose
from .tokens import TokenCounter

CHUNKS = 128


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Rates reached against the null server with `concurrency` requests in flight, `chunks` events per answer."""

    concurrency: int
    chunks: int
    lumped: bool
    requests_per_second: float
    chunks_per_second: float
    cpu_share: float
    lag: float
    seconds: float


class _Null(asyncio.Protocol):
    """Answers each request (any bytes that end a JSON body) with the prepared stream: whole, or one write per event."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are their own classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self._task = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        for piece in self._pieces:
            self._transport.write(piece)
            await asyncio.sleep(0)


def prepared_stream(chunks: int, *, lumped: bool) -> list[bytes]:
    """One answer of `chunks` content events in HTTP chunked encoding, as one write or as one write per event."""
    choice = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "choices": [{"index": 0, "text": " word"}]}
    events = [json.dumps(choice).encode()] * chunks
    events += [
        json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": chunks}}).encode(),
        b"[DONE]",
    ]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [head]
    for event in events:
        line = b"data: " + event + b"\n\n"
        pieces.append(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    pieces.append(b"0\r\n\r\n")
    return [b"".join(pieces)] if lumped else pieces


def _serve(pipe: Pipe, chunks: int, lumped: bool) -> None:
    async def run() -> None:
        pieces = prepared_stream(chunks, lumped=lumped)
        server = await asyncio.get_running_loop().create_server(lambda: _Null(pieces), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    uvloop.run(run())


async def _load(port: int, concurrency: int, seconds: float) -> tuple[list[Exchange], GeneratorLoad]:
    """Keep `concurrency` requests in flight, through the client and the code path of a measurement."""
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}")
    # Nothing is decoded while load runs, so no tokenizer is needed.
    counter = cast(TokenCounter, None)
    client = LoadClient(endpoint, model="null", counter=counter, request_timeout=30, stall_timeout=30)
    body = {"prompt": "x" * 300, "max_tokens": CHUNKS}
    request = GenerationRequest("null", "null", "/v1/completions", body, (), CHUNKS)
    until = client.clock() + seconds

    def slot() -> Iterator[tuple[GenerationRequest, Purpose]]:
        return itertools.repeat((request, "scored"))

    sent = await client.closed_loop([slot() for _ in range(concurrency)], until=lambda: until)
    return [one.exchange for one in sent], client.load


def measure(*, concurrency: int, seconds: float = 2.0, chunks: int = CHUNKS, lumped: bool = False) -> Ceiling:
    """The ceiling at one concurrency. Raises `RuntimeError` when an exchange failed: then the client is broken, not slow."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, chunks, lumped), daemon=True)
    server.start()
    try:
        done, load = uvloop.run(_load(mine.recv(), concurrency, seconds))
    finally:
        mine.send(None)
        server.join(5)
        if server.is_alive():
            server.kill()
    failed = [exchange for exchange in done if exchange.error is not None]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(done)} exchanges with the null server failed: {failed[0].detail}")
    rate = len(done) / load.seconds
    return Ceiling(concurrency, chunks, lumped, rate, rate * chunks, load.cpu_share, load.lag, load.seconds)


def main(arguments: list[str]) -> int:
    """Print one JSON line per setting."""
    parser = argparse.ArgumentParser(prog="python -m sartor_agents.measurement.ceiling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per setting")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args(arguments)
    for concurrency in options.concurrency:
        for lumped in (False, True):
            result = measure(concurrency=concurrency, seconds=options.seconds, lumped=lumped)
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
