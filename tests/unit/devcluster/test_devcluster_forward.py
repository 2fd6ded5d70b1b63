"""The forwarder: bytes, half-closed connections, slow readers, nobody on the other side."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from sartor_devcluster.forward import forward
from sartor_devcluster.supervisor import bind

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SECONDS = 10.0


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, SECONDS)

    asyncio.run(bounded())


@asynccontextmanager
async def forwarded(handler: Handler) -> AsyncGenerator[Callable[[], Awaitable[Ends]]]:
    """A server behind a forwarder; what is yielded opens a connection to it."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    listener = bind(0)
    forwarder = await forward(listener, *server.sockets[0].getsockname())
    port = listener.getsockname()[1]
    async with server, forwarder:
        yield lambda: asyncio.open_connection("127.0.0.1", port)


def test_a_client_that_closes_its_half_still_gets_the_answer() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async def test() -> None:
        async with forwarded(handler) as connect:
            reader, writer = await connect()
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"HELLO"
            writer.close()

    run(test())


def test_a_server_that_closes_ends_the_connection() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    async def test() -> None:
        async with forwarded(handler) as connect:
            reader, writer = await connect()
            assert await reader.read() == b"bye"
            writer.close()
            await writer.wait_closed()

    run(test())


def test_a_client_that_goes_away_is_noticed_by_the_server() -> None:
    async def test() -> None:
        gone = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            gone.set()
            writer.close()

        async with forwarded(handler) as connect:
            _, writer = await connect()
            writer.close()
            await gone.wait()

    run(test())


def test_many_bytes_both_ways_with_a_slow_reader() -> None:
    """More (51 MB) than the buffers of the kernel hold: the sender is held up, nothing is lost and memory stays bounded."""
    data = bytes(range(256)) * 200_000

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def test() -> None:
        async with forwarded(handler) as connect:
            reader, writer = await connect()

            async def send() -> None:
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            await asyncio.sleep(0.05)
            assert not sending.done(), "nobody has read yet, so the sender must wait"
            seen = hashlib.sha256()
            while piece := await reader.read(1 << 16):
                seen.update(piece)
            await sending
            assert seen.digest() == hashlib.sha256(data).digest()
            writer.close()

    run(test())


def test_nobody_there_closes_the_connection() -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            listener = bind(0)
            async with await forward(listener, *unused.getsockname()):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                assert await reader.read() == b""
                writer.close()

    run(test())


def test_a_port_that_is_taken_is_replaced() -> None:
    with bind(0) as first:
        first.listen()
        port = first.getsockname()[1]
        with bind(port) as second:
            assert second.getsockname()[1] != port
    with bind(port) as again:
        assert again.getsockname()[1] == port
