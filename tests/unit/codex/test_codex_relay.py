"""The relay: one address, one call, a key that the inside never sees, and an end at the limit."""

import http.client
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_provider import Cut, Provider, Status, Turn

from sartor_agents.backends.codex.relay import Endpoint, Relay


class Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("relay", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def ask(path: Path, target: str = "/v1/responses", method: str = "POST", **headers: str) -> tuple[int, str]:
    connection = Unix(path)
    body = {"model": "scripted-1", "input": "hello", "stream": True}
    connection.request(method, target, json.dumps(body), {"Content-Type": "application/json", **headers})
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.IncompleteRead as cut:
        return 0, cut.partial.decode()
    finally:
        connection.close()


def relayed(
    program: Callable[[Any], Any], use: Callable[[Path, Relay, Provider], None], most: int | None = None
) -> Provider:
    path = Path("/tmp") / f"sartor-relay-{os.getpid()}.sock"
    with Provider(program) as provider, Relay(Endpoint(provider.url, provider.key), path, most_tokens=most) as relay:
        use(path, relay, provider)
    return provider


def test_it_adds_the_key_and_counts_what_is_reported() -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        for _ in range(2):
            status, text = ask(path, Authorization="Bearer mine")
            assert status == 200 and "response.completed" in text and "hi there" in text
        assert relay.calls == 2
        assert relay.tokens.input == sum(one.input for one in provider.paid)
        assert relay.tokens.output == 14

    provider = relayed(lambda _: Turn(text="hi there", output_tokens=7), use)
    assert all(seen.headers["authorization"] == f"Bearer {provider.key}" for seen in provider.seen)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/v1/models"), ("POST", "/v1/files"), ("POST", "/v1/responses/../files"), ("GET", "/v1/responses"),
     ("POST", "/v1/chat/completions"), ("POST", "http://203.0.113.7/v1/responses/x"), ("CONNECT", "203.0.113.7:443")],
)  # fmt: skip
def test_it_leads_to_one_call_only(method: str, target: str) -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        assert ask(path, target, method)[0] in (400, 404, 405)
        assert provider.seen == [] and provider.refused == [] and relay.calls == 0

    relayed(lambda _: Turn(text="x"), use)


def test_it_ends_at_the_limit() -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        assert ask(path)[0] == 200 and relay.exhausted
        status, text = ask(path)
        assert status == 403 and "has used its 500 tokens" in text
        assert len(provider.seen) == 1 and relay.refused == 1

    relayed(lambda _: Turn(text="x", output_tokens=600), use, most=500)


def test_what_is_not_reported_is_charged_by_size() -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        assert ask(path)[0] == 200
        assert relay.tokens.output > 4000 / 4

    relayed(lambda _: Turn(text="word " * 800, usage=False), use)


def test_an_answer_that_is_cut_off_was_paid_for() -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        ask(path)
        assert relay.tokens.output > 0

    relayed(lambda _: Cut(Turn(text="word " * 100), after=9), use)


def test_faults_of_the_provider_pass_through_and_cost_nothing() -> None:
    def use(path: Path, relay: Relay, provider: Provider) -> None:
        assert ask(path)[0] == 429 and relay.tokens.total == 0 and relay.last_failure == "HTTP 429"

    relayed(lambda _: Status(429, "slow down", retry_after="7"), use)


def test_a_provider_that_is_not_there() -> None:
    path = Path("/tmp") / f"sartor-relay-{os.getpid()}.sock"
    with Relay(Endpoint("http://127.0.0.1:9/v1", "key-that-is-secret"), path, most_tokens=None) as relay:
        status, text = ask(path)
        assert status == 502 and "key-that-is-secret" not in text and relay.tokens.total == 0
    assert "secret" not in repr(Endpoint("http://x", "key-that-is-secret"))
