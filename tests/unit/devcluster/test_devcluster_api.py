"""Requests to the API server: what is sent, and that everything but a whole answer is an error of a known kind."""

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sartor_devcluster import bootstrap
from sartor_devcluster.api import Api, ApiError, AsyncApi, tls, well
from sartor_devcluster.components import Probe
from sartor_devcluster.pki import Pki

TOKEN = "abcdef.0123456789abcdef"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("cluster") / "pki")
    made.make(datetime.now(UTC))
    return made


def server_context(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate("apiserver"), pki.key("apiserver"))
    context.load_verify_locations(pki.certificate("ca"))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(pki: Pki) -> ssl.SSLContext:
    return tls(pki.certificate("ca"), pki.certificate("admin"), pki.key("admin"))


@asynccontextmanager
async def answering(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A server that gives one answer, whatever it is asked; its port and what it was sent."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        seen.append(head + await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test

    asyncio.run(bounded())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'
FORBIDDEN = b'HTTP/1.1 403 Forbidden\r\nContent-Length: 16\r\n\r\n{"reason": "no"}'


@pytest.mark.parametrize(
    ("answer", "is_well"),
    [
        (OK, True),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", False),
        (b"", False),
        (b"nonsense\r\n\r\n", False),
    ],
)
def test_a_component_is_well_when_it_says_200(answer: bytes, is_well: bool) -> None:
    async def test() -> None:
        async with answering(answer) as (port, _):
            assert await well(Probe("http", "127.0.0.1", port, "/health")) is is_well

    run(test())


def test_a_component_that_hangs_or_is_not_there_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sartor_devcluster.api.PROBE_SECONDS", 0.05)

    async def test() -> None:
        silent = await asyncio.start_server(lambda _, writer: asyncio.sleep(5), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        assert not await well(Probe("http", "127.0.0.1", port, "/"))
        silent.close()
        await silent.wait_closed()
        assert not await well(Probe("http", "127.0.0.1", port, "/"))

    run(test())


def test_a_server_of_another_authority_is_not_well(pki: Pki, tmp_path: Path) -> None:
    other = Pki(tmp_path / "pki")
    other.make(datetime.now(UTC))

    async def test() -> None:
        async with answering(OK, server_context(other)) as (port, _):
            assert not await well(Probe("https", "127.0.0.1", port, "/", str(pki.certificate("ca"))))

    run(test())


def test_apply_sends_one_server_side_apply(pki: Pki) -> None:
    async def test() -> None:
        async with answering(CHUNKED, server_context(pki)) as (port, seen):
            api = AsyncApi("127.0.0.1", port, client_context(pki))
            assert await api.apply("/api/v1/things/x", {"kind": "Thing"}) == {"a": 1}
        ((head, _, body),) = [request.partition(b"\r\n\r\n") for request in seen]
        assert head.startswith(b"PATCH /api/v1/things/x?fieldManager=sartor-devcluster&force=true HTTP/1.1\r\n")
        assert b"Content-Type: application/apply-patch+yaml" in head
        assert json.loads(body) == {"kind": "Thing"}

    run(test())


def test_a_refusal_has_its_status_and_what_was_said(pki: Pki) -> None:
    async def test() -> None:
        async with answering(FORBIDDEN, server_context(pki)) as (port, _):
            api = AsyncApi("127.0.0.1", port, client_context(pki))
            with pytest.raises(ApiError, match=r'^403: {"reason": "no"}$') as refused:
                await api.call("GET", "/")
            assert refused.value.status == 403
            assert not await bootstrap.usable(api)

    run(test())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 20\r\n\r\nhalf",
    ],
)
def test_an_answer_that_broke_off_is_none(pki: Pki, answer: bytes) -> None:
    """Whoever waits for the API server to come back tries again on `OSError`."""

    async def test() -> None:
        async with answering(answer, server_context(pki)) as (port, _):
            with pytest.raises(OSError, match="broke off"):
                await AsyncApi("127.0.0.1", port, client_context(pki)).call("GET", "/")

    run(test())


@pytest.mark.parametrize("dns", [True, False])
def test_all_bootstrap_objects_are_applied(pki: Pki, dns: bool) -> None:
    async def test() -> None:
        async with answering(CHUNKED, server_context(pki)) as (port, seen):
            await bootstrap.apply(AsyncApi("127.0.0.1", port, client_context(pki)), TOKEN, dns=dns)
        paths = [request.split(b" ")[1].partition(b"?")[0].decode() for request in seen]
        wanted = [*bootstrap.objects(TOKEN), *(bootstrap.dns_objects() if dns else [])]
        assert paths == [path for path, _ in wanted]

    run(test())


class Watch(BaseHTTPRequestHandler):
    """Two events and half of a third, as a killed server leaves it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        whole = [b'{"type": "ADDED"}\n', b'{"type": "MODIFIED"}\n']
        pieces = [*whole, b'{"type"'] if "broken" in self.path else whole
        if "refused" in self.path:
            self.send_error(410, "Gone")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def watched(pki: Pki) -> Iterator[Api]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Watch)
    server.socket = server_context(pki).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Api("127.0.0.1", server.server_address[1], client_context(pki))
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_watch_gives_its_events_and_ends(watched: Api) -> None:
    assert [event["type"] for event in watched.events("/", 5)] == ["ADDED", "MODIFIED"]


def test_a_watch_that_breaks_off_is_an_error_after_the_whole_events(watched: Api) -> None:
    seen: list[str] = []
    with pytest.raises(OSError, match="broke off"):
        seen += [event["type"] for event in watched.events("/broken", 5)]
    with pytest.raises(ApiError, match="410"):
        next(watched.events("/refused", 5))


STREAM = b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"type": "ADDED"}\n{"type": "MODIFIED"}\n'


@pytest.mark.parametrize(
    ("answer", "types", "error"),
    [
        (STREAM, ["ADDED", "MODIFIED"], None),
        (STREAM + b'{"type"', ["ADDED", "MODIFIED"], "broke off"),
        (b"", [], "broke off"),
        (b"HTTP/1.0 410 Gone\r\n\r\ntoo old", [], "410: too old"),
    ],
)
def test_a_watch_from_the_event_loop(pki: Pki, answer: bytes, types: list[str], error: str | None) -> None:
    async def test() -> None:
        async with answering(answer, server_context(pki)) as (port, seen):
            found: list[str] = []
            said = None
            try:
                api = AsyncApi("127.0.0.1", port, client_context(pki))
                async for event in api.events("/watch", 5):
                    found += [event["type"]]
            except (OSError, ApiError) as refused:
                said = str(refused)
            assert found == types
            assert (error is None and said is None) or (error is not None and error in str(said))
            assert seen[0].startswith(b"GET /watch HTTP/1.0\r\n"), "an answer that is not framed in pieces"

    run(test())


def test_a_watch_that_falls_silent_is_an_error(pki: Pki) -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(STREAM)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server_context(pki))
        async with server:
            api = AsyncApi("127.0.0.1", server.sockets[0].getsockname()[1], client_context(pki))
            seen: list[str] = []
            with pytest.raises(TimeoutError):
                async for event in api.events("/watch", 0.05):
                    seen += [event["type"]]
            assert seen == ["ADDED", "MODIFIED"]

    run(test())
