"""Handing a request to the baseline: the client cannot tell, and the metric counts it.

A plain reverse proxy over httpx: bytes go through as they come, in both directions, and a client that hangs up takes
the baseline's work with it. httpx is imported at the first hand-over; most servers never need it.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import BaselineError
from .service import Message, Receive, Send

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("stack.handover")

# RFC 9110, section 7.6.1, and what each side computes for itself.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OWN = frozenset({b"host", b"content-length", b"date", b"server", b"expect"})
_MARK = (b"x-sartor-handover", b"baseline")
"""Tells gateways and probes whose answer this is; to the byte it looks like the stack's own."""
_CONNECT_SECONDS = 5.0

Headers = list[tuple[bytes, bytes]]


class Baseline:
    """The server behind this one, at `url` (scheme, host and port)."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client: httpx.AsyncClient | None = None

    async def relay(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Answer with the baseline's answer. Raises `BaselineError` before the first byte; after it, cuts the answer
        short.

        A request is sent once: whether a generation was begun cannot be known, so nothing is retried.
        """
        import httpx

        client = self._connect()
        request = client.build_request(
            scope["method"],
            httpx.URL(self.url + scope["path"], query=scope.get("query_string", b"")),
            headers=end_to_end(scope["headers"]),
            content=body,
        )
        work = asyncio.ensure_future(self._exchange(client, request, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _exchange(self, client: "httpx.AsyncClient", request: "httpx.Request", send: Send) -> None:
        import httpx

        try:
            response = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise BaselineError(
                f"This request was handed over to the baseline at {self.url}, which did not answer: "
                f"{type(error).__name__}: {error}"
            ) from error
        try:
            # The length is kept: the bytes go through as they are, compressed or not.
            headers = [
                (name, value)
                for name, value in response.headers.raw
                if name.lower() not in _HOP_BY_HOP | {b"date", b"server", _MARK[0]}
            ]
            headers.append(_MARK)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx.HTTPError as error:
            # The status is out already. Leaving the answer unfinished makes the server close the connection, so that the
            # client sees a broken answer rather than a short one.
            log.warning("the baseline broke off in the middle of an answer: %s", error)
        finally:
            await response.aclose()

    def _connect(self) -> "httpx.AsyncClient":
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=False,
            )
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """A request's headers without those of this hop, nor any that `Connection` names."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    drop = _HOP_BY_HOP | _OWN | named
    return [(name, value) for name, value in headers if name not in drop]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
