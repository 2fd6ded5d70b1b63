"""Evaluator and judge as processes: a request file in, a response file out, progress as JSON lines."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_servers import Behaviour, serving

from sartor_agents.measurement.messages import EvaluateResponse, JudgeResponse, Reason
from sartor_agents.measurement.policy import MeasurementPolicy

PARAMETERS = {"file_tokens": 24, "match_rates": [90], "without_prediction": False}
SCENARIO = {"name": "code-edit", "parameters": PARAMETERS}


async def role(name: str, folder: Path, request: dict[str, Any]) -> tuple[int, str, bytes]:
    """(exit code, standard error, response)."""
    source, target = folder / f"{name}-request.json", folder / f"{name}-response.json"
    source.write_text(json.dumps(request))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"sartor_agents.roles.{name}", str(source), str(target),
        stderr=asyncio.subprocess.PIPE, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    _, errors = await process.communicate()
    return process.returncode or 0, errors.decode(), target.read_bytes() if target.is_file() else b""


def test_the_evaluator_measures_and_says_what_it_does(chain_model: Path, tmp_path: Path) -> None:
    async def run() -> tuple[int, str, bytes]:
        slow = Behaviour(token_seconds=0.01)
        async with serving(chain_model, Behaviour(token_seconds=0.002)) as mine, serving(chain_model, slow) as theirs:
            policy = MeasurementPolicy.quick(
                verify_outputs=0, maximum_contention=1.0, maximum_contention_difference=1.0, invalid_pairs_max=20,
                maximum_generator_share=100.0, maximum_generator_lag=1e6,
            )  # fmt: skip
            request = {
                "candidate": {"url": mine.url}, "baseline": {"url": theirs.url}, "model_dir": str(chain_model),
                "scenario": SCENARIO, "seed": "12" * 32, "output_dir": str(tmp_path / "new" / "folder"),
                "policy": policy.model_dump(),
            }  # fmt: skip
            return await role("evaluator", tmp_path, request)

    code, errors, content = asyncio.run(run())
    assert code == 0, errors
    response = EvaluateResponse.model_validate_json(content)
    assert response.reason is Reason.MEASURED, response.message
    assert response.measurement is not None and response.measurement.speedup is not None
    assert response.measurement.speedup.value > 1.5
    events = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [e["pair"] for e in events if e["event"] == "pair"] == list(range(1, response.pairs + 1))
    assert all("message" in e for e in events)
    assert response.samples is not None and response.samples.is_file()


def test_a_role_that_cannot_read_its_request_says_so(tmp_path: Path) -> None:
    code, errors, content = asyncio.run(role("evaluator", tmp_path, {"mode": "both"}))
    assert (code, content) == (2, b"")
    assert "mode" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_the_judge_with_the_real_reference(chain_model: Path, tmp_path: Path) -> None:
    async def run(behaviour: Behaviour) -> tuple[int, str, bytes]:
        # These servers make their log-probabilities up; a baseline like them answers bad input like them.
        behaviour.logprobs = False
        async with serving(chain_model, behaviour) as mine, serving(chain_model, Behaviour(logprobs=False)) as theirs:
            request = {
                "candidate": {"url": mine.url}, "baseline": {"url": theirs.url}, "model_dir": str(chain_model),
                "scenario": SCENARIO, "seed": "12" * 32, "output_dir": str(tmp_path), "samples": 3,
                "idle_connections": 5, "logprobs": "ifOffered",
            }  # fmt: skip
            return await role("judge", tmp_path, request)

    code, errors, content = asyncio.run(run(Behaviour()))
    assert code == 0, errors
    response = JudgeResponse.model_validate_json(content)
    assert response.judgement.passed and response.agreement == 1.0
    code, errors, content = asyncio.run(run(Behaviour(wrong_token_at=9)))
    failure = JudgeResponse.model_validate_json(content).judgement.failure
    assert code == 0 and failure is not None and failure.reason == Reason.OUTPUT_DIVERGED.value
