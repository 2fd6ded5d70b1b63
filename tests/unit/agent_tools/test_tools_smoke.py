"""The smoke check against servers that are a few lines each: one is right, each other has one fault."""

import json
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.run.sandbox.command import CommandSandbox
from sartor_agents.tools.server import CandidateServer, NotServingError, Response
from sartor_agents.tools.smoke import Smoke

REQUESTS = [
    GenerationRequest(
        f"r{n}", "c", "/v1/completions", {"prompt": f"p{n}", "max_tokens": 2, "ignore_eos": True}, (n,), 2
    )
    for n in range(3)
]
METRICS = b"vllm:generation_tokens_total 1\nvllm:num_requests_running 0\n"


class Server:
    """Answers as `CandidateServer.ask` does. `faults` name what it does wrong."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.asked: list[str] = []

    def __call__(self, method: str, path: str, body: bytes | None = None, *, timeout: float, most: int = 0,
                 leave_after: int | None = None) -> Response:  # fmt: skip
        self.asked.append(path)
        if path == "/health":
            return reply(503 if "health" in self.faults else 200, b"")
        if path == "/metrics":
            return reply(200, b"" if "metrics" in self.faults else METRICS)
        if path == "/v1/models":
            return reply(200, b"{}" if "models" in self.faults else b'{"data": [{"id": "m"}]}')
        try:
            asked = json.loads(body or b"")
        except ValueError:
            return reply(500 if "bad input" in self.faults else 400, b"{}")
        if not isinstance(asked.get("prompt"), str):
            return reply(400, b"{}")
        if leave_after is not None:
            return reply(200, b"data")
        return self.complete(asked)

    def complete(self, asked: dict[str, Any]) -> Response:
        assert asked["model"] == "m"
        text, tokens = f"answer to {asked['prompt']}", 2
        if "dies" in self.faults and len(self.asked) > 4:
            raise NotServingError("connection refused")
        if "usage" in self.faults:
            tokens = 3
        if "empty" in self.faults:
            text = ""
        if "repeated" in self.faults and len(self.asked) > 6:
            text += "!"
        if asked.get("stream"):
            text = text + "?" if "streamed" in self.faults else text
            done = "" if "done" in self.faults else "data: [DONE]\n\n"
            event = json.dumps({"choices": [{"text": text}]})
            return reply(200, f"data: {event}\n\n{done}".encode(), "text/event-stream")
        return reply(200, json.dumps({"choices": [{"text": text}], "usage": {"completion_tokens": tokens}}).encode())


def reply(status: int, body: bytes, kind: str = "application/json") -> Response:
    return Response(status, {"content-type": kind}, body, len(body), 0.0, 0.0)


def failed(server: Server, judge: Callable[[GenerationRequest, str], str | None] | None = None) -> dict[str, str]:
    return {one.check: one.problem for one in Smoke(server, REQUESTS, judge).run() if one.problem is not None}


def test_a_right_server_passes_every_check() -> None:
    found = Smoke(Server(), REQUESTS, lambda *_: None).run()
    assert [one.problem for one in found] == [None] * 10
    assert [one.check for one in found if one.check == "reference"] == ["reference"]
    assert "reference" not in [one.check for one in Smoke(Server(), REQUESTS, None).run()]


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [("health", "health", "503"), ("models", "models", "no model"), ("usage", "answers", "3 tokens, 2 were asked"),
     ("empty", "answers", "no text"), ("streamed", "streamed", "another answer streamed"), ("done", "streamed", "[DONE]"),
     ("repeated", "repeated", "another answer asked again"), ("bad input", "bad input", "no JSON: HTTP 500"),
     ("metrics", "metrics", "vllm:generation_tokens_total"), ("dies", "answers", "connection refused")],
)  # fmt: skip
def test_each_fault_is_told(fault: str, check: str, words: str) -> None:
    assert words in failed(Server(fault))[check]


def test_the_reference_sees_each_answer() -> None:
    def judge(request: GenerationRequest, text: str) -> str | None:
        return f"wrong: {text}" if request.id == "r2" else None

    assert failed(Server(), judge) == {"reference": "wrong: answer to p2"}


def test_headers_are_known_however_a_stack_writes_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

        def address_string(self) -> str:
            return "a UNIX socket has none"

    asked = CandidateServer(CommandSandbox(tmp_path, tmp_path))
    with socketserver.UnixStreamServer(str(tmp_path / "s"), Handler) as server:
        monkeypatch.setattr(asked, "_running", object())
        monkeypatch.setattr(asked, "_socket", tmp_path / "s")
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = asked.ask("GET", "/", timeout=20.0)
        thread.join()
    assert answer.headers["content-type"] == "text/event-stream"


def test_a_server_that_is_gone_is_not_asked_on() -> None:
    server = Server("dies")
    found = Smoke(server, REQUESTS, None).run()
    assert found[-1].problem == "connection refused" and "/metrics" not in server.asked
