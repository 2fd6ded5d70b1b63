"""One HTTP/1.1 connection, as cheap as Python allows: the load generator shares its cores with what it measures.

An `asyncio.Protocol` around httptools' C parser notes the arrival time of each read and keeps the bytes; nothing is decoded
while load runs. A connection serves one exchange at a time and is reused while the server keeps it open. There is no
retry: what a user would have seen is what is recorded.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools

from .samples import ErrorClass

Clock = Callable[[], float]

LARGEST_ANSWER = 64 << 20
"""Bytes of a body beyond which a server is not answering but filling memory."""


@dataclass(slots=True)
class Exchange:
    """What came back on the wire. Times on the client's clock; `pieces` are (time, body bytes)."""

    sent: float
    first_byte: float | None = None
    end: float = 0.0
    status: int = 0
    content_type: str = ""
    pieces: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])
    error: ErrorClass | None = None
    detail: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


def encode_request(
    method: str, authority: str, path: str, body: Mapping[str, Any] | bytes | None = None, *, headers: str = ""
) -> bytes:
    """The bytes of one request; a mapping is sent as JSON. `headers` are further lines, each ending in CRLF."""
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(dict(body)).encode()
    kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{kind}{headers}\r\n".encode() + payload


class Connection(asyncio.Protocol):
    """A client connection; make it with `Connection.open`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrived: asyncio.Future[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self._keep = True
        self._last = 0.0
        self._size = 0
        self._now = 0.0

    @classmethod
    async def open(cls, url: str, clock: Clock, *, timeout: float = 10.0) -> Self:
        """Connect to `http://HOST:PORT`. Raises `OSError` or `TimeoutError`."""
        parts = urlsplit(url)
        if parts.hostname is None:
            raise ValueError(f"{url!r} names no host")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            _, protocol = await loop.create_connection(lambda: cls(clock), parts.hostname, parts.port or 80)
        return protocol

    @property
    def local_port(self) -> int:
        """Our end's port."""
        assert self._transport is not None
        return self._transport.get_extra_info("sockname")[1]

    @property
    def usable(self) -> bool:
        """Whether another exchange may be sent on it."""
        return self._keep and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close at once, in mid-answer as well (to the server: a client that went away)."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes, *, timeout: float, stall_timeout: float) -> Exchange:
        """Send `request`, wait for the whole answer. Never raises for what the server does: see `Exchange.error`."""
        assert self._transport is not None and self._exchange is None, "one exchange at a time"
        loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._done = loop.create_future()
        exchange = self._exchange = Exchange(sent=self._clock())
        self._last = exchange.sent
        self._size = 0
        self._watcher = loop.call_later(min(timeout, stall_timeout), self._watch, timeout, stall_timeout)
        self._transport.write(request)
        try:
            await self._done
        finally:
            self._stop_watch()
            self._exchange = None
            if not exchange.end:
                exchange.end = self._clock()
            if exchange.error is not None or not self._done.done() or self._done.cancelled():
                self.close()
        return exchange

    async def leave_early(self, request: bytes, *, timeout: float) -> Exchange:
        """Send `request` and go away as soon as body bytes have come (or all is over). What had come until then."""
        self._arrived = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self.exchange(request, timeout=timeout, stall_timeout=timeout))
        await asyncio.wait({task, self._arrived}, return_when=asyncio.FIRST_COMPLETED)
        complete = task.done()
        self.close()
        exchange = await task
        if not complete and exchange.error is ErrorClass.RESET:
            exchange.error, exchange.detail = None, ""  # it was we who left
        return exchange

    def pause(self) -> None:
        """Stop reading (a slow reader)."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        self._now = self._last = self._clock()
        exchange = self._exchange
        if exchange is None:
            self.close()  # bytes that nobody asked for
            return
        if exchange.first_byte is None:
            exchange.first_byte = self._now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ErrorClass.PROTOCOL, f"not HTTP/1.1: {error}: {data[:60]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = False
        if self._exchange is not None and not self._answered():
            self._fail(ErrorClass.RESET, f"connection closed in mid-answer ({exc or 'end of stream'})")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None and name.lower() == b"content-type":
            self._exchange.content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._size += len(body)
            if self._size > LARGEST_ANSWER:
                self._fail(ErrorClass.PROTOCOL, f"the answer is longer than {LARGEST_ANSWER >> 20} MiB")
                self.close()
                return
            self._exchange.pieces.append((self._now, body))
            if self._arrived is not None and not self._arrived.done():
                self._arrived.set_result(None)

    def on_message_complete(self) -> None:
        if self._exchange is not None and self._done is not None and not self._done.done():
            self._exchange.end = self._now
            self._keep = self._keep and bool(self._parser.should_keep_alive())
            self._done.set_result(None)

    def _stop_watch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    def _answered(self) -> bool:
        return self._done is not None and self._done.done()

    def _fail(self, error: ErrorClass, detail: str) -> None:
        if self._exchange is not None and self._done is not None and not self._done.done():
            self._exchange.error, self._exchange.detail = error, detail
            self._exchange.end = self._clock()
            self._done.set_result(None)

    def _watch(self, timeout: float, stall_timeout: float) -> None:
        """One timer per exchange, moved on only when it fires: silence costs nothing while bytes flow."""
        if self._exchange is None:
            return
        now = self._clock()
        over, quiet = self._exchange.sent + timeout - now, self._last + stall_timeout - now
        if over <= 0:
            self._fail(ErrorClass.TIMEOUT, f"no complete answer after {timeout:g} s")
        elif quiet <= 0:
            self._fail(ErrorClass.STALL, f"silent for {stall_timeout:g} s")
        else:
            loop = asyncio.get_running_loop()
            self._watcher = loop.call_later(min(over, quiet) + 0.001, self._watch, timeout, stall_timeout)
