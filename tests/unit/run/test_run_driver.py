"""The driver: killed between any two writes it goes on, and what it tells is complete."""

from pathlib import Path

import pytest
from run_fakes import FakeClock, FakeSteps, run_spec

from sartor_agents.run import events
from sartor_agents.run.driver import Driver
from sartor_agents.run.repository import RunRepository
from sartor_api.search.decide import Begin
from sartor_api.search.records import FailureClass, Outcome, StepKind, StepResult, Verdict


class PowerCut(BaseException):
    """The process is gone."""


def make(root: Path, told: list[events.Event] | None = None, results=lambda _: None) -> Driver:
    path = root / "repository"
    repository = RunRepository(path) if path.exists() else RunRepository.create(path, run_spec(rounds=1), "", 0.0)
    emit = (told if told is not None else []).append
    return Driver(repository, FakeSteps(repository, results), clock=FakeClock(), emit=emit, report=lambda _: "r.html")


def test_a_run_tells_what_it_does_in_order_and_ends_with_finished(tmp_path: Path) -> None:
    told: list[events.Event] = []
    finished = make(tmp_path, told).drive()
    names = [event.event for event in told]
    assert names[0] == "started" and names[-1] == "finished" and names.count("round") == 1
    assert names.count("step-started") == names.count("step-ended") == 6
    started = told[0]
    assert isinstance(started, events.Started) and started.eta_seconds > 0
    assert started.step_seconds[StepKind.BASELINE] == 1
    last = told[-1]
    assert isinstance(last, events.RunFinished) and last.outcome is Outcome.CONFIRMED and last.stack == "stack"
    assert last.speedup is not None and finished.speedup is not None
    assert last.speedup.model_dump() == {
        "value": finished.speedup.value,
        "low": finished.speedup.low,
        "high": finished.speedup.high,
        "n": finished.speedup.n,
    }


def test_driving_a_finished_run_again_says_the_same(tmp_path: Path) -> None:
    first = make(tmp_path).drive()
    head = (tmp_path / "repository/refs/heads/main").read_text()
    assert make(tmp_path).drive() == first
    assert (tmp_path / "repository/refs/heads/main").read_text() == head


@pytest.mark.parametrize(
    ("after", "stride"),
    [
        pytest.param(False, 6, id="before some writes"),
        pytest.param(False, 1, id="before each write", marks=pytest.mark.slow),
        pytest.param(True, 1, id="after each write", marks=pytest.mark.slow),
    ],
)
def test_cut_at_every_single_write_the_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, stride: int
) -> None:
    expected = make(tmp_path / "calm").drive()
    real = RunRepository._commit  # pyright: ignore[reportPrivateUsage]
    writes = 0
    cut = 10**9

    def commit(self: RunRepository, *args, **kwargs) -> str:
        nonlocal writes
        writes += 1
        if writes == cut and not after:
            raise PowerCut
        name = real(self, *args, **kwargs)
        if writes == cut and after:
            raise PowerCut
        return name

    make(tmp_path / "counted")
    monkeypatch.setattr(RunRepository, "_commit", commit)
    make(tmp_path / "counted").drive()
    total = writes
    assert total > 12
    for cut in range(1, total + 1, stride):
        writes = 0
        root = tmp_path / f"cut-{cut}"
        with monkeypatch.context() as calm:
            calm.setattr(RunRepository, "_commit", real)
            make(root)
        with pytest.raises(PowerCut):
            make(root).drive()
        told: list[events.Event] = []
        finished = make(root, told).drive()
        assert (finished.outcome, finished.reason, finished.speedup, finished.content_hash) == (
            expected.outcome,
            expected.reason,
            expected.speedup,
            expected.content_hash,
        )
        stored = RunRepository(root / "repository").load()
        assert len(stored.records) == 6, "no step is recorded twice and none is lost"
        assert stored.ledger.in_flight is None


def test_servers_are_ended_whatever_ends_the_session(tmp_path: Path) -> None:
    def interrupted(begin: Begin) -> StepResult | None:
        if begin.step is StepKind.JUDGE:
            raise KeyboardInterrupt
        return None

    driver = make(tmp_path, results=interrupted)
    with pytest.raises(KeyboardInterrupt):
        driver.drive()
    steps = driver._steps  # pyright: ignore[reportPrivateUsage]
    assert isinstance(steps, FakeSteps) and steps.closed == 1
    assert make(tmp_path).drive().outcome is Outcome.CONFIRMED


def test_a_failed_round_leaves_an_issue(tmp_path: Path) -> None:
    bad = Verdict(gate="build", passed=False, reason="BuildFailed", message="no", failure_class=FailureClass.CANDIDATE)
    told: list[events.Event] = []
    driver = make(tmp_path, told, lambda b: bad if b.step is StepKind.JUDGE else None)
    assert driver.drive().outcome is Outcome.NO_SPEEDUP
    issue = RunRepository(tmp_path / "repository").read_text("issues/001-2.md") or ""
    assert "# Round 1, attempt 2: BuildFailed" in issue and "no" in issue
    ended = [e for e in told if isinstance(e, events.StepEnded) and e.failure_class]
    assert [e.reason for e in ended] == ["BuildFailed", "BuildFailed"]
