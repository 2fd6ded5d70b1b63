"""What is outside the envelope goes to the baseline: unchanged, streamed, counted, and given up when the client hangs up."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from . import toy
from .serve import Running, serving


class FakeBaseline:
    """Answers with what it was asked; `/slow` streams until told to stop, `/break` breaks off, `/gone` notes hang-ups."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.release = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if path == "/slow":
            await self._start(send, 200)
            await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
            await asyncio.to_thread(self.release.wait, 20)
            await send({"type": "http.response.body", "body": b"data: two\n\n"})
        elif path == "/break":
            await self._start(send, 200)
            await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        elif path == "/marked":
            await self._start(send, 200, (b"x-from", b"baseline"), (b"X-Sartor-Handover", b"another"))
            await send({"type": "http.response.body", "body": b"marked"})
        elif path == "/gone":
            await self._start(send, 200)
            await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
        else:
            seen = {
                "method": scope["method"],
                "path": path,
                "query": scope["query_string"].decode(),
                "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
                "body": body.decode(),
            }
            await self._start(send, 418, (b"x-from", b"baseline"), (b"x-twice", b"1"), (b"x-twice", b"2"))
            await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

    async def _start(self, send: Any, status: int, *headers: tuple[bytes, bytes]) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"x/y"), *headers]})


@contextmanager
def listening(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def baseline() -> FakeBaseline:
    return FakeBaseline()


@pytest.fixture(scope="module")
def front(baseline: FakeBaseline, text_folder: Path) -> Iterator[Running]:
    with listening(baseline) as url, serving(text_folder, toy.stack(), baseline=url) as running:
        yield running


OUTSIDE: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"suffix": "x"}, "suffix"),
    ({"prompt": "a b " * 4000}, "prompt_too_long"),
    ({"max_tokens": 1500}, "max_tokens_too_large"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"echo": True, "max_tokens": 0}, "prompt_logprobs"),
]


@pytest.mark.parametrize(("body", "reason"), OUTSIDE, ids=[reason for _, reason in OUTSIDE])
def test_requests_outside_the_envelope_arrive_unchanged_and_are_counted(
    front: Running, body: dict[str, Any], reason: str
) -> None:
    before = front.metric(f'sartor:handover_requests_total{{reason="{reason}"}}')
    sent = json.dumps({"prompt": "the", **body})
    headers = {"authorization": "Bearer k", "connection": "keep-alive, x-hop", "x-hop": "1", "x-kept": "2"}
    answer = front.http.post("/v1/completions?a=b", content=sent, headers=headers)
    assert (answer.status_code, answer.headers["x-from"]) == (418, "baseline")
    assert answer.headers.get_list("x-twice") == ["1", "2"]
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("POST", "/v1/completions", "a=b", sent)
    assert seen["headers"]["authorization"] == "Bearer k"
    assert seen["headers"]["x-kept"] == "2"
    assert "x-hop" not in seen["headers"]
    assert seen["headers"]["host"] != front.url.removeprefix("http://")
    assert answer.headers.get_list("x-sartor-handover") == ["baseline"], "which arm answered cannot be seen otherwise"
    assert front.metric(f'sartor:handover_requests_total{{reason="{reason}"}}') == before + 1


def test_inside_the_envelope_the_baseline_is_not_asked(front: Running) -> None:
    before = front.metric("sartor:handover_requests_total")
    own = front.completion(max_tokens=3)
    assert (own.status_code, own.headers.get("x-sartor-handover")) == (200, None)
    assert front.completion(max_tokens="x").status_code == 400, "what nobody could do is refused here"
    assert front.metric("sartor:handover_requests_total") == before


def test_the_mark_of_a_baseline_that_hands_over_itself_is_replaced(front: Running) -> None:
    answer = front.http.get("/marked")
    assert answer.headers.get_list("x-sartor-handover") == ["baseline"]
    assert (answer.headers["x-from"], answer.text) == ("baseline", "marked")


def test_unknown_paths_are_the_baselines(front: Running) -> None:
    answer = front.http.put("/v1/embeddings", content=b"anything")
    assert (answer.status_code, answer.json()["method"], answer.json()["body"]) == (418, "PUT", "anything")


def test_streams_pass_chunk_by_chunk(front: Running, baseline: FakeBaseline) -> None:
    with front.http.stream("GET", "/slow") as response:
        assert response.headers["x-sartor-handover"] == "baseline"
        chunks = response.iter_raw()
        assert next(chunks) == b"data: one\n\n"  # while the baseline still holds back the second
        baseline.release.set()
        assert b"".join(chunks) == b"data: two\n\n"


def test_a_client_that_hangs_up_hangs_up_on_the_baseline(front: Running, baseline: FakeBaseline) -> None:
    with front.http.stream("GET", "/gone") as response:
        assert next(response.iter_raw()) == b"data: one\n\n"
    assert baseline.gone.wait(20)


def test_a_baseline_that_breaks_off_is_seen_as_broken(front: Running) -> None:
    import httpx

    with pytest.raises(httpx.RemoteProtocolError), front.http.stream("GET", "/break") as response:
        response.read()
    assert front.http.get("/health").status_code == 200


def test_a_baseline_that_is_down_is_a_502_in_the_same_shape(text_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with serving(text_folder, toy.stack(), baseline=f"http://127.0.0.1:{port}") as running:
        answer = running.completion(suffix="x")
        assert answer.status_code == 502
        assert answer.json()["error"]["type"] == "BadGatewayError"
        assert "x-sartor-handover" not in answer.headers, "nobody's answer is marked as the baseline's"
        assert f"127.0.0.1:{port}" in answer.json()["error"]["message"]


def test_a_dead_engine_leaves_everything_to_the_baseline(baseline: FakeBaseline, text_folder: Path) -> None:
    with listening(baseline) as url, serving(text_folder, toy.stack(), baseline=url) as running:
        running.decoder.fail_at = 0
        assert running.completion().status_code == 500
        assert running.completion().status_code == 418
        assert running.metric('sartor:handover_requests_total{reason="engine_dead"}') == 1
