"""The judge's bad input, answered as the recorded table has it from vLLM. No baseline stands behind this stack."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sartor_agents.judge.answers import Answer, expected, fault
from sartor_agents.judge.cases import Api, Case, bodies, wire
from sartor_agents.judge.robustness import ask
from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.messages import Endpoint
from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.tokens import TokenCounter

from . import toy
from .serve import Running

GOOD = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
REQUESTS: dict[Api, GenerationRequest] = {
    "completions": GenerationRequest("r", "c", "/v1/completions", {**GOOD, "prompt": "the quick"}, (1, 2), 4),
    "chat": GenerationRequest(
        "r", "c", "/v1/chat/completions", {**GOOD, "messages": [{"role": "user", "content": "the quick"}]}, (1, 2), 4
    ),
}

HANDED_OVER: dict[Api, set[str]] = {
    "completions": {"unknown response_format"},
    "chat": {
        "unknown response_format", "no content", "content part of an unknown type", "tools of another type",
    },
}  # fmt: skip
"""What lies outside the envelope: the baseline would answer (501 without one)."""


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_bad_input_is_answered_as_vllm_answers_it(server: Running, text_folder: Path, api: Api) -> None:
    client = LoadClient(
        Endpoint(url=server.url), model="model", counter=TokenCounter(text_folder), request_timeout=20, stall_timeout=20
    )
    authority, request = urlsplit(server.url).netloc, REQUESTS[api]
    cases = [
        *bodies(request, authority=authority, model="model", max_model_len=toy.stack().spec.MAX_MODEL_LEN),
        *wire(request, authority=authority, model="model"),
    ]

    async def answers() -> list[tuple[Case, Answer, str]]:
        found: list[tuple[Case, Answer, str]] = []
        for case in cases:
            exchange = await ask(client, case)
            found.append((case, Answer.of(exchange), exchange.detail or repr(exchange.body[:200])))
        return found

    found = asyncio.run(answers())
    faults = {
        case.name: said
        for case, answer, shown in found
        if answer.status != 501
        and not (case.either and answer.outcome in ("answered", "refused"))
        and (said := fault(answer, expected(api, case.name), shown=shown)) is not None
    }
    assert faults == {}
    assert {case.name for case, answer, _ in found if answer.status == 501} == HANDED_OVER[api]
    assert server.http.get("/health").status_code == 200
