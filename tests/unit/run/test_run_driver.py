"""The driver: killed between any two writes it goes on, and what it tells is complete."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from run_fakes import FakeClock, FakeSteps, run_spec

from sartor_agents.run import events
from sartor_agents.run.driver import Driver, StepOutcome, Worth
from sartor_agents.run.repository import RunRepository
from sartor_api.search.control import Control
from sartor_api.search.decide import Begin
from sartor_api.search.records import Cost, FailureClass, Outcome, StepKind, StepResult, Verdict
from sartor_api.search.state import RunState


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
        assert not stored.ledger.in_flight


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
    stored = RunRepository(tmp_path / "repository")
    issue = stored.read_text("issues/001-0.md") or ""
    assert "# 001-0: BuildFailed" in issue and "kind: defect · state: open" in issue
    page = stored.read_text("rounds/001/round.md") or ""
    assert page.count("## Attempt") == 2 and "build: BuildFailed" in page
    assert "Cause: build said BuildFailed (attempt 2)" in (stored.read_text("autopsies/001.md") or "")
    ended = [e for e in told if isinstance(e, events.StepEnded) and e.failure_class]
    assert [e.reason for e in ended] == ["BuildFailed", "BuildFailed"]


# --- a human steers --------------------------------------------------------------------------------------------------


def steered(root: Path, wishes: Callable[[RunRepository], Control], rounds: int = 3, **more: object) -> Driver:
    repository = RunRepository.create(root / "repository", run_spec(rounds=rounds), "", 0.0)
    told: list[events.Event] = []
    driver = Driver(
        repository, FakeSteps(repository), clock=FakeClock(), emit=told.append, report=lambda _: "r.html",
        control=lambda: wishes(repository), **more,  # type: ignore[arg-type]
    )  # fmt: skip
    driver.told = told  # type: ignore[attr-defined]
    return driver


def test_a_message_reaches_the_next_plan_alone_and_is_recorded_with_it(tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    driver = steered(tmp_path, lambda _: Control(message="try 8 threads"), rounds=1)
    steps = driver._steps  # pyright: ignore[reportPrivateUsage]
    execute = steps.execute

    def watched(begin: Begin, run: RunState, progress: Callable[[str], None]) -> StepOutcome:
        seen[begin.id] = begin.message
        return execute(begin, run, progress)

    steps.execute = watched  # type: ignore[method-assign]
    driver.drive()
    assert seen["001/plan/1/1"] == "try 8 threads" and set(seen.values()) == {"try 8 threads", ""}
    stored = RunRepository(tmp_path / "repository")
    assert stored.read_text("steering/001-plan-1-1.txt") == "try 8 threads\n"
    assert stored.read_text("steering/001-implement-1-1.txt") is None


def test_a_pause_holds_before_the_next_step_and_is_not_charged(tmp_path: Path) -> None:
    looks = 0

    def wishes(repository: RunRepository) -> Control:
        nonlocal looks
        looks += bool(looks) or repository.read_text("rounds/001/0002-plan-1.json") is not None
        return Control(pause=0 < looks < 1000)

    driver = steered(tmp_path, wishes, rounds=1)
    assert driver.drive().outcome is Outcome.CONFIRMED
    waits = [e for e in driver.told if isinstance(e, events.Waiting)]  # type: ignore[attr-defined]
    assert [e.reason for e in waits] == ["Paused"]
    ended = driver.told[-1]  # type: ignore[attr-defined]
    assert isinstance(ended, events.RunFinished) and ended.seconds < 100, "half an hour of pause is not the run's time"


def test_stop_after_round_finishes_the_round_confirms_and_ends(tmp_path: Path) -> None:
    def wishes(repository: RunRepository) -> Control:
        return Control(stop_after_round=repository.read_text("rounds/001/0002-plan-1.json") is not None)

    finished = steered(tmp_path, wishes, rounds=9).drive()
    assert (finished.outcome, finished.best_round) == (Outcome.CONFIRMED, 1)
    stored = RunRepository(tmp_path / "repository").load()
    assert [r.step.value for r in stored.records if r.round != 1] == ["baseline", "confirm"]
    assert stored.spec.budget.rounds == 9, "the intent stays what it was"


def test_a_search_that_cannot_pay_ends_with_what_it_has_and_says_why(tmp_path: Path) -> None:
    def worth(run: RunState) -> Worth:
        return Worth("it cannot pay", forbids=len(run.closed_rounds) >= 2)

    driver = steered(tmp_path, lambda _: Control(), rounds=9, worth=worth)
    finished = driver.drive()
    assert finished.outcome is Outcome.CONFIRMED and finished.best_round == 2
    told = [e for e in driver.told if isinstance(e, events.Payback)]  # type: ignore[attr-defined]
    assert [e.ends for e in told] == [False, False, True]


def test_budgets_are_told_live_with_what_is_reserved(tmp_path: Path) -> None:
    driver = steered(tmp_path, lambda _: Control(), rounds=1)
    policy = driver.run.spec.policy
    plan = policy.steps[StepKind.PLAN].model_copy(update={"reserve": Cost(tokens=500)})
    spec = driver.run.spec.model_copy(
        update={"policy": policy.model_copy(update={"steps": {**policy.steps, StepKind.PLAN: plan}})}
    )
    driver.run = replace(driver.run, spec=spec)
    driver.drive()
    begun = [e for e in driver.told if isinstance(e, events.StepStarted) and e.step is StepKind.PLAN]  # type: ignore[attr-defined]
    assert [(b.name, b.spent, b.reserved) for b in begun[0].budgets] == [("tokens", 0, 500)]
