"""Forwards TCP connections from a listening socket, wherever it was made, to an address in this process's namespace."""

import asyncio
import socket
from typing import cast

BUFFER_BYTES = 1 << 20
"""What may wait for a slow reader before its sender is held up."""


class Pipe(asyncio.Protocol):
    """One of the two ends of a forwarded connection; hands what it reads to the other end."""

    def __init__(self) -> None:
        self.peer: Pipe | None = None
        self._transport: asyncio.Transport | None = None
        self._finished = False
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def join(self, peer: "Pipe") -> None:
        """Connect two ends that are both open."""
        self.peer, peer.peer = peer, self
        for end in (self, peer):
            if end._early:
                end.data_received(bytes(end._early))
                end._early.clear()
            if end._finished:
                end.eof_received()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            # Pausing a transport that is being made has no effect in some versions of Python: what comes early is kept.
            self._early += data
        elif self.peer._transport is not None:
            self.peer._transport.write(data)

    def eof_received(self) -> bool:
        """A client may close its half and still read the answer; the connection ends when both have closed theirs."""
        self._finished = True
        if self.peer is None:
            return True
        if self.peer._transport is None or self.peer._finished:
            return False
        self.peer._transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.close()
        self._transport = self.peer = None

    @property
    def gone(self) -> bool:
        """Whether the connection has ended (or has not begun)."""
        return self._transport is None

    def hold(self) -> None:
        """Leave what arrives in the kernel until `release`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def release(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def forward(listener: socket.socket, address: str, port: int) -> asyncio.Server:
    """Serve `listener`: each connection is joined to a new one to `address:port`, or closed where nobody listens there."""
    loop = asyncio.get_running_loop()
    dialling: set[asyncio.Task[None]] = set()

    async def dial(outer: Pipe) -> None:
        inner = Pipe()
        try:
            await loop.create_connection(lambda: inner, address, port)
        except OSError:
            outer.close()
            return
        if outer.gone:
            inner.close()
            return
        outer.join(inner)
        outer.release()

    class Outer(Pipe):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.hold()
            task = loop.create_task(dial(self))
            dialling.add(task)
            task.add_done_callback(dialling.discard)

    return await loop.create_server(Outer, sock=listener, backlog=512)
