"""A stack as a rollout's probe sees it: its streams are whole answers, and what it hands over says so."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sartor_agents.probe.arms import ask
from sartor_agents.probe.greedy import encode_copy, greedy_body
from sartor_agents.probe.pairing import ArmAnswer

from . import toy
from .serve import Running, serving
from .test_handover import listening


async def baseline(scope: Any, receive: Any, send: Any) -> None:
    """One token, streamed."""
    events = ({"choices": [{"text": "vLLM's"}]}, {"choices": [], "usage": {"completion_tokens": 1}})
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in events:
        await send({"type": "http.response.body", "body": f"data: {json.dumps(event)}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


@pytest.fixture(scope="module")
def stack(text_folder: Path) -> Iterator[Running]:
    with listening(baseline) as url, serving(text_folder, toy.stack(), baseline=url) as running:
        yield running


def probed(stack: Running, path: str, request: dict[str, Any]) -> ArmAnswer:
    copy = greedy_body(json.dumps(request).encode(), "salt")
    headers = [(b"content-type", b"application/json")]
    payload = encode_copy(stack.url, path, headers, copy, request_id="r")
    return asyncio.run(ask(stack.url, payload, clock=time.perf_counter, timeout=20))


def test_a_completion(stack: Running) -> None:
    whole = stack.completion(max_tokens=12).json()
    answer = probed(stack, "/v1/completions", {"prompt": "the quick", "max_tokens": 12, "temperature": 1.5, "n": 3})
    assert (answer.outcome, answer.handed_over, answer.choices) == ("ok", False, 1)
    assert answer.texts == {(0, "text"): whole["choices"][0]["text"]}
    assert answer.tokens == whole["usage"]["completion_tokens"]
    assert answer.size == len(whole["choices"][0]["text"].encode())
    assert answer.stopped == (whole["choices"][0]["finish_reason"] == "stop")


def test_a_chat(stack: Running) -> None:
    whole = stack.chat(max_tokens=12).json()
    messages = [{"role": "user", "content": "hello"}]
    answer = probed(stack, "/v1/chat/completions", {"messages": messages, "max_tokens": 12})
    assert answer.outcome == "ok"
    assert answer.texts == {(0, "content"): whole["choices"][0]["message"]["content"]}
    assert answer.tokens == whole["usage"]["completion_tokens"]


def test_what_is_handed_over_is_seen(stack: Running) -> None:
    answer = probed(stack, "/v1/completions", {"prompt": "the", "suffix": "x"})
    assert (answer.outcome, answer.handed_over, answer.texts) == ("ok", True, {(0, "text"): "vLLM's"})


def test_an_error_of_the_stack_is_a_failure(stack: Running) -> None:
    answer = probed(stack, "/v1/completions", {"prompt": "the", "max_tokens": "x"})
    assert (answer.outcome, answer.reason, answer.handed_over) == ("failed", "400", False)
