"""Shrinking: text prompts, conversations and pairs all get smaller, and what is given back still fails."""

import asyncio
from collections.abc import Mapping
from typing import Any

from sartor_agents.judge.prompts import text_of
from sartor_agents.judge.shrink import TRIES, shrink, shrink_pair
from sartor_agents.measurement.samples import GenerationRequest


def ids_of(body: Mapping[str, Any]) -> tuple[int, ...]:
    text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    return tuple(text.encode())


def completion(prompt: Any, **fields: Any) -> GenerationRequest:
    body = {"prompt": prompt, "max_tokens": 50, **fields}
    ids = ids_of(body) if isinstance(prompt, str) else tuple(prompt)
    return GenerationRequest("r", "c", "/v1/completions", body, ids, 50)


def test_the_prompt_is_cut_to_what_fails() -> None:
    asked: list[GenerationRequest] = []

    async def fails(request: GenerationRequest) -> bool:
        asked.append(request)
        return "needle" in str(request.body["prompt"])

    request = completion("x " * 40 + "needle" + " y" * 40, prediction={"type": "content", "content": "z"})
    smallest = asyncio.run(shrink(request, fails, ids_of, tokens=3))
    assert "needle" in smallest.body["prompt"] and len(smallest.body["prompt"]) < 60
    assert smallest.body["max_tokens"] == smallest.output_tokens == 3
    assert "prediction" not in smallest.body
    assert smallest.prompt_ids == ids_of(smallest.body)
    assert len(asked) <= TRIES


def test_what_the_failure_needs_is_kept() -> None:
    async def fails(request: GenerationRequest) -> bool:
        return "prediction" in request.body and request.output_tokens == 50

    request = completion("some prompt", prediction={"type": "content", "content": "z"})
    smallest = asyncio.run(shrink(request, fails, ids_of, tokens=3))
    assert "prediction" in smallest.body and smallest.output_tokens == 50 and len(smallest.body["prompt"]) < 11


def test_a_conversation_loses_its_earlier_messages_and_then_words() -> None:
    async def fails(request: GenerationRequest) -> bool:
        return "needle" in request.body["messages"][-1]["content"]

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a b c d needle e f g h i j"}]
    body = {"messages": messages, "max_tokens": 9}
    request = GenerationRequest("r", "c", "/v1/chat/completions", body, ids_of(body), 9)
    smallest = asyncio.run(shrink(request, fails, ids_of))
    assert [message["role"] for message in smallest.body["messages"]] == ["user"]
    assert "needle" in (text_of(smallest) or "") and len(text_of(smallest) or "") < 26
    assert smallest.prompt_ids == ids_of(smallest.body)


def test_a_prompt_of_token_ids_keeps_them() -> None:
    async def fails(request: GenerationRequest) -> bool:
        return True

    smallest = asyncio.run(shrink(completion([1, 2, 3]), fails, ids_of, tokens=2))
    assert smallest.body["prompt"] == [1, 2, 3] and smallest.output_tokens == 2


def test_a_pair_keeps_what_both_begin_with_as_far_as_it_is_needed() -> None:
    async def fails(first: GenerationRequest, second: GenerationRequest) -> bool:
        one, other = text_of(first) or "", text_of(second) or ""
        return one[:4] == other[:4] and "!" in other and one != other

    first, second = completion("shared " * 20 + "one end"), completion("shared " * 20 + "other end!")
    small = asyncio.run(shrink_pair(first, second, fails, ids_of))
    assert asyncio.run(fails(*small))
    assert all(len(text_of(request) or "") < 40 for request in small)
