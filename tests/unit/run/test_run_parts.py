"""Serving the winner, guardrails, seals, tuning, listeners: the smaller parts of a run."""

import sys
import urllib.request
from pathlib import Path

import pytest
from run_fakes import FakeEngine, LocalRun, run_spec

from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, EvaluateResponse, GuardrailRatio, Reason
from sartor_agents.run import candidates, checkouts
from sartor_agents.run.engines import BaselineServer
from sartor_agents.run.errors import BadRequestError, NotARunError
from sartor_agents.run.guardrails import guarded
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.requests import judge_samples, measurement_policy, scenario_spec
from sartor_agents.run.seals import Seals
from sartor_agents.run.servers import RunningServer, ServerError, free_port
from sartor_agents.run.serving import serve_run
from sartor_agents.run.tuning import tune
from sartor_api.search.intent import Budget, SearchPolicy
from sartor_api.search.records import (
    ArmSummary,
    BaselineRecord,
    ConditionResult,
    FailureClass,
    GuardrailLimit,
    Measurement,
    Outcome,
    SeedCommitment,
    Speedup,
    StepKind,
)

RATIO = Speedup(value=2.0, low=1.9, high=2.1, n=4)


def test_the_winner_is_served_with_the_baseline_behind_it_and_both_end(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, spec=None)
    run.spec = run_spec(str(tmp_path / "model"), rounds=1)
    assert run.driver().drive().outcome is Outcome.CONFIRMED
    layout = RunLayout(tmp_path / "run")
    port, said, seen = free_port(), list[str](), list[int]()

    def look(_: float) -> None:
        for url in (f"http://127.0.0.1:{port}/health", said[-3].split()[1].removesuffix("/v1") + "/health"):
            with urllib.request.urlopen(url, timeout=5) as answer:
                seen.append(answer.status)
        raise KeyboardInterrupt

    def serve(wait=look) -> None:
        serve_run(
            layout,
            RunRepository(layout.repository),
            port=port,
            baseline_port=0,
            find_engine=lambda *_: FakeEngine(),
            say=said.append,
            wait=wait,
        )

    with pytest.raises(KeyboardInterrupt):
        serve()
    assert seen == [200, 200] and f"http://127.0.0.1:{port}/v1" in "\n".join(said) and said[-1] == "draining"
    with RunningServer(FakeEngine().server(FakeEngine().settings()[0], port), tmp_path / "log"):
        with pytest.raises(BadRequestError, match=f"port {port} is in use"):
            serve()
        with pytest.raises(ServerError, match="in use"):
            RunningServer(FakeEngine().server(FakeEngine().settings()[0], port), tmp_path / "log")


