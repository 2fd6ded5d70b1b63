"""The listening side: connections that do not finish their request header in time, or are too many, are closed."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEP_ALIVE_SECONDS = 15.0
MOST_CONNECTIONS = 512
_CERTIFICATE_SECONDS = 60.0


class _Connection(web.RequestHandler):
    """aiohttp's connection with a time limit for the first request header; later ones have the keep-alive's."""

    def __init__(self, manager: "GuardedServer", *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._guard = manager
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport), "HTTP comes over a stream"
        if len(self._guard.connections) > self._guard.most_connections:
            self._guard.on_cut("connections")
            transport.abort()
            return
        self._limit = asyncio.get_running_loop().call_later(self._guard.header_seconds, self._late, transport)

    def began(self) -> None:
        """A whole request header has come."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.began()
        super().connection_lost(exc)

    def _late(self, transport: asyncio.Transport) -> None:
        self._limit = None
        self._guard.on_cut("header")
        transport.abort()


class GuardedServer(web.Server):
    """aiohttp's low-level server with those connections."""

    def __init__(
        self,
        handler: Handler,
        *,
        header_seconds: float,
        on_cut: Callable[[str], None],
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, _Connection), "made by this server"
            connection.began()
            return await handler(request)

        super().__init__(handle)
        self.header_seconds = header_seconds
        self.on_cut = on_cut
        self.most_connections = most_connections

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=10.0,
            max_field_size=16384,
            access_log=None,  # pyright: ignore[reportArgumentType] - None is how aiohttp is told to keep no log
        )


class Certificate:
    """A certificate in files that somebody renews: connections made after a change get the new one."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `OSError` or `ssl.SSLError` for files that are not there or do not fit."""
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._stamp()
        self.context.load_cert_chain(*self._files)

    def _stamp(self) -> tuple[float, ...]:
        return tuple(file.stat().st_mtime for file in self._files)

    def renew(self) -> bool:
        """Load the files again if they changed; whether they did. Half-written files are tried again later."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError):
            return False
        self._seen = stamp
        return True

    async def watch(self) -> None:
        """For as long as the service runs."""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            self.renew()
