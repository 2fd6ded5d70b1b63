"""Candidates in work side by side: really at once, measured one by one, and the memory whole whoever is killed when."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from run_fakes import FakeClock, FakeSteps, LocalRun, run_spec

from sartor_agents.cli.views import Board
from sartor_agents.memory.files import memory_files
from sartor_agents.run import events
from sartor_agents.run.driver import Driver
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.workers import Workers
from sartor_api.search.control import Control
from sartor_api.search.decide import Begin
from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import Outcome, StepKind, StepResult

PATIENCE = 20.0


class PowerCut(BaseException):
    """The process is gone."""


def nothing(_: Begin) -> None:
    return None


def make(
    root: Path,
    results: Callable[[Begin], StepResult | None] = nothing,
    *,
    told: list[events.Event] | None = None,
    rounds: int = 4,
    parallelism: int = 2,
    control: Callable[[], Control] = Control,
) -> Driver:
    path, spec = root / "repository", run_spec(rounds=rounds, parallelism=parallelism)
    repository = RunRepository(path) if path.exists() else RunRepository.create(path, spec, "", 0.0)
    emit = (told if told is not None else []).append
    steps = FakeSteps(repository, results)
    return Driver(repository, steps, clock=FakeClock(), emit=emit, report=lambda _: "r.html", control=control)


class Watch:
    """Holds every implementer until another one is at work, and notes what ran beside what."""

    def __init__(self, together: int = 2) -> None:
        self.meeting = threading.Barrier(together)
        self.lock = threading.Lock()
        self.active: Counter[StepKind] = Counter()
        self.disturbed: list[str] = []

    def __call__(self, begin: Begin) -> StepResult | None:
        with self.lock:
            self.active[begin.step] += 1
            measuring = sum(self.active[kind] for kind in MEASURING)
            if measuring and self.active.total() > 1:
                self.disturbed.append(begin.id)
        if begin.step is StepKind.IMPLEMENT:
            self.meeting.wait(PATIENCE)
        with self.lock:
            self.active[begin.step] -= 1
        return None


def test_implementers_are_at_work_at_once_and_nothing_runs_beside_a_measurement(tmp_path: Path) -> None:
    watch = Watch()
    finished = make(tmp_path, watch).drive()
    assert (finished.outcome, finished.best_round) == (Outcome.CONFIRMED, 4)
    assert watch.disturbed == []


def test_each_candidate_has_a_branch_of_its_own_and_the_memory_is_that_of_the_records(tmp_path: Path) -> None:
    make(tmp_path, Watch()).drive()
    repository = RunRepository(tmp_path / "repository")
    run = repository.load().state(0.0)
    assert len({r.implementation.commit for r in run.rounds if r.implementation}) == 4
    for path, text in memory_files(run).items():
        assert repository.read_text(path) == text, path


@pytest.mark.parametrize(
    "stride", [pytest.param(7, id="some"), pytest.param(1, id="each", marks=pytest.mark.exhaustive)]
)
def test_cut_at_every_write_with_two_at_work_nothing_is_lost_or_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    real = RunRepository._commit  # pyright: ignore[reportPrivateUsage]
    writes, cut = 0, 10**9
    counting = threading.Lock()

    def commit(self: RunRepository, *args, **kwargs) -> str:
        nonlocal writes
        with counting:
            writes += 1
            mine = writes
        if mine == cut:
            raise PowerCut
        return real(self, *args, **kwargs)

    monkeypatch.setattr(RunRepository, "_commit", commit)
    make(tmp_path / "counted").drive()
    total = writes
    for cut in range(2, total + 1, stride):
        writes, root = 0, tmp_path / f"cut-{cut}"
        before = threading.active_count()
        with pytest.raises(PowerCut):
            make(root).drive()
        for thread in threading.enumerate():
            if "/" in thread.name:
                thread.join(PATIENCE)  # a process that is gone has none left
        assert threading.active_count() <= before
        writes = -(10**9)
        finished = make(root).drive()
        assert (finished.outcome, finished.best_round) == (Outcome.CONFIRMED, 4), f"write {cut}"
        repository = RunRepository(root / "repository")
        stored = repository.load()
        assert len(stored.records) == 2 + 4 * 4 and not stored.ledger.in_flight
        assert repository.read_text("roadmap.md") == memory_files(stored.state(0.0))["roadmap.md"]


def test_a_pause_lets_what_is_in_flight_end_and_begins_nothing(tmp_path: Path) -> None:
    wanted, asked = threading.Event(), threading.Event()
    meeting = threading.Barrier(2, wanted.set)
    times = 0

    def results(begin: Begin) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT and begin.round < 3:
            meeting.wait(PATIENCE)
            assert asked.wait(PATIENCE), "nobody looked for a pause"
        return None

    def control() -> Control:
        nonlocal times
        if not wanted.is_set():
            return Control()
        asked.set()
        times += 1
        return Control(pause=times < 6)

    told: list[events.Event] = []
    assert make(tmp_path, results, told=told, control=control).drive().outcome is Outcome.CONFIRMED
    position = next(i for i, e in enumerate(told) if isinstance(e, events.Waiting) and e.reason == "Paused")
    begun = {e.id for e in told[:position] if isinstance(e, events.StepStarted)}
    ended = {e.id for e in told[:position] if isinstance(e, events.StepEnded)}
    assert begun == ended, "the run is held when nothing is in flight any more"
    assert {one for one in begun if "implement" in one} == {"001/implement/1/1", "002/implement/1/1"}


def test_what_a_step_raises_ends_the_session_and_the_run_goes_on(tmp_path: Path) -> None:
    def results(begin: Begin) -> StepResult | None:
        if begin.id == "002/implement/1/1":
            raise OSError("the disk is full")
        return None

    with pytest.raises(OSError, match="the disk is full"):
        make(tmp_path, results).drive()
    assert make(tmp_path).drive().outcome is Outcome.CONFIRMED


def test_real_roles_and_servers_with_two_candidates_in_work(tmp_path: Path) -> None:
    model = tmp_path / "model"
    run = LocalRun(tmp_path, spec=run_spec(str(model), rounds=2, parallelism=2))
    assert run.driver().drive().outcome is Outcome.CONFIRMED
    started = [e.id for e in run.told if isinstance(e, events.StepStarted)]
    assert started.index("002/plan/1/1") < started.index("001/judge/1/1"), "the batch is filled before it is measured"


def test_the_board_shows_every_step_in_flight() -> None:
    board = Board()
    for number in (1, 2):
        board.update(
            events.StepStarted(
                at=1, id=f"00{number}/implement/1/1", step=StepKind.IMPLEMENT, round=number, attempt=1,
                reason="PlanReady", expected_seconds=1, eta_seconds=1, left_seconds=1,
            )
        )  # fmt: skip
    board.update(events.Progress(at=2, id="001/implement/1/1", step=StepKind.IMPLEMENT, round=1, message="compiles"))
    assert [said for _, _, said in board.steps.values()] == ["compiles", ""]
    board.update(events.StepEnded(at=3, id="001/implement/1/1", step=StepKind.IMPLEMENT, round=1, seconds=2))
    assert list(board.steps) == ["002/implement/1/1"]


def test_workers_give_results_in_the_order_in_which_they_end_and_raise_what_was_raised() -> None:
    held = threading.Event()
    workers = Workers[str](side_by_side=True)
    workers.begin("slow", lambda: str(held.wait(PATIENCE)))
    workers.begin("fast", lambda: "fast")
    assert workers.next(PATIENCE) == "fast" and "slow" in workers and "fast" not in workers
    assert workers.next(0.01) is None, "nothing ends in that time"
    held.set()
    assert workers.next(PATIENCE) == "True" and not workers

    def broken() -> str:
        raise KeyError("x")

    workers.begin("broken", broken)
    with pytest.raises(KeyError):
        workers.next(PATIENCE)
    assert not workers
