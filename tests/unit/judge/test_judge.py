"""The judge against planted candidates: each is caught by the gate that is there for it, with a request that shows it."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chain_reference import ChainReference
from fake_servers import Behaviour, left_bare, likely, serving

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.judge.accuracy import check_answer, same_answer
from sartor_agents.judge.divergence import FLOOR
from sartor_agents.judge.gate import judge
from sartor_agents.judge.reference_check import Checker, ReferenceCheck
from sartor_agents.judge.response import GATE_OF
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
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
    assert {check.name for check in response.checks} == set(GATE_OF) - {"handover"}, "every check was made"
    assert response.logprob_distance is not None and response.logprob_limit is not None
    assert response.logprob_distance <= response.logprob_limit
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
        (Behaviour(finish_reason="stop"), "accuracy", Reason.ANSWER_MISLABELLED),
        (Behaviour(extra_tokens=3), "accuracy", Reason.ANSWER_MISLABELLED),
        (Behaviour(logprobs=False), "accuracy", Reason.LOGPROBS_REFUSED),
        (Behaviour(logprob_error=0.1), "accuracy", Reason.LOGPROBS_DIVERGED),
        (Behaviour(wrong_token_at=5, wrong_with_logprobs=True), "accuracy", Reason.LOGPROBS_CHANGED_OUTPUT),
        (Behaviour(logprob_seconds=0.01), "accuracy", Reason.LOGPROBS_COMPUTED_ELSEWHERE),
        (Behaviour(hand_over_to="baseline", hand_over_logprobs=True), "accuracy", Reason.LOGPROBS_HANDED_OVER),
        (Behaviour(poison_prefix=14), "metamorphic", Reason.PREFIX_POISONED),
        (Behaviour(poison_prefix=14, poison_silently=True), "metamorphic", Reason.PREFIX_POISONED),
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


@pytest.mark.parametrize(
    ("behaviour", "name", "reason"),
    [
        (
            Behaviour(wrong_token_at=5, wrong_when_busy=True, token_seconds=0.001),
            "alone-or-batched",
            Reason.BATCH_VARIANT,
        ),
        (Behaviour(wrong_token_at=5, wrong_when_repeated=True), "cache-hit-or-miss", Reason.CACHE_CHANGED_OUTPUT),
    ],
)
def test_the_relation_that_broke_is_named(
    chain_model: Path, tmp_path: Path, behaviour: Behaviour, name: str, reason: Reason
) -> None:
    check = next(c for c in run_judge(chain_model, tmp_path, behaviour).checks if c.name == name)
    assert not check.passed and check.reason is reason and check.reproduce is not None, check.message


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
        def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
            raise RuntimeError("out of memory")

        def rounded(
            self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
        ) -> ReferenceCheck:
            raise AssertionError("nobody asks for it")

        def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
            raise AssertionError("nobody asks for it")

        def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
            raise AssertionError("nobody asks for it")

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
    tied = likely(facts, right[3], tied=True)[1][0]
    other = [*right[:4], tied, *facts.walk(tied, 5)]
    one, two = counter.decode(right), counter.decode(other)
    assert same_answer(ChainReference(chain_model, ties=[4]), request, one, two, counter, tolerance=0.05)
    assert not same_answer(ChainReference(chain_model), request, one, two, counter, tolerance=0.05)
    assert not same_answer(
        ChainReference(chain_model), request, one, counter.decode(right[:6]), counter, tolerance=0.05
    )
    verdict = check_answer(ChainReference(chain_model), request, two, counter, tolerance=0.05)
    assert (verdict.divergence, verdict.agreed) == (4, 9)


def test_too_many_ties_are_no_ties(chain_model: Path, tmp_path: Path) -> None:
    behaviour, reference = Behaviour(wrong_token_at=39), ChainReference(chain_model, ties=[39])
    response = run_judge(chain_model, tmp_path, behaviour, reference=reference, samples=24)
    verdict = response.judgement.verdicts[0]
    assert verdict.reason == Reason.TIES_TOO_FREQUENT.value and "24 tokens differ" in verdict.message
    assert verdict.evidence["reproduce"]["prompt"]


def test_unrounded_logits_are_held_to_the_matrix_products(chain_model: Path, tmp_path: Path) -> None:
    noisy = Behaviour(logprob_error=0.02)
    rough = ChainReference(chain_model, noise=0.05)  # 0.0125 in its products
    assert run_judge(chain_model, tmp_path / "a", noisy, reference=rough).judgement.verdicts[0].passed
    fine = ChainReference(chain_model, noise=0.02)
    verdict = run_judge(chain_model, tmp_path / "b", noisy, baseline=None, reference=fine).judgement.verdicts[0]
    assert verdict.reason == Reason.LOGPROBS_DIVERGED.value, "0.02 nats in all layers are no excuse"
    assert "bfloat16 products" in verdict.message
    assert verdict.evidence["reproduce"]["logprobs"] == 5 and verdict.evidence["reproduce"]["max_tokens"] == 16


def test_rounded_logits_are_held_to_what_the_baseline_shows(chain_model: Path, tmp_path: Path) -> None:
    noisy = Behaviour(logprob_error=0.02, coarse_logits=True)
    rough = ChainReference(chain_model, noise=0.05)
    alone = run_judge(chain_model, tmp_path / "a", noisy, baseline=None, reference=rough).judgement.verdicts[0]
    assert alone.passed and "reference in bfloat16" in alone.message
    # An exact baseline is the measure, not what bfloat16 might do.
    beside = run_judge(chain_model, tmp_path / "b", noisy, reference=rough).judgement.verdicts[0]
    assert beside.reason == Reason.LOGPROBS_DIVERGED.value and "baseline" in beside.message


def test_rounded_logits_neither_accuse_nor_hide(chain_model: Path, tmp_path: Path) -> None:
    # In steps of 2⁻⁷ the written token is 0.003 nats off, three times what these layers explain.
    exact = ChainReference(chain_model, noise=0.0002)
    honest = run_judge(chain_model, tmp_path / "a", Behaviour(coarse_logits=True), baseline=None, reference=exact)
    assert honest.judgement.verdicts[0].passed and honest.logprob_limit == FLOOR
    assert honest.logprob_distance == pytest.approx(0, abs=1e-5)
    coarser = Behaviour(coarse_logits=True, logprob_error=0.002)
    response = run_judge(chain_model, tmp_path / "b", coarser, baseline=None, reference=exact)
    assert response.judgement.verdicts[0].reason == Reason.LOGPROBS_DIVERGED.value


def test_an_endpoint_without_log_probabilities_may_be_judged_by_its_text(chain_model: Path, tmp_path: Path) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour(logprobs=False), logprobs="ifOffered")
    assert response.judgement.passed and response.logprob_distance is None
    assert "judged by its text alone" in next(c.message for c in response.checks if c.name == "logprobs")


def test_answers_that_come_without_log_probabilities_are_counted_and_one_of_them_is_shown(
    chain_model: Path, tmp_path: Path
) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour(logprobs_of_every_prompt=False))
    verdict = response.judgement.verdicts[0]
    assert verdict.reason == Reason.LOGPROBS_REFUSED.value
    bare, asked = map(int, re.findall(r"(\d+) of (\d+) answers have no log-probabilities", verdict.message)[0])
    assert 0 < bare < asked
    assert left_bare(verdict.evidence["reproduce"]["prompt"])


def test_spelled_tokens_are_compared_as_far_as_they_go(chain_model: Path, tmp_path: Path) -> None:
    assert run_judge(chain_model, tmp_path / "a", Behaviour(logprobs_by_id=False)).judgement.passed
    response = run_judge(chain_model, tmp_path / "b", Behaviour(logprobs_by_id=False, logprob_error=0.1))
    assert response.judgement.verdicts[0].reason == Reason.LOGPROBS_DIVERGED.value


def test_poisoned_prefixes_are_shown_by_a_pair_of_requests(chain_model: Path, tmp_path: Path) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour(poison_prefix=14))
    check = next(c for c in response.checks if c.name == "interleaved-prefixes")
    assert check.reproduce is not None
    first, then = check.reproduce["first"]["prompt"], check.reproduce["then"]["prompt"]
    counter = TokenCounter(chain_model)
    assert counter.tokenizer.encode(first).ids[:14] == counter.tokenizer.encode(then).ids[:14] and first != then
    assert len(then) < 300


def test_another_clients_text_is_named(chain_model: Path, tmp_path: Path) -> None:
    response = run_judge(chain_model, tmp_path, Behaviour(swaps_when_running=5, token_seconds=0.001), samples=12)
    check = next(c for c in response.checks if c.name == "cross-talk")
    assert check.reason is Reason.CROSS_TALK and "the client beside it" in check.message
    assert check.reproduce is not None and len(check.reproduce["at_once"]) == 2


def test_a_chat_is_judged_like_a_completion(chain_model: Path, tmp_path: Path) -> None:
    chat = ChatScenario(parameters=ChatParameters(concurrencies=(4,), prompt_tokens=40, output_tokens=24, api="chat"))
    honest = run_judge(chain_model, tmp_path / "a", Behaviour(), scenario=chat)
    assert honest.judgement.passed, [v.message for v in honest.judgement.verdicts if not v.passed]
    assert {check.name for check in honest.checks} == set(GATE_OF) - {"handover", "prediction"}
    wrong = run_judge(chain_model, tmp_path / "b", Behaviour(wrong_token_at=3), scenario=chat)
    reproduce = wrong.judgement.verdicts[0].evidence["reproduce"]
    assert reproduce["path"] == "/v1/chat/completions" and reproduce["max_tokens"] == 4
    assert len(reproduce["messages"][0]["content"]) < 40
    lossy = run_judge(chain_model, tmp_path / "c", Behaviour(logprob_error=0.1), scenario=chat)
    assert lossy.judgement.verdicts[0].reason == Reason.LOGPROBS_DIVERGED.value


def test_a_server_that_hangs_ends_the_judging_in_one_requests_time(chain_model: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    response = run_judge(chain_model, tmp_path, Behaviour(stall_at=3), samples=36, stall_timeout=2.0)
    assert response.judgement.verdicts[0].reason == Reason.REQUEST_FAILED.value
    assert time.monotonic() - begun < 14, "not the stall time of each of 36 requests, three at once"
    assert [v.gate for v in response.judgement.verdicts] == ["accuracy"]


@pytest.mark.parametrize("buffered", [False, True])
def test_answers_kept_by_their_prompt_are_noticed(chain_model: Path, tmp_path: Path, buffered: bool) -> None:
    cache = Behaviour(caches_answers=True, token_seconds=0.002, buffered=buffered)
    response = run_judge(chain_model, tmp_path, cache)
    check = next(c for c in response.checks if c.name == "novel-or-repeated")
    assert check.reason is Reason.COMPLETION_CACHED and check.reproduce is not None
    assert sorted(check.evidence["ratios"])[1] > 6  # one of them may have met a busy machine


def test_a_prefix_cache_is_not_taken_for_kept_answers(chain_model: Path, tmp_path: Path) -> None:
    """A long prompt is read once, a short answer comes in one piece: end to end a repeat is many times as fast, honestly."""
    cache = Behaviour(prompt_seconds=0.2, token_seconds=0.0002, buffered=True)
    response = run_judge(chain_model, tmp_path, cache)
    check = next(c for c in response.checks if c.name == "novel-or-repeated")
    assert check.passed and "not applicable" not in check.message, check.message
