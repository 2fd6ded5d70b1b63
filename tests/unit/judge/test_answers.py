"""Bad input is held to vLLM's recorded answers."""

import pytest

from sartor_agents.judge.answers import Answer, expected, fault, vllm_answers
from sartor_agents.judge.cases import Api, Case, bodies, wire
from sartor_agents.measurement.http1 import Exchange
from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest

ERROR = b'{"error": {"message": "no", "type": "BadRequestError", "param": null, "code": 400}}'
REFUSED = Answer("refused", 400, ("error.code", "error.message", "error.param", "error.type"))
ANSWERED = Answer("answered", 200, ())
FAILED = Answer("failed", 500, ())
CLOSED = Answer("closed", 0, ())
SILENT = Answer("silent", 0, ())


def exchange(status: int, body: bytes = b"", error: ErrorClass | None = None) -> Exchange:
    return Exchange(0.0, status=status, pieces=[(0.0, body)], error=error)


def request(api: Api) -> GenerationRequest:
    path, prompt = {
        "completions": ("/v1/completions", {"prompt": "hello"}),
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    }[api]
    return GenerationRequest("r", "c", path, {**prompt, "max_tokens": 4, "temperature": 0}, (1, 2), 4)


def battery(api: Api) -> list[Case]:
    asked = request(api)
    return [
        *bodies(asked, authority="a:1", model="m", max_model_len=64),
        *wire(asked, authority="a:1", model="m"),
    ]


def test_an_answer_is_classed_by_what_a_client_sees() -> None:
    assert Answer.of(exchange(400, ERROR)) == REFUSED and REFUSED.explains
    assert Answer.of(exchange(200, b'{"object": "text_completion"}')) == ANSWERED
    assert Answer.of(exchange(500, b"Internal Server Error")) == FAILED
    assert Answer.of(exchange(0, error=ErrorClass.RESET)) == CLOSED
    assert Answer.of(exchange(0, error=ErrorClass.STALL)) == SILENT
    assert not Answer.of(exchange(400, b"Bad Request")).explains
    assert not Answer.of(exchange(400, b'{"error": {"message": ""}}')).explains
    assert Answer.of(exchange(405, b'{"detail": "Method Not Allowed"}')).explains


@pytest.mark.parametrize(
    ("answer", "wanted", "reason"),
    [
        (REFUSED, REFUSED, None),
        (Answer("refused", 422, REFUSED.error_fields), REFUSED, None),
        (Answer("refused", 400, ()), REFUSED, Reason.BAD_INPUT_ACCEPTED),
        (Answer("refused", 400, ()), Answer("refused", 400, ()), None),
        (ANSWERED, REFUSED, Reason.BAD_INPUT_ACCEPTED),
        (CLOSED, REFUSED, Reason.BAD_INPUT_CRASHED),
        (FAILED, REFUSED, Reason.BAD_INPUT_CRASHED),
        (SILENT, REFUSED, Reason.BAD_INPUT_CRASHED),
        (ANSWERED, ANSWERED, None),
        (REFUSED, ANSWERED, Reason.INPUT_REFUSED),
        (CLOSED, ANSWERED, Reason.BAD_INPUT_CRASHED),
        (FAILED, FAILED, None),
        (REFUSED, FAILED, None),
        (SILENT, FAILED, Reason.BAD_INPUT_CRASHED),
        (REFUSED, CLOSED, None),
        (CLOSED, CLOSED, None),
        (FAILED, CLOSED, Reason.BAD_INPUT_CRASHED),
        (REFUSED, None, None),
        (FAILED, None, Reason.BAD_INPUT_CRASHED),
    ],
)
def test_an_answer_is_judged_beside_vllms(answer: Answer, wanted: Answer | None, reason: Reason | None) -> None:
    problem = fault(answer, wanted, shown="…")
    assert (problem and problem[0]) == reason


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_vllm_was_asked_every_case(api: Api) -> None:
    names = [case.name for case in battery(api)]
    assert len(set(names)) == len(names)
    left_out = set(names) - set(vllm_answers()[api])
    assert not left_out, "record the table again: tools/record-vllm-answers"
    assert not set(vllm_answers()[api]) - set(names), "the table has cases that nobody asks"


def test_vllm_refuses_what_the_contract_says_it_refuses() -> None:
    for case in ("malformed JSON", "wrong type of the prompt", "negative max_tokens", "over-long prompt"):
        answer = expected("completions", case)
        assert answer is not None and answer.outcome == "refused" and answer.explains, case
    unknown = expected("completions", "unknown fields")
    assert unknown is not None and unknown.outcome == "answered"


def test_a_case_differs_from_the_good_request_in_what_its_name_says() -> None:
    good = {"model": "m", "prompt": "hello", "max_tokens": 16, "temperature": 0, "stream": False}
    cases = {case.name: case for case in battery("completions")}
    for name, field in (
        ("top_p above one", "top_p"),
        ("negative max_tokens", "max_tokens"),
        ("empty prompt", "prompt"),
    ):
        shown = dict(cases[name].reproduce or {})
        assert shown.pop("path") == "/v1/completions"
        assert {key for key in shown if shown[key] != good.get(key)} == {field}
