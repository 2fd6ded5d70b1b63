"""Faults of servers, clocks, disks and data: each ends in a clear verdict or an invalid measurement, never a wrong number.

Whole measurements against small servers on 127.0.0.1; what only one request needs is in `test_client` and `test_sse`.
"""

import asyncio
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_servers import Behaviour, FakeServer, serving

from sartor_agents.measurement import clocks
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
from sartor_agents.measurement.sample_file import SampleFileError, read_samples
from sartor_agents.measurement.samples import ErrorClass

SEED = "5a" * 32
EDIT = CodeEditScenario(parameters=CodeEditParameters(match_rates=(90,), without_prediction=False, file_tokens=24))
CHAT = ChatScenario(parameters=ChatParameters(concurrencies=(4,), prompt_tokens=16, output_tokens=32))
SLOW = 0.002


def policy(**changes: Any) -> MeasurementPolicy:
    """Small; blind to this machine's other load, and to servers that share the load generator's event loop."""
    values: dict[str, Any] = {
        # Few pairs, for speed: they carry little confidence.
        "replicates_min": 3, "replicates_max": 3, "confidence": 0.75, "window_seconds": 0.5, "requests_per_condition": 2,
        "warmup_requests": 1, "warmup_requests_max": 2, "maximum_contention": 1.0,
        "maximum_contention_difference": 1.0, "invalid_pairs_max": 0, "verify_outputs": 0, "precision": 10.0,
        "request_timeout": 3.0, "stall_timeout": 0.5, "wall_clock": 60.0, "startup_seconds": 0.2,
        "maximum_generator_share": 100.0, "maximum_generator_lag": 1e6,
    }  # fmt: skip
    return MeasurementPolicy(**{**values, **changes})


def measure(
    model_dir: Path,
    folder: Path,
    candidate: Behaviour | None = None,
    baseline: Behaviour | None = None,
    *,
    scenario: Any = EDIT,
    meanwhile: Callable[[FakeServer], Any] | None = None,
    **asked: Any,
) -> EvaluateResponse:
    """`meanwhile` is a coroutine function that is given the candidate while it is measured."""

    async def run() -> EvaluateResponse:
        slow = Behaviour(token_seconds=SLOW)
        async with serving(model_dir, candidate or slow) as mine, serving(model_dir, baseline or slow) as theirs:
            request = EvaluateRequest(
                candidate=Endpoint(url=mine.url), baseline=Endpoint(url=theirs.url), model_dir=model_dir,
                scenario=scenario, seed=SEED, output_dir=folder, policy=asked.pop("policy", policy()), **asked,
            )  # fmt: skip
            task = asyncio.create_task(meanwhile(mine)) if meanwhile is not None else None
            response = await evaluate(request, verify=lambda *_: None)
            if task is not None:
                await task
            return response

    return asyncio.run(run())


def failed(response: EvaluateResponse) -> tuple[Reason, FailureClass | None]:
    """Reason and class of a response without a number."""
    assert response.measurement is None and response.objective is None, "there must be no number"
    return response.reason, response.failure_class


# --- servers ------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_slow_to_start_is_waited_for(chain_model: Path, tmp_path: Path) -> None:
    late = Behaviour(token_seconds=SLOW, ready_after=0.7)
    response = measure(chain_model, tmp_path, late, late, policy=policy(startup_seconds=20.0))
    assert response.reason is Reason.MEASURED, response.message
    # Not a second of the start is in any latency.
    assert all(sample.latency < 0.7 for sample in read_samples(tmp_path / "samples.parquet"))


def test_a_server_that_is_too_slow_to_start(chain_model: Path, tmp_path: Path) -> None:
    never = Behaviour(ready_after=1e9)
    response = measure(chain_model, tmp_path, never)
    assert failed(response) == (Reason.CANDIDATE_UNREACHABLE, FailureClass.CANDIDATE)
    assert "0.2 s" in response.message
    assert failed(measure(chain_model, tmp_path, None, never)) == (
        Reason.BASELINE_UNREACHABLE,
        FailureClass.INFRASTRUCTURE,
    )


