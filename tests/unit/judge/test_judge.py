"""The judge against planted candidates: each is caught by the gate that is there for it, with a request that shows it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_servers import Behaviour, serving
from numpy.typing import NDArray

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.judge.accuracy import Checker, check_answer, same_answer
from sartor_agents.judge.gate import judge
from sartor_agents.measurement.messages import (
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    FailureClass,
    JudgeRequest,
    JudgeResponse,
    Reason,
)
from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.tokens import TokenCounter

SCENARIO = CodeEditScenario(parameters=CodeEditParameters(match_rates=(0, 90), file_tokens=40, concurrencies=(3,)))


@dataclass(frozen=True)
class Said:
    agrees: NDArray[np.bool_]
    gaps: NDArray[np.float32]


class ChainReference:
    """The reference of a chain checkpoint, without its weights; `ties` are positions where two logits are close."""

    def __init__(self, model_dir: Path, ties: Sequence[int] = ()) -> None:
        self.facts = ChainFacts.load(model_dir)
        self.ties = set(ties)

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Said:
        before = [prompt_ids[-1], *output_ids[:-1]]
        agrees = [int(self.facts.successor[b]) == o for b, o in zip(before, output_ids, strict=True)]
        gaps = [0.001 if i in self.ties else 4.0 for i in range(len(output_ids))]
        return Said(np.asarray(agrees, dtype=np.bool_), np.asarray(gaps, dtype=np.float32))


def run_judge(
    model_dir: Path, folder: Path, behaviour: Behaviour, *, reference: Checker | None = None, **changes: Any
) -> JudgeResponse:
    async def run() -> JudgeResponse:
        async with serving(model_dir) as baseline:
            if behaviour.hand_over_to == "baseline":
                behaviour.hand_over_to = baseline.url
            async with serving(model_dir, behaviour) as server:
                values: dict[str, Any] = {
                    "candidate": Endpoint(url=server.url), "baseline": Endpoint(url=baseline.url), "model_dir": model_dir,
                    "scenario": SCENARIO, "seed": "ab" * 32, "output_dir": folder, "samples": 6, "request_timeout": 5.0,
                    "stall_timeout": 1.0, "idle_connections": 20,
                }  # fmt: skip
                request = JudgeRequest(**{**values, **changes})
                return await judge(request, open_reference=lambda path: reference or ChainReference(path))

    return asyncio.run(run())


def test_an_honest_candidate_passes_every_gate(chain_model: Path, tmp_path: Path) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour())
    assert response.judgement.passed, [v.message for v in response.judgement.verdicts if not v.passed]
    assert [v.gate for v in response.judgement.verdicts] == ["accuracy", "metamorphic", "robustness"]
    assert response.agreement == 1.0 and response.samples == 6 and response.handovers == 0
    assert {c.name for c in response.checks} >= {
        "accuracy",
        "prediction",
        "alone-or-batched",
        "bad-input",
        "slow-reader",
    }
    assert JudgeResponse.model_validate(json.loads(response.model_dump_json())) == response


@pytest.mark.parametrize(
    ("behaviour", "gate", "reason"),
    [
        (Behaviour(wrong_token_at=20), "accuracy", Reason.OUTPUT_DIVERGED),
        (Behaviour(echo_prediction=True), "accuracy", Reason.OUTPUT_DIVERGED),
        (Behaviour(wrong_token_at=5, wrong_when_busy=True, token_seconds=0.001), "accuracy", Reason.OUTPUT_DIVERGED),
        (Behaviour(usage_offset=2), "accuracy", Reason.TOKEN_COUNT_MISMATCH),
        (Behaviour(max_tokens=30), "accuracy", Reason.OUTPUT_TOO_SHORT),
        (Behaviour(status=503), "accuracy", Reason.REQUEST_FAILED),
        (Behaviour(dies_after=2), "accuracy", Reason.CANDIDATE_DIED),
        (Behaviour(wrong_token_at=5, wrong_when_whole=True), "metamorphic", Reason.STREAMING_CHANGED_OUTPUT),
        (
            Behaviour(wrong_token_at=5, wrong_after_disconnect=True, token_seconds=0.001),
            "metamorphic",
            Reason.DISCONNECT_CHANGED_OUTPUT,
        ),
        (Behaviour(accept_anything=True), "robustness", Reason.BAD_INPUT_ACCEPTED),
        (Behaviour(crash_on="no_such_field"), "robustness", Reason.BAD_INPUT_CRASHED),
        (Behaviour(server_error_on='"hot"'), "robustness", Reason.BAD_INPUT_CRASHED),
        (Behaviour(hand_over_to="baseline"), "accuracy", Reason.HANDED_OVER),
    ],
)
def test_planted_candidates_are_caught(
    chain_model: Path, tmp_path: Path, behaviour: Behaviour, gate: str, reason: Reason
) -> None:
    response = run_judge(chain_model, tmp_path, behaviour)
    failed = [v for v in response.judgement.verdicts if not v.passed]
    assert (failed[0].gate, failed[0].reason) == (gate, reason.value), failed[0].message
    assert failed[0].failure_class is FailureClass.CANDIDATE
    if reason is not Reason.HANDED_OVER:
        assert failed[0].evidence["reproduce"]


def test_the_reproducing_request_is_small(chain_model: Path, tmp_path: Path) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour(wrong_token_at=7))
    body: Any = response.judgement.verdicts[0].evidence["reproduce"]
    assert body["max_tokens"] == 8 and "prediction" not in body
    assert len(body["prompt"]) < 40
    assert (
        "token 7" in response.judgement.verdicts[0].message and "also alone" in response.judgement.verdicts[0].message
    )


def test_a_lossy_prediction_is_named_with_its_kind(chain_model: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(wrong_token_at=5, wrong_when_predicted=True)
    response = run_judge(chain_model, tmp_path, behaviour)
    check = next(c for c in response.checks if c.name == "prediction")
    assert check.reason is Reason.PREDICTION_CHANGED_OUTPUT
    assert check.evidence["kind"] == "right" and check.reproduce is not None and "prediction" in check.reproduce


def test_a_tie_is_no_failure(chain_model: Path, tmp_path: Path) -> None:
    # The token after the tie belongs to another walk; teacher forcing judges it along the answer's own path.
    behaviour = Behaviour(wrong_token_at=39)
    reference = ChainReference(chain_model, ties=[39])
    response = run_judge(chain_model, tmp_path, behaviour, reference=reference)
    accuracy = response.judgement.verdicts[0]
    assert accuracy.passed and response.ties == 6
    assert not run_judge(chain_model, tmp_path, behaviour).judgement.verdicts[0].passed


def test_a_reference_that_cannot_work_is_not_the_candidates_fault(chain_model: Path, tmp_path: Path) -> None:
    class Broken:
        def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Said:
            raise RuntimeError("out of memory")

    failure = run_judge(chain_model, tmp_path, Behaviour(), reference=Broken()).judgement.failure
    assert failure is not None
    assert failure.failure_class is FailureClass.INFRASTRUCTURE and "out of memory" in failure.message


def test_a_candidate_that_is_not_up(chain_model: Path, tmp_path: Path) -> None:
    gone = Endpoint(url="http://127.0.0.1:9")
    failure = run_judge(chain_model, tmp_path, Behaviour(), candidate=gone).judgement.failure
    assert failure is not None and failure.reason == Reason.CANDIDATE_UNREACHABLE.value
    failure = run_judge(chain_model, tmp_path, Behaviour(), baseline=gone).judgement.failure
    assert failure is not None and failure.failure_class is FailureClass.INFRASTRUCTURE


def test_answers_are_compared_up_to_the_first_tie(chain_model: Path) -> None:
    counter = TokenCounter(chain_model)
    facts = ChainFacts.load(chain_model)
    prompt = (facts.first_word,)
    request = GenerationRequest("r", "c", "/v1/completions", {}, prompt, 10)
    right = facts.walk(prompt[0], 10)
    other = [*right[:4], *facts.walk(facts.first_word + 99, 6)]
    one, two = counter.decode(right), counter.decode(other)
    assert same_answer(ChainReference(chain_model, ties=[4]), request, one, two, counter, tolerance=0.05)
    assert not same_answer(ChainReference(chain_model), request, one, two, counter, tolerance=0.05)
    assert not same_answer(
        ChainReference(chain_model), request, one, counter.decode(right[:6]), counter, tolerance=0.05
    )
    verdict = check_answer(ChainReference(chain_model), request, two, counter, tolerance=0.05)
    assert (verdict.divergence, verdict.agreed) == (4, 9)
