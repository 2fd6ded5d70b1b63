"""Carries a run out: asks `decide`, does what it says, records the result, asks again.

Everything that decides is in `sartor_api.search`; everything that touches processes is behind `Steps`. What is left here is
the order of writes that makes a run survive being killed at any point:

1. the step is reserved in the books (committed), 2. it is carried out, 3. its record and the settled books are committed
together. Killed before 1, nothing happened; between 1 and 3, the step is lost, its reservation is charged and it is done
again under a new execution number; after 3, it is done.

With `parallelism` steps are carried out side by side, in threads; records and books are written by this one alone.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from sartor_agents.memory.files import memory_files
from sartor_agents.run import events, notes, telling
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.workers import Workers
from sartor_api.search.budget import Ledger
from sartor_api.search.control import Control, last_round
from sartor_api.search.decide import Begin, Cancel, Finish, Wait, decide
from sartor_api.search.ending import end_record
from sartor_api.search.estimate import held_cost
from sartor_api.search.records import Cost, FailureClass, Finished, StepKind, StepRecord, StepResult, Verdict
from sartor_api.search.state import RunState, fold

Emit = Callable[[events.Event], None]

PAUSE_SECONDS = 2.0
"""Between two looks at whether a human still wants the run to pause."""


class Clock(Protocol):
    """Time is passed in, so that tests do not wait."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    def wait(self, seconds: float) -> None: ...


