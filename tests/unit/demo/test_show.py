"""What the demonstration asks of what it has delivered."""

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from sartor_agents.run.servers import free_port
from sartor_demo import show
from sartor_demo.errors import DemoError
from sartor_devcluster.cluster import DevCluster


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._say({"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked == {**show.REQUEST, "model": "m"}
        self._say({"choices": [{"text": " return"}]})

    def _say(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Here:
    """This machine's own network as a cluster's."""

    def enter(self, command: list[str]) -> list[str]:
        return command


HERE = cast(DevCluster, Here())


def test_a_service_that_refuses_at_first_is_asked_again(until_closed: Callable[[Any], Any]) -> None:
    port = free_port()

    def appear() -> None:
        server = until_closed(http.server.ThreadingHTTPServer(("127.0.0.1", port), Engine))
        server.serve_forever()

    late = threading.Timer(0.8, appear)
    late.start()
    answer = show.ask(HERE, f"http://127.0.0.1:{port}")
    assert answer["text"] == " return" and answer["seconds"] < 0.8


def test_a_service_that_never_answers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "ROUTED_SECONDS", 0.3)
    with pytest.raises(DemoError, match=r"does not answer: .*refused"):
        show.ask(HERE, f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def until_closed() -> Any:
    servers: list[Any] = []

    def add(server: Any) -> Any:
        servers.append(server)
        return server

    yield add
    for server in servers:
        server.shutdown()
        server.server_close()