def test_a_run_that_is_not_over_has_nothing_to_serve(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    repository = RunRepository.create(layout.repository, run_spec(), "", 0.0)
    with pytest.raises(NotARunError, match="no confirmed stack"):
        serve_run(
            layout, repository, port=1, baseline_port=0, find_engine=None, say=lambda _: None, wait=lambda _: None
        )


def test_what_is_started_is_what_was_committed(tmp_path: Path) -> None:
    repository = RunRepository.create(tmp_path / "repository", run_spec(), "", 0.0)
    from sartor_api.search.records import Implementation

    done = repository.save_candidate(1, None, {"stack/__main__.py": b"1"}, Implementation(), 0.0)
    layout = RunLayout(tmp_path)
    folder = checkouts.checkout(repository, layout, done.commit, done.content_hash)
    (folder / "stack" / "__main__.py").write_bytes(b"tampered")
    again = checkouts.checkout(repository, layout, done.commit, done.content_hash)
    assert (again / "stack" / "__main__.py").read_bytes() == b"1"
    with pytest.raises(candidates.CandidateError) as caught:
        checkouts.checkout(repository, layout, done.commit, "0" * 64)
    assert caught.value.reason == "ContentChanged"


def condition(**arm: float) -> Measurement:
    mine = ArmSummary(metric=1.0, requests=100, **arm)  # type: ignore[arg-type]
    theirs = ArmSummary(metric=1.0, requests=100)
    return Measurement(
        metric="m",
        speedup=RATIO,
        conditions=(ConditionResult(name="c1", ratio=RATIO, candidate=mine, baseline=theirs),),
    )


@pytest.mark.parametrize(
    ("limit", "arm", "ratio", "broken"),
    [
        (GuardrailLimit(metric="ttftP99", maximum_regression=0.1), {}, (1.3, 1.2, 1.4), "1.30 times the baseline's"),
        (GuardrailLimit(metric="ttftP99", maximum_regression=0.1), {}, (1.3, 1.05, 1.6), None),
        (GuardrailLimit(metric="ttftP99", maximum_regression=0.1), {}, None, None),
        (GuardrailLimit(metric="ttftP99", at_most=0.8), {"ttft_p99": 0.9}, None, "at most 0.8"),
        (GuardrailLimit(metric="ttftP99", at_most=0.8), {"ttft_p99": 0.7}, None, None),
        (GuardrailLimit(metric="errorRate", at_most=0.001), {"failed": 1}, None, "errorRate"),
        (GuardrailLimit(metric="outputTokensPerSecond", at_least=50), {"output_tokens_per_second": 9.0}, None, "50"),
        # A quantile that failures made infinite is no missing figure: 3 % of 429s must not switch the bounds off.
        (GuardrailLimit(metric="ttftP99", maximum_regression=0.1), {"failed": 5}, None, "infinite: 5 of 100"),
        (GuardrailLimit(metric="ttftP99", maximum_regression=0.1), {"failed": 1}, None, None),  # may be chance
        (GuardrailLimit(metric="ttftP50", maximum_regression=0.1), {"failed": 30, "ttft_p50": 0.1}, None, None),
        (GuardrailLimit(metric="endToEndLatencyP99", at_most=2.0), {"failed": 2}, None, "is inf; at most 2"),
        (GuardrailLimit(metric="endToEndLatencyP99", at_most=2.0), {}, None, None),  # nothing was measured
        (GuardrailLimit(metric="errorRate", maximum_regression=0.001), {"failed": 3}, None, "3 of 100 requests failed"),
        (GuardrailLimit(metric="errorRate", maximum_regression=0.001), {"failed": 1}, None, None),
        (GuardrailLimit(metric="handoverRate", at_most=0.0), {}, None, None),
    ],
)
def test_guardrails_reject_what_is_surely_worse(limit, arm, ratio, broken) -> None:
    ratios = {"c1": {"ttftP99": GuardrailRatio(value=ratio[0], low=ratio[1], high=ratio[2], n=4)}} if ratio else {}
    result = guarded(condition(**arm), [limit], ratios)
    assert result.valid == (broken is None)
    if broken is not None:
        assert broken in result.message and result.failure_class is FailureClass.CANDIDATE
        assert result.conditions and result.invalid_reason == "GuardrailBroken"
        Measurement.model_validate(result.model_dump())


def test_seeds_are_committed_to_before_and_differ_for_each_execution(tmp_path: Path) -> None:
    seals = Seals(tmp_path)
    seed = seals.seed("001/evaluate/1/1")
    assert Seals(tmp_path).seed("001/evaluate/1/1") == seed != seals.seed("001/evaluate/1/2")
    assert seals.commitment("001/evaluate/1/1").value is None
    assert SeedCommitment.of(seed).digest == seals.commitment("001/evaluate/1/1").digest
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert Seals(tmp_path / "other").seed("001/evaluate/1/1") != seed


def test_a_slow_grid_is_cut_short_and_says_so(tmp_path: Path) -> None:
    now = 0.0

    class Server(BaselineServer):
        def ensure(self, setting, port):  # type: ignore[override]
            process = type("P", (), {"pid": 1})
            return type("R", (), {"url": "http://127.0.0.1:1", "process": process, "start_seconds": 1.0})()

    def ask(_: EvaluateRequest, seconds: float) -> EvaluateResponse:
        nonlocal now
        now += 40
        return EvaluateResponse(objective=now, metric="tok/s", reason=Reason.MEASURED, message="")

    def request(endpoint: Endpoint) -> EvaluateRequest:
        spec = run_spec()
        return EvaluateRequest(
            mode="single",
            candidate=endpoint,
            model_dir=tmp_path,
            scenario=scenario_spec(spec),
            policy=measurement_policy(spec, StepKind.BASELINE, wall_clock=10),
            seed="0" * 64,
            output_dir=tmp_path,
        )

    engine = FakeEngine(grid=("a", "b", "c", "d"))
    record = tune(
        engine,
        Server(engine, tmp_path),
        port=1,
        seconds=100,
        request=request,
        ask=ask,
        progress=lambda _: None,
        fingerprint={},
        clock=lambda: now,
    )
    assert isinstance(record, BaselineRecord) and record.chosen == "b"
    assert [p.metric for p in record.grid] == [40, 80, None, None]
    assert "not tried" in record.grid[2].message


def test_settings_of_a_run_reach_judge_and_evaluator() -> None:
    spec = run_spec()
    assert judge_samples(spec) <= 24
    wanted = spec.model_copy(update={"measurement": {"preset": "quick", "overrides": {"replicates_min": 99}}})
    policy = measurement_policy(wanted, StepKind.BASELINE, wall_clock=30)
    assert (policy.replicates_min, policy.replicates_max, policy.wall_clock) == (99, 99, 30)
    with pytest.raises(BadRequestError, match=r"spec\.workload\.parameters\.concurrencies"):
        scenario_spec(spec.model_copy(update={"parameters": {"concurrencies": [0]}}))


def test_the_best_of_many_rounds_and_of_two_confirmations_needs_more_than_one_measurement() -> None:
    few = {"preset": "quick", "overrides": {"replicates_max": 3}}
    budget, search = Budget(rounds=20), SearchPolicy(minimum_effect=0.03, minimum_speedup=1.2, confirmations=2)
    spec = run_spec().model_copy(update={"measurement": few, "budget": budget, "policy": search})
    rounds, last = (measurement_policy(spec, step, wall_clock=30) for step in (StepKind.EVALUATE, StepKind.CONFIRM))
    assert (rounds.comparisons, last.comparisons) == (20, 2)
    assert (rounds.minimum_speedup, last.minimum_speedup) == (1.03, 1.2)
    # 1 in 2^(n - 1) has to be below 5 % over 20, and over 2.
    assert (rounds.replicates_max, last.replicates_max) == (10, 7)


def test_a_listener_that_fails_ends_the_process_and_is_heard(tmp_path: Path) -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError("nobody reads")

    with (
        pytest.raises(BrokenPipeError),
        GuardedProcess(
            (sys.executable, "-c", "import time; print('x', flush=True); time.sleep(600)"),
            cwd=tmp_path,
            environment=scrubbed_environment(tmp_path),
            log=tmp_path / "log",
            on_line=broken,
        ) as process,
    ):
        process.wait(30)