BROKEN = {
    "429 to everything": (Behaviour(status=429), "429"),
    "closes connections": (Behaviour(token_seconds=SLOW, reset_at=5), "closed in mid-answer"),
    "stalls in mid-stream": (Behaviour(token_seconds=SLOW, stall_at=5), "silent for 0.5 s"),
    "not JSON": (Behaviour(token_seconds=SLOW, bad_json_at=5), "not JSON"),
    "half a UTF-8 character": (
        Behaviour(token_seconds=SLOW, raw_at=(5, '{"choices":[{"text":"ü"}]}'.encode()[:-5])),
        "not UTF-8",
    ),
    "half a UTF-16 pair": (
        Behaviour(token_seconds=SLOW, raw_at=(5, rb'{"choices":[{"text":"\ud83d"}]}')),
        "half a char",
    ),
    "no choices": (Behaviour(token_seconds=SLOW, raw_at=(5, b'{"choices":7}')), "choices"),
    "text that is none": (Behaviour(token_seconds=SLOW, raw_at=(5, b'{"choices":[{"text":[1]}]}')), "not a string"),
    "nested for ever": (Behaviour(token_seconds=SLOW, raw_at=(5, b"[" * 100_000)), "JSON"),
    "no end": (Behaviour(token_seconds=SLOW, done=False), "[DONE]"),
    "usage that differs": (
        Behaviour(token_seconds=SLOW, extra_events=(b'{"choices":[],"usage":{"completion_tokens":9}}',)),
        "came twice and differs",
    ),
    "usage that is no number": (
        Behaviour(token_seconds=SLOW, extra_events=(b'{"choices":[],"usage":{"completion_tokens":"24"}}',)),
        "not a number of tokens",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_candidate_that_breaks_has_failed_requests_and_no_number(
    chain_model: Path, tmp_path: Path, fault: str
) -> None:
    behaviour, words = BROKEN[fault]
    response = measure(chain_model, tmp_path, behaviour)
    assert failed(response) == (Reason.REQUEST_FAILED, FailureClass.CANDIDATE), response.message
    assert words in response.message
    # What came back is kept, as what it is.
    mine = [s for s in read_samples(tmp_path / "samples.parquet") if s.arm == "candidate" and s.purpose == "scored"]
    assert mine and all(not s.ok and s.counted == 0 and s.latency == float("inf") for s in mine)


@pytest.mark.parametrize("fault", ["429 to everything", "closes connections", "half a UTF-8 character"])
def test_a_baseline_that_breaks_makes_no_candidate_fast(chain_model: Path, tmp_path: Path, fault: str) -> None:
    response = measure(chain_model, tmp_path, None, BROKEN[fault][0])
    assert failed(response) == (Reason.BASELINE_FAILED_REQUESTS, FailureClass.MEASUREMENT)


@pytest.mark.parametrize(
    ("behaviour", "words"), [(Behaviour(usage=False), "no `usage`"), (Behaviour(usage_offset=3), "27")]
)
def test_missing_or_wrong_usage(chain_model: Path, tmp_path: Path, behaviour: Behaviour, words: str) -> None:
    behaviour.token_seconds = SLOW
    response = measure(chain_model, tmp_path, behaviour)
    assert failed(response) == (Reason.TOKEN_COUNT_MISMATCH, FailureClass.CANDIDATE)
    assert words in response.message


def test_the_same_usage_twice_is_no_fault(chain_model: Path, tmp_path: Path) -> None:
    same = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":24}}'
    response = measure(chain_model, tmp_path, Behaviour(token_seconds=SLOW, extra_events=(same,)), scenario=EDIT)
    # Warm-up answers are as long as scored ones here.
    assert response.reason is Reason.MEASURED, response.message


def test_some_rejected_requests_are_infinitely_late_and_bring_nothing(chain_model: Path, tmp_path: Path) -> None:
    """A quarter gets 429 at once: latencies of the others improve, and neither goodput nor p99 may."""
    busy = Behaviour(token_seconds=SLOW, reject_every=4)
    response = measure(chain_model, tmp_path, busy, scenario=CHAT)
    assert response.reason is Reason.MEASURED, response.message
    assert response.measurement is not None
    arm = response.measurement.conditions[0].candidate
    assert arm.failed > 0 and arm.end_to_end_p99 is None and arm.ttft_p99 is None
    assert arm.attainment is not None and 0.4 < arm.attainment < 0.9
    rejected = [s for s in read_samples(tmp_path / "samples.parquet") if s.error is ErrorClass.STATUS]
    # The loop did not spin on refusals.
    assert 0 < len(rejected) < 400


def test_an_answer_without_end_does_not_fill_the_memory(
    chain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sartor_agents.measurement.http1.LARGEST_ANSWER", 1 << 20)
    flood = Behaviour(raw_at=(2, b'{"choices":[{"text":"' + b"x" * (2 << 20) + b'"}]}'))
    response = measure(chain_model, tmp_path, flood)
    assert failed(response) == (Reason.REQUEST_FAILED, FailureClass.CANDIDATE)
    assert "longer than" in response.message


def test_answers_that_are_kept_back(chain_model: Path, tmp_path: Path) -> None:
    chat = ChatScenario(parameters=ChatParameters(concurrencies=(6,), prompt_tokens=16, output_tokens=64))
    slow = Behaviour(token_seconds=0.01)  # a twentieth of an answer is more than a busy machine holds a process up
    patient = policy(stall_timeout=3.0)
    kept = Behaviour(token_seconds=0.01, buffered=True)
    response = measure(chain_model, tmp_path, kept, slow, scenario=chat, policy=patient)
    assert failed(response) == (Reason.NOT_STREAMED, FailureClass.CANDIDATE), response.message
    assert measure(chain_model, tmp_path, slow, slow, scenario=chat, policy=patient).reason is Reason.MEASURED


# --- the machine --------------------------------------------------------------------------------------------------------


def test_a_clock_step_voids_the_pair(chain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shift = 0.0
    real = clocks.read

    def read() -> clocks.Clocks:
        now = real()
        return clocks.Clocks(now.wall + shift, now.monotonic, now.boot)

    async def step(server: FakeServer) -> None:
        nonlocal shift
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        shift = -3600.0

    monkeypatch.setattr("sartor_agents.measurement.clocks.read", read)
    response = measure(chain_model, tmp_path, meanwhile=step)
    assert failed(response) == (Reason.CLOCK_STEPPED, FailureClass.MEASUREMENT)
    assert "-3600.00 s" in response.message
    # Once is repeated.
    shift = 0.0
    response = measure(chain_model, tmp_path, meanwhile=step, policy=policy(invalid_pairs_max=1))
    assert (response.reason, response.invalid_pairs, response.pairs) == (Reason.MEASURED, 1, 3)


def test_a_full_disk_is_a_reason_and_no_traceback(chain_model: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.parquet.partial").symlink_to("/dev/full")
    response = measure(chain_model, tmp_path)
    assert failed(response) == (Reason.SAMPLES_NOT_WRITTEN, FailureClass.INFRASTRUCTURE)
    assert os.strerror(errno.ENOSPC) in response.message
    assert not (tmp_path / "samples.parquet").exists()


def request_file(model_dir: Path, folder: Path, mine: str, theirs: str, **changes: Any) -> Path:
    request = EvaluateRequest(
        candidate=Endpoint(url=mine), baseline=Endpoint(url=theirs), model_dir=model_dir, scenario=EDIT, seed=SEED,
        output_dir=folder / "out", policy=policy(**changes),
    )  # fmt: skip
    path = folder / "request.json"
    path.write_text(request.model_dump_json())
    return path


async def evaluator(folder: Path, source: Path, **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sartor_agents.roles.evaluator", str(source), str(folder / "response.json"),
        stderr=asyncio.subprocess.PIPE, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}, **options,
    )  # fmt: skip


def test_an_evaluator_that_is_killed_leaves_nothing_that_could_be_taken_for_a_result(
    chain_model: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        slow = Behaviour(token_seconds=SLOW)
        async with serving(chain_model, slow) as mine, serving(chain_model, slow) as theirs:
            endless = request_file(
                chain_model, tmp_path, mine.url, theirs.url, replicates_max=1000, precision=1e-9, minimum_speedup=1.0
            )
            process = await evaluator(tmp_path, endless)
            partial = tmp_path / "out" / "samples.parquet.partial"
            while not partial.is_file() or partial.stat().st_size < 3000:
                assert process.returncode is None, await process.communicate()
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert not (tmp_path / "response.json").exists()
            assert not (tmp_path / "out" / "samples.parquet").exists()
            with pytest.raises(SampleFileError):
                list(read_samples(partial))
            # The same folder serves again, and holds the second measurement's samples only.
            again = await evaluator(tmp_path, request_file(chain_model, tmp_path, mine.url, theirs.url))
            _, errors = await again.communicate()
            assert again.returncode == 0, errors
            response = EvaluateResponse.model_validate_json((tmp_path / "response.json").read_bytes())
            assert response.reason is Reason.MEASURED and response.pairs == 3
            windows = {(s.arm, s.window) for s in read_samples(tmp_path / "out" / "samples.parquet")}
            assert windows == {(arm, index) for arm in ("candidate", "baseline") for index in (0, 1, 2)}
            assert not partial.exists()

    asyncio.run(run())


def test_a_disk_that_fills_up_under_the_real_process(chain_model: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the kernel refuses every byte beyond it, as a full quota would."""

    async def run() -> None:
        slow = Behaviour(token_seconds=SLOW)
        async with serving(chain_model, slow) as mine, serving(chain_model, slow) as theirs:
            source = request_file(chain_model, tmp_path, mine.url, theirs.url, replicates_max=50, precision=1e-9)

            def limit() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

            process = await evaluator(tmp_path, source, preexec_fn=limit)
            _, errors = await process.communicate()
            assert process.returncode == 0 and b"Traceback" not in errors, errors
            response = EvaluateResponse.model_validate_json((tmp_path / "response.json").read_bytes())
            assert failed(response) == (Reason.SAMPLES_NOT_WRITTEN, FailureClass.INFRASTRUCTURE)
            assert "File too large" in response.message
            assert not (tmp_path / "out" / "samples.parquet").exists()

    asyncio.run(run())


def test_a_response_that_cannot_be_written_is_a_sentence(chain_model: Path, tmp_path: Path) -> None:
    async def run() -> tuple[int | None, bytes]:
        async with serving(chain_model) as mine, serving(chain_model) as theirs:
            source = request_file(chain_model, tmp_path, mine.url, theirs.url)

            def limit() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

            process = await evaluator(tmp_path, source, preexec_fn=limit)
            _, errors = await process.communicate()
            return process.returncode, errors

    code, errors = asyncio.run(run())
    assert code == 3 and b"no space left" in errors and b"Traceback" not in errors
    assert not (tmp_path / "response.json").exists()


# --- data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"prompt one\n", "trace.jsonl:1: not JSON"),
        (b'{"body":{"prompt":"a"}}\n{"body":{}}\n', "trace.jsonl:2: not a request"),
        (b"[1]\n", "not a request"),
        (b"[" * 100_000, "not JSON"),
        (b'{"body":{"prompt":""}}\n', "`prompt` must be text"),
        (b'{"body":{"prompt":[1,2]}}\n', "`prompt` must be text"),
        (b'{"body":{"messages":[]}}\n', "`messages` must be a list"),
        (b'{"body":{"messages":[{"role":"user"}]}}\n', "`role` and `content`"),
        (b'{"at":-1,"body":{"prompt":"a"}}\n', "`at` must be seconds"),
        (b'{"at":"noon","body":{"prompt":"a"}}\n', "`at` must be seconds"),
        (b'{"at":NaN,"body":{"prompt":"a"}}\n', "`at` must be seconds"),
        (b'{"at":Infinity,"body":{"prompt":"a"}}\n', "`at` must be seconds"),
        (b'{"at":1,"body":{"prompt":"a","max_tokens":0}}\n', "`max_tokens` must be 1 or more"),
        (b'{"body":{"prompt":"a b c d e f g h i j k l m n o p"}}\n', "no `at`"),
    ],
)
def test_a_trace_that_is_empty_or_malformed(chain_model: Path, tmp_path: Path, content: bytes, words: str) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_bytes(content)
    replay = ChatScenario(parameters=ChatParameters(concurrencies=(1,), replay_speed=1.0))
    response = measure(chain_model, tmp_path, scenario=replay, trace=trace)
    assert failed(response) == (Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE)
    assert words in response.message and "Traceback" not in response.message


@pytest.mark.parametrize("content", ["", "{", json.dumps({"words": []})])
def test_a_data_set_that_is_empty_or_malformed(chain_model: Path, tmp_path: Path, content: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in chain_model.iterdir():
        (model / path.name).symlink_to(path)
    (model / "chain.json").unlink()
    (model / "chain.json").write_text(content)

    async def run() -> EvaluateResponse:
        request = EvaluateRequest(
            candidate=Endpoint(url="http://127.0.0.1:9"), baseline=Endpoint(url="http://127.0.0.1:9"), model_dir=model,
            scenario=EDIT, seed=SEED, output_dir=tmp_path, policy=policy(),
        )  # fmt: skip
        return await evaluate(request, verify=lambda *_: None)

    response = asyncio.run(run())
    assert failed(response) == (Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE)
    assert "chain.json" in response.message
