"""Log-probabilities: read in vLLM's two formats, refused where they are none, compared with the reference."""

import json
import math
from typing import Any

import pytest

from sartor_agents.judge.logprobs import (
    Divergence,
    LogprobError,
    TokenReport,
    asking,
    compare,
    from_reading,
    read_reports,
)
from sartor_agents.judge.reference_check import ReferenceCheck
from sartor_agents.measurement.samples import GenerationRequest

COMPLETION = {
    "tokens": ["token_id:7", "token_id:9"],
    "token_logprobs": [-0.1, -0.2],
    "top_logprobs": [{"token_id:7": -0.1, "token_id:8": -3.0}, {"token_id:9": -0.2, "token_id:1": -2.0}],
}
CHAT = {
    "content": [
        {"token": "token_id:7", "logprob": -0.1, "top_logprobs": [
            {"token": "token_id:7", "logprob": -0.1}, {"token": "token_id:8", "logprob": -3.0}]},
        {"token": "token_id:9", "logprob": -0.2, "top_logprobs": [
            {"token": "token_id:9", "logprob": -0.2}, {"token": "token_id:1", "logprob": -2.0}]},
    ]
}  # fmt: skip
EXPECTED = [TokenReport(7, -0.1, ((7, -0.1), (8, -3.0))), TokenReport(9, -0.2, ((9, -0.2), (1, -2.0)))]


def whole(block: Any) -> list[tuple[float, bytes]]:
    return [(0.0, json.dumps({"choices": [{"text": "x", "logprobs": block}]}).encode())]


def reading(*rows: list[tuple[int, float]], answer: list[int]) -> ReferenceCheck:
    known = [dict(row) for row in rows]
    logprobs = tuple(row[token] for row, token in zip(known, answer, strict=True))
    return ReferenceCheck(
        tuple(row[0][0] == token for row, token in zip(rows, answer, strict=True)),
        tuple(0.0 for _ in rows),
        tuple(row[0][0] for row in rows),
        logprobs,
        (0.0,) * len(rows),
        tuple(tuple(token for token, _ in row) for row in rows),
        tuple(tuple(value for _, value in row) for row in rows),
    )


def test_both_formats_say_the_same() -> None:
    assert read_reports(whole(COMPLETION), streamed=False) == EXPECTED
    assert read_reports(whole(CHAT), streamed=False) == EXPECTED


def test_a_stream_is_read_chunk_by_chunk() -> None:
    halves = [
        {name: values[:1] for name, values in COMPLETION.items()},
        {name: values[1:] for name, values in COMPLETION.items()},
    ]
    events = [json.dumps({"choices": [{"text": "x", "logprobs": half}]}) for half in [*halves, None]]
    stream = "".join(f"data: {event}\n\n" for event in [*events, '{"choices": []}', "[DONE]"])
    assert read_reports([(0.0, stream[:30].encode()), (1.0, stream[30:].encode())]) == EXPECTED


def test_spellings_instead_of_ids_leave_the_chosen_tokens() -> None:
    block = {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5, " b": -1.0}]}
    assert read_reports(whole(block), streamed=False) == [TokenReport(None, -0.5, ())]


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({**COMPLETION, "token_logprobs": [-0.1]}, "2 tokens and 1"),
        ({**COMPLETION, "token_logprobs": [0.7, -0.2]}, "no log-probabilities"),
        ({**COMPLETION, "token_logprobs": [math.nan, -0.2]}, "no log-probabilities"),
        ({**COMPLETION, "top_logprobs": [{"token_id:7": -0.1, "token_id:8": -0.1}, {}]}, "add up to"),
        ({"tokens": 7, "token_logprobs": [], "top_logprobs": []}, "unexpected shape"),
        ({"content": [{"token": "token_id:x", "logprob": -1}]}, "unexpected shape"),
    ],
)
def test_what_is_no_distribution_is_refused(block: Any, why: str) -> None:
    with pytest.raises(LogprobError, match=why):
        read_reports(whole(block), streamed=False)


def test_asking_keeps_the_request_and_adds_the_fields_of_its_api() -> None:
    completion = GenerationRequest("r", "c", "/v1/completions", {"prompt": "x", "max_tokens": 3}, (1,), 3)
    assert asking(completion).body == {**completion.body, "logprobs": 5, "return_tokens_as_token_ids": True}
    chat = GenerationRequest("r", "c", "/v1/chat/completions", {"messages": [], "max_tokens": 3}, (1,), 3)
    added = {"logprobs": True, "top_logprobs": 5, "return_tokens_as_token_ids": True}
    assert asking(chat).body == {**chat.body, **added}


def test_equal_numbers_have_no_distance() -> None:
    check = reading([(7, -0.1), (8, -3.0)], [(9, -0.2), (1, -2.0)], answer=[7, 9])
    same = compare(EXPECTED, check)
    assert same.mean_distance == same.mean_divergence == 0 and same.agreement == 1 and same.tokens == 2
    assert compare(from_reading(check), check).mean_distance == 0


def test_distance_and_divergence_are_those_of_the_definition() -> None:
    check = reading([(7, math.log(0.5)), (8, math.log(0.25))], answer=[7])
    server = [TokenReport(7, math.log(0.4), ((7, math.log(0.4)), (8, math.log(0.4))))]
    result = compare(server, check)
    assert result.mean_distance == pytest.approx(math.log(0.5 / 0.4))
    expected = 0.5 * math.log(0.5 / 0.4) + 0.25 * math.log(0.25 / 0.4) + 0.25 * math.log(0.25 / 0.2)
    assert result.mean_divergence == pytest.approx(expected)


def test_the_best_token_counts_not_the_written_one() -> None:
    check = reading([(7, -0.5), (8, -1.0)], answer=[7])
    doubting = [TokenReport(7, -0.9, ((8, -0.7), (7, -0.9)))]
    assert compare(doubting, check).agreement == 0
    total = compare(doubting, check) + Divergence((0.0,), (0.0,), (0.0,), (True,))
    assert total.agreement == 0.5 and total.tokens == 2
