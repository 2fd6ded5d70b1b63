"""Whole measurements against fake servers: what is fast is found faster, and what must not count does not."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_servers import Behaviour, serving

from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    FailureClass,
    Reason,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sample_file import read_samples
from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.seeds import commitment, derive
from sartor_agents.measurement.tokens import TokenCounter

SEED = "5a" * 32
EDIT = CodeEditScenario(parameters=CodeEditParameters(match_rates=(0, 90), file_tokens=32))
CHAT = ChatScenario(parameters=ChatParameters(concurrencies=(2,), prompt_tokens=16, output_tokens=32))


def policy(**changes: Any) -> MeasurementPolicy:
    values: dict[str, Any] = {
        # Few pairs, for speed: they carry little confidence.
        "replicates_min": 3, "replicates_max": 4, "confidence": 0.75, "window_seconds": 0.6, "warmup_requests": 1,
        "requests_per_condition": 1, "warmup_requests_max": 3, "maximum_contention": 1.0,
        "maximum_contention_difference": 1.0, "invalid_pairs_max": 20, "verify_outputs": 2, "precision": 0.3,
        "request_timeout": 20.0, "startup_seconds": 0.1, "maximum_generator_share": 100.0,
        "maximum_generator_lag": 1e6, "stall_timeout": 10.0, "wall_clock": 200.0,
    }  # fmt: skip
    return MeasurementPolicy(**{**values, **changes})


def nothing_wrong(
    answers: Sequence[tuple[GenerationRequest, Sample]], counter: TokenCounter, request: EvaluateRequest
) -> None:
    assert all(asked.id == sample.request_id for asked, sample in answers)


def measure(
    model_dir: Path, folder: Path, candidate: Behaviour, baseline: Behaviour, *, scenario: Any = EDIT, **request: Any
) -> EvaluateResponse:
    async def run() -> EvaluateResponse:
        async with serving(model_dir, baseline) as theirs:
            if candidate.hand_over_to == "baseline":
                candidate.hand_over_to = theirs.url
            async with serving(model_dir, candidate) as mine:
                verify = request.pop("verify", nothing_wrong)
                asked = EvaluateRequest(
                    candidate=Endpoint(url=mine.url),
                    baseline=Endpoint(url=theirs.url),
                    model_dir=model_dir,
                    scenario=scenario,
                    seed=SEED,
                    output_dir=folder,
                    policy=request.pop("policy", policy()),
                    **request,
                )
                return await evaluate(asked, verify=verify)

    return asyncio.run(run())


def test_a_device_that_is_gone_ends_the_measurement_and_blames_nobody(chain_model: Path, tmp_path: Path) -> None:
    response = measure(chain_model, tmp_path, Behaviour(), Behaviour(), device="GPU-gone")
    assert response.reason is Reason.ACCELERATOR_FAULT and response.failure_class is FailureClass.INFRASTRUCTURE
    assert "GPU-gone" in response.message


def test_a_faster_candidate_is_found_faster(chain_model: Path, tmp_path: Path) -> None:
    fast = Behaviour(token_seconds=0.002, predicted_token_seconds=0.001)
    response = measure(chain_model, tmp_path, fast, Behaviour(token_seconds=0.016))
    assert response.reason is Reason.MEASURED, response.message
    measurement = response.measurement
    assert measurement is not None and measurement.valid and measurement.speedup is not None
    # Only the order is asserted: how wide the interval is depends on what else the machine does.
    assert measurement.speedup.value > 1.5 and measurement.speedup.low <= measurement.speedup.value
    assert {c.name for c in measurement.conditions} == {"match0", "match90", "none"}
    assert measurement.speedup.n >= 3
    assert measurement.seed is not None and measurement.seed.digest == commitment(SEED)
    assert response.agreement == 1.0 and response.verified_outputs == 2 and response.handovers == 0
    assert response.guardrails["none"]["endToEndLatencyP50"].value < 1
    samples = list(read_samples(tmp_path / "samples.parquet"))
    assert {s.arm for s in samples} == {"candidate", "baseline"}
    assert {s.purpose for s in samples} == {"warmup", "scored"}
    scored = {
        arm: {s.request_id for s in samples if s.purpose == "scored" and s.arm == arm}
        for arm in ("candidate", "baseline")
    }
    assert scored["candidate"] == scored["baseline"]
    windows = list(dict.fromkeys((s.window, s.arm) for s in sorted(samples, key=lambda sample: sample.sent)))
    firsts = [arm for window, arm in windows[::2]]
    lots = [derive(SEED, "order", window).integers(2) == 0 for window in range(len(firsts))]
    assert [arm == "candidate" for arm in firsts] == lots
    warm = {s.request_id for s in samples if s.purpose == "warmup"}
    assert warm.isdisjoint(s.request_id for s in samples if s.purpose == "scored")
    # The response is a file in the end.
    assert EvaluateResponse.model_validate(json.loads(response.model_dump_json())) == response


def test_throughput_windows_score_neither_ramp_nor_drain(chain_model: Path, tmp_path: Path) -> None:
    response = measure(
        chain_model, tmp_path, Behaviour(token_seconds=0.004), Behaviour(token_seconds=0.016), scenario=CHAT
    )
    assert response.reason is Reason.MEASURED, response.message
    assert response.measurement is not None and response.measurement.speedup is not None
    assert response.measurement.speedup.value > 1.5
    assert response.metric == "outputTokensPerSecond"


@pytest.mark.alone
def test_a_window_is_long_enough_for_reading_and_writing(chain_model: Path, tmp_path: Path) -> None:
    """Half a second of reading, half of writing: a window of a fifth of that alone would see the one or the other."""
    slow = Behaviour(first_seconds=0.5, token_seconds=0.016)
    chat = ChatParameters(concurrencies=(4,), prompt_tokens=16, output_tokens=32, spread=0)

    async def run() -> EvaluateResponse:
        async with serving(chain_model, slow) as server:
            request = EvaluateRequest(
                mode="single", candidate=Endpoint(url=server.url), model_dir=chain_model, seed=SEED,
                scenario=ChatScenario(parameters=chat), output_dir=tmp_path,
                policy=policy(window_seconds=0.2, single_windows=3),
            )  # fmt: skip
            return await evaluate(request, verify=nothing_wrong)

    response = asyncio.run(run())
    assert response.objective is not None, response.message
    # By what the requests really took, since this machine may be busy.
    took = sorted(s.latency for s in read_samples(tmp_path / "samples.parquet") if s.purpose == "scored")
    assert 0.7 < response.objective / (4 * 32 / took[len(took) // 2]) < 1.4


def test_one_server_alone(chain_model: Path, tmp_path: Path) -> None:
    async def run() -> EvaluateResponse:
        async with serving(chain_model, Behaviour(token_seconds=0.004)) as server:
            request = EvaluateRequest(
                mode="single", candidate=Endpoint(url=server.url), model_dir=chain_model, scenario=EDIT, seed=SEED,
                output_dir=tmp_path, policy=policy(),
            )  # fmt: skip
            return await evaluate(request, verify=nothing_wrong)

    response = asyncio.run(run())
    assert response.reason is Reason.MEASURED, response.message
    assert response.objective is not None and 20 < response.objective < 250
    assert set(response.arms) == {"match0", "match90", "none"}
    assert response.measurement is None


def test_a_server_alone_is_not_measured_by_a_generator_that_is_at_its_limit(chain_model: Path, tmp_path: Path) -> None:
    async def run() -> EvaluateResponse:
        async with serving(chain_model, Behaviour(token_seconds=0.001)) as server:
            request = EvaluateRequest(
                mode="single", candidate=Endpoint(url=server.url), model_dir=chain_model, scenario=EDIT, seed=SEED,
                output_dir=tmp_path, policy=policy(maximum_generator_share=1e-9, invalid_pairs_max=1),
            )  # fmt: skip
            return await evaluate(request, verify=nothing_wrong)

    response = asyncio.run(run())
    assert (response.reason, response.failure_class) == (Reason.GENERATOR_SATURATED, FailureClass.MEASUREMENT)
    assert response.objective is None and "2 windows were disturbed" in response.message


@pytest.mark.parametrize(
    ("candidate", "baseline", "reason", "blamed"),
    [
        (Behaviour(usage_offset=5), Behaviour(), Reason.TOKEN_COUNT_MISMATCH, FailureClass.CANDIDATE),
        (Behaviour(max_tokens=20), Behaviour(), Reason.REQUEST_FAILED, FailureClass.CANDIDATE),
        (Behaviour(status=429), Behaviour(), Reason.REQUEST_FAILED, FailureClass.CANDIDATE),
        (Behaviour(dies_after=3), Behaviour(), Reason.CANDIDATE_DIED, FailureClass.CANDIDATE),
        (Behaviour(), Behaviour(dies_after=3), Reason.BASELINE_DIED, FailureClass.INFRASTRUCTURE),
        (Behaviour(), Behaviour(max_tokens=20), Reason.BASELINE_FAILED_REQUESTS, FailureClass.MEASUREMENT),
        (Behaviour(hand_over_to="baseline"), Behaviour(), Reason.HANDED_OVER, FailureClass.CANDIDATE),
    ],
)
def test_what_must_not_count(
    chain_model: Path, tmp_path: Path, candidate: Behaviour, baseline: Behaviour, reason: Reason, blamed: FailureClass
) -> None:
    for side in (candidate, baseline):
        side.token_seconds = 0.001
    few = policy(invalid_pairs_max=1)
    response = measure(chain_model, tmp_path, candidate, baseline, policy=few)
    assert (response.reason, response.failure_class) == (reason, blamed), response.message
    assert response.measurement is None


def test_fast_and_wrong_is_a_failure(chain_model: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def wrong(
        answers: Sequence[tuple[GenerationRequest, Sample]], counter: TokenCounter, request: EvaluateRequest
    ) -> str:
        seen.extend(sample.text for _, sample in answers)
        return "token 4 is wrong"

    cheat = Behaviour(token_seconds=0.001, echo_prediction=True)
    response = measure(chain_model, tmp_path, cheat, Behaviour(token_seconds=0.004), verify=wrong)
    assert response.reason is Reason.OUTPUT_DIVERGED and response.failure_class is FailureClass.CANDIDATE
    assert "token 4" in response.message and len(seen) == 2


def test_without_time_for_enough_pairs_there_is_no_number(chain_model: Path, tmp_path: Path) -> None:
    response = measure(
        chain_model, tmp_path, Behaviour(token_seconds=0.002), Behaviour(token_seconds=0.002),
        policy=policy(wall_clock=1.0),
    )  # fmt: skip
    assert response.reason is Reason.TOO_FEW_REPLICATES and response.failure_class is FailureClass.MEASUREMENT


def test_servers_that_are_not_up(chain_model: Path, tmp_path: Path) -> None:
    async def run(mine: str, theirs: str) -> EvaluateResponse:
        request = EvaluateRequest(
            candidate=Endpoint(url=mine), baseline=Endpoint(url=theirs), model_dir=chain_model, scenario=EDIT,
            seed=SEED, output_dir=tmp_path,
        )  # fmt: skip
        return await evaluate(request, verify=nothing_wrong)

    async def both() -> None:
        async with serving(chain_model) as gone:
            pass
        async with serving(chain_model) as up:
            assert (await run(gone.url, up.url)).reason is Reason.CANDIDATE_UNREACHABLE
            response = await run(up.url, gone.url)
            assert response.reason is Reason.BASELINE_UNREACHABLE
            assert response.failure_class is FailureClass.INFRASTRUCTURE

    asyncio.run(both())


def test_a_request_that_makes_no_sense_is_explained(chain_model: Path, tmp_path: Path) -> None:
    async def run(model_dir: Path, **changes: Any) -> EvaluateResponse:
        request = EvaluateRequest(
            candidate=Endpoint(url="http://127.0.0.1:1"), model_dir=model_dir, scenario=EDIT, seed=SEED,
            output_dir=tmp_path, **changes,
        )  # fmt: skip
        return await evaluate(request, verify=nothing_wrong)

    response = asyncio.run(run(chain_model))
    assert response.reason is Reason.BAD_REQUEST and "baseline" in response.message
    few = run(chain_model, baseline=Endpoint(url="http://127.0.0.1:1"), policy=policy(confidence=0.99))
    response = asyncio.run(few)
    assert response.reason is Reason.BAD_REQUEST and "8 can" in response.message
    response = asyncio.run(run(tmp_path, mode="single"))
    assert response.reason is Reason.BAD_REQUEST and "tokenizer.json" in response.message
