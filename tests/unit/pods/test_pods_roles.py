"""Each role's pod end to end: from mounted files to a report and what it refers to in the repository."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pods_world import SEED, PodWorld, pod_world
from repository_world import RUN
from run_fakes import FakeEngine

from sartor_agents.pods import remote as remotes
from sartor_agents.pods.records import as_file
from sartor_agents.run.content import content_hash
from sartor_api.search.records import (
    BaselineRecord,
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    StepKind,
    Verdict,
)
from sartor_api.search.wire import StepReport


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        yield made


def failure(report: StepReport) -> Verdict:
    assert isinstance(report.result, Verdict), report
    return report.result


def test_a_whole_round_of_pods(world: PodWorld) -> None:
    baseline = world.done(world.begin(StepKind.BASELINE))
    assert isinstance(baseline.result, BaselineRecord)
    assert baseline.result.metric == "tok/s" and baseline.result.fingerprint["cores"] == 2
    # What the operator serves is what was measured: the engine's own environment is in the record.
    assert baseline.result.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"

    plan = world.done(world.begin(StepKind.PLAN))
    assert isinstance(plan.result, Plan) and plan.result.hypothesis == "hypothesis 1"
    assert json.loads(world.stored(plan.commit, "plans/001-plan-1-1.json"))["result"]["hypothesis"] == "hypothesis 1"
    assert b"| round | hypothesis |" in world.stored(plan.commit, "roadmap.md")
    assert world.stored(plan.commit, "baseline/000-baseline-1-1.json") and world.stored(plan.commit, "run.json")

    done = world.done(world.begin(StepKind.IMPLEMENT, plan=plan.result, branch="candidate/001"))
    assert isinstance(done.result, Implementation) and done.result.commit == done.commit
    text = world.stored(done.commit, "stack/__main__.py")
    assert done.result.content_hash == content_hash({"stack/__main__.py": text})
    assert (done.result.summary, done.result.skills_used) == ("made", ("serving-core",))

    candidate = {"commit": done.commit, "content_hash": done.result.content_hash, "baseline": baseline.result}
    judged = world.done(world.begin(StepKind.JUDGE, **candidate))
    assert isinstance(judged.result, Judgement) and judged.result.passed
    note = world.stored(judged.commit, str(done.commit), sealed=True)
    assert judged.digest == hashlib.sha256(note).hexdigest()
    assert world.stored(judged.commit, "steps/001-judge-1-1/record.json", sealed=True) == note

    measured = world.done(world.begin(StepKind.EVALUATE, **candidate))
    assert isinstance(measured.result, Measurement) and measured.result.valid
    assert measured.result.seed is not None and measured.result.seed.value == SEED
    assert not measured.result.conditions, "details stay in the repository"
    full = json.loads(world.stored(measured.commit, "steps/001-evaluate-1-1/record.json", sealed=True))
    assert full["result"]["conditions"][0]["ratio"]["value"] == 2.0

    confirmed = world.done(world.begin(StepKind.CONFIRM, **candidate))
    assert isinstance(confirmed.result, Measurement) and confirmed.result.confirmation
    second = world.done(world.begin(StepKind.PLAN, 2, message="try a wider draft"))
    assert b"wider" not in world.stored(second.commit, "roadmap.md"), "a word of the owner is no record"
    assert world.stored(second.commit, "rounds/001/0005-evaluate-1.json")


def test_the_samples_are_kept_beside_the_measurement(world: PodWorld) -> None:
    world.up_to_plan()
    begin = world.begin(StepKind.EVALUATE, commit="1" * 40, content_hash="2" * 64)
    output = world.work(begin) / "output"
    output.mkdir(parents=True)
    (output / "samples.parquet").write_bytes(b"samples")
    report = world.done(begin)
    assert isinstance(report.result, Measurement)
    stored = json.loads(world.stored(report.commit, "steps/001-evaluate-1-1/record.json", sealed=True))
    assert stored["result"]["samples"] == "steps/001-evaluate-1-1/samples.parquet"
    assert world.stored(report.commit, stored["result"]["samples"], sealed=True) == b"samples"


def test_a_baseline_that_cannot_be_measured_is_a_result_with_its_class(world: PodWorld) -> None:
    world.engine = FakeEngine(broken=("plain",))
    result = failure(world.done(world.begin(StepKind.BASELINE)))
    assert (result.reason, result.failure_class) == ("BaselineNotMeasurable", FailureClass.INFRASTRUCTURE)
    assert "libgomp is missing" in result.message


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("crash", "RoleFailed"), ("garbage", "RoleAnsweredGarbage"), ("nothing", "RoleGaveNothing")],
)
def test_a_role_that_falls_over_is_the_infrastructure_s_failure(world: PodWorld, behaviour: str, reason: str) -> None:
    world.done(world.begin(StepKind.BASELINE))
    world.behaviours["planner"] = behaviour
    result = failure(world.done(world.begin(StepKind.PLAN)))
    assert (result.reason, result.failure_class) == (reason, FailureClass.INFRASTRUCTURE)


def test_a_role_that_hangs_is_ended_in_time_to_say_so(world: PodWorld) -> None:
    world.done(world.begin(StepKind.BASELINE))
    world.behaviours["planner"] = "hang"
    result = failure(world.done(world.begin(StepKind.PLAN, deadline_seconds=1.5)))
    assert result.reason == "RoleTimedOut"


def test_an_invalid_measurement_keeps_its_class(world: PodWorld) -> None:
    world.up_to_plan()
    world.behaviours["evaluator"] = "invalid"
    report = world.done(world.begin(StepKind.EVALUATE, commit="1" * 40, content_hash="2" * 64))
    assert isinstance(report.result, Measurement) and report.result.failure_class is FailureClass.MEASUREMENT


# --- killed and started again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [StepKind.PLAN, StepKind.IMPLEMENT, StepKind.JUDGE, StepKind.EVALUATE])
def test_killed_between_push_and_report_it_reports_what_it_pushed(
    world: PodWorld, monkeypatch: pytest.MonkeyPatch, step: StepKind
) -> None:
    if step is StepKind.PLAN:
        world.done(world.begin(StepKind.BASELINE))
        begin = world.begin(step)
    else:
        plan = world.up_to_plan()
        more = {"plan": plan} if step is StepKind.IMPLEMENT else {"commit": "1" * 40, "content_hash": "2" * 64}
        begin = world.begin(step, **more)
    push = remotes.Remote.push

    def killed(self: remotes.Remote, commit: str, ref: str) -> None:
        push(self, commit, ref)
        raise KeyboardInterrupt

    world.prepare(begin)
    monkeypatch.setattr(remotes.Remote, "push", killed)
    assert world.run(begin) == 143
    assert "ended from outside" in world.said(begin)
    monkeypatch.setattr(remotes.Remote, "push", push)
    # Whatever the work would give now, the step is done.
    world.behaviours.update(dict.fromkeys(("planner", "implementer", "judge", "evaluator"), "crash"))
    if step in (StepKind.PLAN, StepKind.IMPLEMENT):
        (world.work(begin) / "answer.json").unlink()
    if step is StepKind.PLAN:
        (world.work(begin) / "request.json").unlink()
        world.prepare(begin)
        assert not (world.work(begin) / "answer.json").exists(), "nobody is asked again for a plan that is stored"
    assert world.run(begin) == 0
    report = world.report(begin)
    assert not isinstance(report.result, Verdict), report
    vault = (
        world.git.root / "team-a" / RUN / ("open.git" if step in (StepKind.PLAN, StepKind.IMPLEMENT) else "sealed.git")
    )
    assert world.git.ok(None, f"--git-dir={vault}", "cat-file", "-t", str(report.commit)) == "commit"
    assert world.run(begin) == 0 and world.report(begin) == report


def test_killed_before_the_push_it_makes_the_same_commit_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[list[str | None]] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with pod_world(tmp_path / name, monkeypatch) as world:
            world.spec = world.spec.model_copy(update={"model": {"name": "m", "folder": "/model"}})
            plan = world.up_to_plan()
            done = world.done(world.begin(StepKind.IMPLEMENT, plan=plan))
            assert isinstance(done.result, Implementation)
            judged = world.done(world.begin(StepKind.JUDGE, commit=done.commit, content_hash=done.result.content_hash))
            commits.append([done.commit, judged.commit])
    assert commits[0] == commits[1]


def test_a_record_that_was_damaged_in_the_repository_is_said_so(world: PodWorld) -> None:
    world.done(world.begin(StepKind.BASELINE))
    begin = world.begin(StepKind.PLAN)
    world.environment(begin, "planner")
    tree = world.git.work("tree")
    world.git.commit(tree, {"plans/001-plan-1-1.json": "{}"})
    assert world.git.push("secret-token-001-plan-1-1", tree, "HEAD:refs/heads/main").returncode == 0
    assert world.run(begin, "history") == 3
    assert "is no step report" in world.said(begin, "history")


# --- the planner's history --------------------------------------------------------------------------------------------


def test_older_records_come_from_the_repository(world: PodWorld) -> None:
    plan = world.up_to_plan()
    done = world.done(world.begin(StepKind.IMPLEMENT, plan=plan))
    assert isinstance(done.result, Implementation)
    world.done(world.begin(StepKind.JUDGE, commit=done.commit, content_hash=done.result.content_hash))
    world.done(world.begin(StepKind.EVALUATE, commit=done.commit, content_hash=done.result.content_hash))
    world.done(world.begin(StepKind.PLAN, 2))
    before, world.records = world.records, world.records[-1:]
    third = world.begin(StepKind.PLAN, 2, execution=2, sequence=len(before) + 1)
    world.prepare(third)
    assert world.run(third) == 0 and isinstance(world.report(third).result, Plan)


def test_a_history_with_a_gap_is_no_ground_to_plan_on(world: PodWorld) -> None:
    world.up_to_plan()
    world.records = world.records[1:]
    begin = world.begin(StepKind.PLAN, 2, sequence=4)
    assert world.run(begin, "history") == 2
    assert "lie before it" in world.said(begin, "history")


# --- the repository ---------------------------------------------------------------------------------------------------


def test_no_result_without_its_evidence(world: PodWorld) -> None:
    begin = world.begin(StepKind.BASELINE)
    world.git.away = True
    assert world.run(begin) == 0
    result = failure(world.report(begin))
    assert (result.reason, result.failure_class) == ("RepositoryUnavailable", FailureClass.INFRASTRUCTURE)
    assert "who is calling cannot be checked now" in result.message
    world.git.away = False
    world.git.runs.clear()
    assert world.run(begin) == 0
    assert "there is no SynthesisRun" in failure(world.report(begin)).message


def test_the_token_stands_in_no_argument_and_no_environment_of_git(
    world: PodWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import shutil

    spy, seen = tmp_path / "bin", tmp_path / "seen"
    spy.mkdir()
    real = shutil.which("git")
    (spy / "git").write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> "{seen}"\nexec {real} "$@"\n')
    (spy / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy}:{os.environ['PATH']}")
    world.done(world.begin(StepKind.BASELINE))
    assert "push" in seen.read_text()
    assert "secret-token" not in seen.read_text()


def test_files_are_the_same_for_the_same_model(world: PodWorld) -> None:
    report = StepReport(step="001/plan/1/1", result=Plan(round=1, action="stop", hypothesis="über"))
    assert as_file(report) == as_file(StepReport.model_validate_json(as_file(report)))
    assert "über".encode() in as_file(report)
