"""The few requests that the cluster itself sends to its API server: probes, bootstrap objects, certificate approvals.

A handful of calls against a server next door; a client library would cost more time to import than the cluster takes to
answer.
"""

import asyncio
import http.client
import io
import json
import socket
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from sartor_devcluster.components import Probe

PROBE_SECONDS = 2.0
REQUEST_SECONDS = 10.0
EVENT_BYTES = 4 << 20
"""More than an object may have in the store."""

FIELD_MANAGER = "sartor-devcluster"


class ApiError(Exception):
    """The API server answered with something else than success. `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def tls(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A context that trusts `authority` alone and shows the client certificate, if one is given."""
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


async def well(probe: Probe) -> bool:
    """Whether the component answers its probe with 200, within `PROBE_SECONDS`."""
    context = None
    if probe.scheme == "https":
        context = tls(Path(probe.authority)) if probe.authority else _unverified()
    try:
        answer = await _exchange(probe.address, probe.port, context, _request("GET", probe.path, probe), PROBE_SECONDS)
    except OSError:
        return False
    return answer.status == http.HTTPStatus.OK


def _unverified() -> ssl.SSLContext:
    """For a component that signs its own certificate at every start; a probe sends no secret and trusts no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Place(Protocol):
    """Where a request goes."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...


def _request(
    method: str,
    path: str,
    place: Place,
    body: bytes = b"",
    kind: str = "application/json",
    *,
    version: Literal["1.0", "1.1"] = "1.1",
) -> bytes:
    """One HTTP request, after whose answer the server closes."""
    lines = [
        f"{method} {path} HTTP/{version}",
        f"Host: {place.address}:{place.port}",
        "Connection: close",
        "Accept: application/json",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Received:
    """What a server sent, as the socket that `http.client` parses from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def _exchange(
    address: str, port: int, context: ssl.SSLContext | None, request: bytes, seconds: float
) -> http.client.HTTPResponse:
    """Send a request and receive the whole answer. Raises `OSError` where there is none within `seconds`.

    Without a thread: a process that has made a PID namespace for its children can start none.
    """

    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(address, port, ssl=context)
            try:
                writer.write(request)
                received = await reader.read()
            finally:
                writer.close()
        answer = http.client.HTTPResponse(cast(socket.socket, _Received(received)))
        answer.begin()
    except http.client.HTTPException as error:
        raise OSError(f"{address}:{port} broke off: {error!r}") from error
    return answer


@dataclass(frozen=True)
class AsyncApi:
    """Requests to one API server under one identity, for the supervisor's event loop."""

    address: str
    port: int
    context: ssl.SSLContext

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, kind: str = "application/json"
    ) -> dict[str, Any]:
        """Send one request and return the object of the answer.

        Raises `ApiError` for a status of 400 and above, `OSError` where there is no server.
        """
        data = b"" if body is None else json.dumps(body).encode()
        request = _request(method, path, self, data, kind)
        answer = await _exchange(self.address, self.port, self.context, request, REQUEST_SECONDS)
        return _content(answer)

    async def apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply: creates or corrects the object. Idempotent, so it may be repeated after any failure."""
        query = f"fieldManager={FIELD_MANAGER}&force=true"
        return await self.call("PATCH", f"{path}?{query}", manifest, kind="application/apply-patch+yaml")

    async def apply_text(self, path: str, manifest: bytes) -> None:
        """`apply` of a manifest as it lies in a file, YAML or JSON. Raises as `call` does."""
        where = f"{path}?fieldManager={FIELD_MANAGER}&force=true"
        request = _request("PATCH", where, self, manifest, "application/apply-patch+yaml")
        _content(await _exchange(self.address, self.port, self.context, request, REQUEST_SECONDS))

    async def events(self, path: str, silence: float) -> AsyncGenerator[dict[str, Any]]:
        """The events of a watch, until the server ends it; `silence` seconds without a word end it as an `OSError`.

        Raises `ApiError` where the server refuses. As HTTP/1.0, whose answers come without a framing of their own.
        """
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(self.address, self.port, ssl=self.context, limit=EVENT_BYTES), REQUEST_SECONDS
        )
        try:
            writer.write(_request("GET", path, self, version="1.0"))
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_SECONDS)
            except asyncio.IncompleteReadError as error:
                raise OSError("the API server broke off") from error
            status = int(head.split(maxsplit=2)[1])
            if status >= http.HTTPStatus.BAD_REQUEST:
                raise ApiError(status, (await reader.read(2000)).decode(errors="replace"))
            while line := await asyncio.wait_for(reader.readline(), silence):
                try:
                    event = cast(dict[str, Any], json.loads(line))
                except ValueError as error:
                    raise OSError(f"the API server broke off: {error!r}") from error
                yield event
        finally:
            writer.close()


def _content(answer: http.client.HTTPResponse) -> dict[str, Any]:
    """The object of an answer. One that broke off half-way is no answer: `OSError`."""
    try:
        data = answer.read()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(answer.status, data[:2000].decode(errors="replace"))
        return cast(dict[str, Any], json.loads(data))
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the API server broke off: {error!r}") from error


@dataclass(frozen=True)
class Api:
    """Requests to one API server under one identity, for a process of its own; a connection per request."""

    address: str
    port: int
    context: ssl.SSLContext

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the object of the answer.

        Raises `ApiError` for a status of 400 and above, `OSError` where there is no server.
        """
        with self._answer(method, path, body, REQUEST_SECONDS) as answer:
            return _content(answer)

    def events(self, path: str, seconds: float) -> Generator[dict[str, Any]]:
        """The events of a watch that the server ends; `seconds` without a word from it end it too, as an `OSError`."""
        with self._answer("GET", path, None, seconds) as answer:
            if answer.status >= http.HTTPStatus.BAD_REQUEST:
                raise ApiError(answer.status, answer.read(2000).decode(errors="replace"))
            for line in answer:
                try:
                    event = cast(dict[str, Any], json.loads(line))
                except ValueError as error:
                    raise OSError(f"the API server broke off: {error!r}") from error
                yield event

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Generator[http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection(self.address, self.port, timeout=seconds, context=self.context)
        try:
            headers = {"Accept": "application/json", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            yield connection.getresponse()
        except http.client.HTTPException as error:
            raise OSError(f"the API server broke off: {error!r}") from error
        finally:
            connection.close()