class SystemClock:
    """Wall time that never runs backwards: the monotonic clock from the wall time at the start."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)


@dataclass(frozen=True)
class StepOutcome:
    """What a step gave: its result and what it cost of tokens and money (accelerator time is booked by duration)."""

    result: StepResult
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class _Ended:
    """A step that was carried out, in Unix seconds."""

    begin: Begin
    outcome: StepOutcome
    started: float
    finished: float


@dataclass(frozen=True)
class Worth:
    """Whether the search pays, in a sentence; `forbids` when it cannot and its owner wants no search that cannot."""

    message: str
    forbids: bool = False


class Steps(Protocol):
    """Carries out single steps. Idempotent: a step may be begun again after it was killed half-way."""

    def prepare(self, begin: Begin, run: RunState) -> Mapping[str, str]:
        """Files to commit before the step begins: commitments to its sealed seed."""
        ...

    def execute(self, begin: Begin, run: RunState, progress: Callable[[str], None]) -> StepOutcome:
        """Do the step within `begin.deadline_seconds`. Every failure of step or candidate is a `Verdict` in the result;
        exceptions are for what ends the session (a full disk, Ctrl-C, a defect). With `parallelism` it is called from
        several threads at once, for steps of different rounds."""
        ...

    def deliver(self, commit: str) -> str:
        """Put the winner where users find it; returns the path of its folder."""
        ...

    def close(self) -> None:
        """End every server and process."""
        ...


class Driver:
    """One session of one run. The caller holds the run's lock."""

    def __init__(
        self,
        repository: RunRepository,
        steps: Steps,
        *,
        clock: Clock,
        emit: Emit,
        report: Callable[[RunState], str],
        prove: Callable[[RunState], str | None] = lambda _: None,
        control: Callable[[], Control] = Control,
        worth: Callable[[RunState], Worth | None] = lambda _: None,
    ) -> None:
        """`report` renders the report and returns its path; it is called after every closed round and at the end.
        `prove` writes the winner's evidence and returns its path. `control` says what a human asks for now; it is asked
        before each step. `worth` says whether the search pays; it is asked before the first step and after each round."""
        self._repository = repository
        self._steps = steps
        self._clock = clock
        self._told = emit
        self._telling = threading.Lock()
        self._report = report
        self._prove = prove
        self._control = control
        self._worth = worth
        self._hopeless = False
        stored = repository.load()
        self._session_started = clock.now()
        self._resumed = bool(stored.ledger.entries)
        self.run: RunState = stored.state(self._session_started)
        self._workers = Workers[_Ended](side_by_side=self.run.spec.policy.parallelism > 1)

    def _emit(self, event: events.Event) -> None:
        # Progress comes from the threads that read the roles' output.
        with self._telling:
            self._told(event)

    def drive(self) -> Finished:
        """Until the run has finished. Raises what ends a session; what was recorded is whole whatever is raised."""
        now = self._clock.now()
        folder = str(self._repository.path.parent)
        self._emit(telling.started(self.run, now, folder=folder, resumed=self._resumed))
        if self.run.ledger.in_flight:
            # Whoever began them is gone (we hold the lock), and what they spent is unknown.
            self._save_ledger(self.run.ledger.abandon_open(), "A step was lost when the run was interrupted")
        self._tell_worth()
        try:
            while True:
                control = self._control()
                if control.pause and self.run.finished is None:
                    if self._workers:
                        self._settle()
                    else:
                        self._hold()
                    continue
                now = self._clock.now()
                match decide(self._led(control), now):
                    case Begin() as begin:
                        word = control.message if begin.step is StepKind.PLAN else ""
                        self._begin(replace(begin, message=word))
                    case Wait() as wait if self._workers:
                        self._settle(max(0.0, wait.until - now))
                    case Cancel() as cancel if cancel.id in self._workers:
                        # It keeps its own deadline, and is about to end.
                        self._settle()
                    case Wait() as wait:
                        seconds = max(0.0, wait.until - now)
                        self._emit(events.Waiting(at=now, seconds=seconds, reason=wait.reason.value))
                        self._clock.wait(seconds)
                    case Cancel() as cancel:
                        self._save_ledger(self.run.ledger.abandon_open(cancel.id), f"Cancelled {cancel.id}")
                    case Finish() as finish:
                        return self._finish(finish)
        finally:
            self._steps.close()

    def _hold(self) -> None:
        """Wait for the human. What passes meanwhile is not charged: the session begins anew when it goes on."""
        self._emit(events.Waiting(at=self._clock.now(), seconds=0.0, reason="Paused"))
        while self._control().pause:
            self._clock.wait(PAUSE_SECONDS)
        self._session_started = self._clock.now()
        self.run = self._refold(self.run.ledger)

    def _led(self, control: Control) -> RunState:
        """The run as it is decided about: with no further round where a human wants none, or none can pay."""
        if not (control.stop_after_round or self._hopeless):
            return self.run
        return last_round(self.run)

    def _tell_worth(self) -> None:
        found = self._worth(self.run)
        if found is None:
            return
        self._hopeless = found.forbids
        self._emit(events.Payback(at=self._clock.now(), message=found.message, ends=found.forbids))

    def _refold(
        self, ledger: Ledger, *, record: StepRecord | None = None, finished: Finished | None = None
    ) -> RunState:
        records = (*self.run.records, record) if record is not None else self.run.records
        return fold(
            self.run.spec,
            records,
            ledger=ledger,
            session_started=self._session_started,
            finished=finished or self.run.finished,
        )

    def _save_ledger(self, ledger: Ledger, message: str, files: Mapping[str, str] | None = None) -> None:
        self._repository.save_ledger(ledger, message, self._clock.now(), files or {})
        self.run = self._refold(ledger)

    def _begin(self, begin: Begin) -> None:
        started = self._clock.now()
        ledger = self.run.ledger.reserve(
            begin.id, begin.reserve, now=started, deadline=started + begin.deadline_seconds
        )
        files = dict(self._steps.prepare(begin, self.run))
        if begin.message:
            files[f"steering/{begin.id.replace('/', '-')}.txt"] = begin.message + "\n"
        self._save_ledger(ledger, f"Begin {begin.id}", files)
        self._emit(telling.step_started(self.run, begin, started))

        def progress(message: str) -> None:
            self._emit(
                events.Progress(at=self._clock.now(), id=begin.id, step=begin.step, round=begin.round, message=message)
            )

        def work(run: RunState = self.run) -> _Ended:
            outcome = self._steps.execute(begin, run, progress)
            return _Ended(begin, outcome, started, max(started, self._clock.now()))

        self._workers.begin(begin.id, work)

    def _settle(self, seconds: float | None = None) -> None:
        """Record the step that ends next, if one does within `seconds`."""
        ended = self._workers.next(seconds)
        if ended is not None:
            self._record(ended)

    def _record(self, ended: _Ended) -> None:
        begin, outcome, started, finished = ended.begin, ended.outcome, ended.started, ended.finished
        cost = outcome.cost + held_cost(self.run.spec, begin.step, finished - started)
        record = StepRecord(
            id=begin.id,
            sequence=len(self.run.records) + 1,
            step=begin.step,
            round=begin.round,
            attempt=begin.attempt,
            started=started,
            finished=finished,
            cost=cost,
            result=outcome.result,
        )
        ledger = self.run.ledger.settle(begin.id, cost)
        before = {r.number for r in self.run.closed_rounds}
        after = self._refold(ledger, record=record)
        self._repository.save_record(record, ledger, memory_files(after), notes.subject(record))
        self.run = after
        for told in telling.recorded(record):
            self._emit(told)
        for closed in after.closed_rounds:
            if closed.number not in before:
                self._report(after)
                self._emit(telling.round_closed(after, closed, self._clock.now()))
                self._tell_worth()

    def _finish(self, finish: Finish) -> Finished:
        now = self._clock.now()
        # A winner is delivered before the end is recorded, so a run that says it finished has its stack and its evidence.
        stack = self._steps.deliver(finish.best.commit) if finish.best is not None else None
        evidence = self._prove(self.run) if finish.best is not None else None
        finished = self.run.finished
        if finished is None:
            finished = end_record(self.run, finish, at=now)
            self._repository.save_finished(finished)
            self.run = self._refold(self.run.ledger, finished=finished)
        report = self._report(self.run)
        self._emit(telling.finished(self.run, finished, now, stack=stack, evidence=evidence, report=report))
        return finished


def failed(gate: str, reason: str, message: str, failure_class: FailureClass) -> StepOutcome:
    """The outcome of a step that could not be done."""
    return StepOutcome(Verdict(gate=gate, passed=False, reason=reason, message=message, failure_class=failure_class))
