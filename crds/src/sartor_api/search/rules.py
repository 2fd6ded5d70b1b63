"""What the predicates of the state machine ask: phases, reasons, stop rules and the actions that they lead to."""

from dataclasses import dataclass
from functools import cached_property

from sartor_api.search.budget import shortage
from sartor_api.search.directive import Directive
from sartor_api.search.estimate import (
    ROUND_STEPS,
    confirmation_reserve,
    remaining_steps,
    rounds_seconds,
    step_reserve,
    step_seconds,
)
from sartor_api.search.lanes import Lane, attempt_of, may_begin, new_lane, open_lanes
from sartor_api.search.policies import next_directive
from sartor_api.search.reasons import Phase, Reason
from sartor_api.search.records import Cost, FailureClass, Outcome, StepKind, Verdict, step_id
from sartor_api.search.state import Attempt, Candidate, RunState
from sartor_api.search.stretch import Signal, exhausted

EXHAUSTED: dict[FailureClass, Reason] = {
    FailureClass.INFRASTRUCTURE: Reason.INFRASTRUCTURE_UNAVAILABLE,
    FailureClass.PROVIDER: Reason.PROVIDER_UNAVAILABLE,
    FailureClass.MEASUREMENT: Reason.MEASUREMENT_IMPOSSIBLE,
}

FLAT: dict[Signal, Reason] = {Signal.PLATEAU: Reason.PLATEAU, Signal.THRASHING: Reason.THRASHING}

SPENT: dict[str, Reason] = {
    "accelerator time": Reason.ACCELERATOR_TIME_SPENT,
    "tokens": Reason.TOKENS_SPENT,
    "money": Reason.MONEY_SPENT,
}

WORK: dict[StepKind, Phase] = {
    StepKind.PLAN: Phase.PLANNING,
    StepKind.IMPLEMENT: Phase.IMPLEMENTING,
    StepKind.JUDGE: Phase.JUDGING,
    StepKind.EVALUATE: Phase.EVALUATING,
}

OVERRUN = 2.0
"""A confirmation that is owed may take this many times its estimate, though the wall clock be spent."""


@dataclass(frozen=True)
class Begin:
    """Carry out one step: reserve `reserve` under `id`, do it within `deadline_seconds`, record the result."""

    step: StepKind
    round: int
    attempt: int
    id: str
    reason: Reason
    deadline_seconds: float
    reserve: Cost
    candidate: Candidate | None = None
    feedback: tuple[Verdict, ...] = ()
    directive: Directive | None = None
    """What the plan has to keep to, for a planner."""
    message: str = ""
    """A word of a human to the planner; set by who carries the step out, it is part of no decision."""


@dataclass(frozen=True)
class Cancel:
    """The step in flight is past its deadline: stop it and record an infrastructure failure for it."""

    id: str
    reason: Reason


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until` (Unix time) unless a step ends."""

    until: float
    reason: Reason


@dataclass(frozen=True)
class Finish:
    """End the run. `reason` is why the search ended; `best` the stack to deliver, if its speed-up was confirmed."""

    outcome: Outcome
    reason: Reason
    message: str
    best: Candidate | None = None


Action = Begin | Cancel | Wait | Finish


def _due(lane: Lane) -> tuple[StepKind, int, int]:
    return lane.step, lane.round, lane.attempt


class View:
    """The state with what the predicates ask for, computed once."""

    def __init__(self, run: RunState, now: float) -> None:
        self.run = run
        self.now = now
        self.policy = run.spec.policy

    # --- phase ------------------------------------------------------------------------------------------------------

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """The rounds that were begun and are not closed."""
        return open_lanes(self.run)

    @cached_property
    def lane(self) -> Lane:
        """What the search is about now: of the lanes that may begin their step the one to begin, else the oldest.

        What can go on beside others comes first, then what is measured; among these the oldest, those behind that back off.
        """
        affordable = self.lanes[: self._affordable]
        opened = self._opened
        every = (*affordable, opened) if opened is not None else affordable
        ready = [lane for lane in every if may_begin(self.run, lane)]
        if not ready:
            return next(iter((*self.lanes, *every)), Lane(StepKind.PLAN, len(self.run.rounds) + 1, 1))
        return min(ready, key=lambda one: (self._retry_at(_due(one)) > self.now, one.measures, one.round))

    @property
    def _opened(self) -> Lane | None:
        """The round that may be opened now, if it fits into every budget beside those that are open."""
        found = new_lane(self.run, self.lanes)
        if found is None or self._between_rounds() is not None or self._affordable < len(self.lanes):
            return None
        return found if self._short((*self.lanes, found)) is None else None

    @property
    def attempt(self) -> Attempt:
        """The try that the round is in; a failed one is followed by the next."""
        return attempt_of(self.lane.current)

    @cached_property
    def blocked(self) -> bool:
        """Whether something is in flight, and nothing may begin beside it."""
        if not self.run.ledger.in_flight:
            return False
        if self.phase in (Phase.TUNING, Phase.CONFIRMING):
            return True
        return not may_begin(self.run, self.lane) or self.retry_at > self.now

    @cached_property
    def confirming(self) -> bool:
        """Whether the search is over; a confirmation that was begun keeps it so."""
        begun = any(f"/{StepKind.CONFIRM}/" in entry.id for entry in self.run.ledger.entries)
        return begun or self.stop is not None

    @cached_property
    def phase(self) -> Phase:
        if self.run.finished is not None:
            return Phase.FINISHED
        if self.run.baseline is None:
            return Phase.TUNING
        if self.confirming:
            return Phase.CONFIRMING
        return WORK[self.lane.step]

    @cached_property
    def due(self) -> tuple[StepKind, int, int]:
        """Step, round and attempt that this phase is about."""
        match self.phase:
            case Phase.TUNING:
                return StepKind.BASELINE, 0, 1
            case Phase.CONFIRMING | Phase.FINISHED:
                return StepKind.CONFIRM, 0, len(self.run.confirmations) + 1
            case _:
                return _due(self.lane)

    # --- failures ---------------------------------------------------------------------------------------------------

    def _failures(self, due: tuple[StepKind, int, int]) -> list[Verdict]:
        return list(self.run.retried(*due))

    def _exhausted(self, due: tuple[StepKind, int, int]) -> FailureClass | None:
        """The class whose tries are used up for this step, if any."""
        failures = self._failures(due)
        for failure_class, retry in self.policy.retries.items():
            if sum(f.failure_class is failure_class for f in failures) >= retry.tries:
                return failure_class
        return None

    @cached_property
    def exhausted(self) -> FailureClass | None:
        return self._exhausted(self.due)

    @cached_property
    def retry_at(self) -> float:
        """When the step that is due may be tried again (0 when it did not fail)."""
        return self._retry_at(self.due)

    def _retry_at(self, due: tuple[StepKind, int, int]) -> float:
        failed = [
            r
            for r in self.run.records
            if (r.step, r.round, r.attempt) == due
            and r.failure is not None
            and r.failure.failure_class is not FailureClass.CANDIDATE
        ]
        if not failed or (last := failed[-1].failure) is None or last.failure_class is None:
            return 0.0
        same = sum(r.failure is not None and r.failure.failure_class is last.failure_class for r in failed)
        return failed[-1].finished + self.policy.retries[last.failure_class].delay(same)

    # --- stop rules -------------------------------------------------------------------------------------------------

    @property
    def left(self) -> float:
        """Seconds of wall clock left, down to negative values."""
        return self.run.spec.budget.wall_clock_seconds - self.run.elapsed(self.now)

    @property
    def terminal_reserve(self) -> float:
        """Seconds that are kept back so that what the search finds can be confirmed."""
        budget = self.run.spec.budget
        return max(self.confirmation_seconds, budget.confirmation_share * budget.wall_clock_seconds)

    @property
    def confirmation_seconds(self) -> float:
        """What one confirmation is expected to take."""
        return step_seconds(self.run, StepKind.CONFIRM)

    @cached_property
    def stop(self) -> Reason | None:
        """Why the search is over, or None. The order is the order of preference in which it is told."""
        for lane in self.lanes:
            if (exhausted := self._exhausted(_due(lane))) is not None:
                return EXHAUSTED[exhausted]
        if not self.lanes:
            return self._between_rounds() or self._short((Lane(StepKind.PLAN, len(self.run.rounds) + 1, 1),))
        return None if self._affordable else self._short(self.lanes[:1])

    @cached_property
    def _affordable(self) -> int:
        """How many of the open rounds, the oldest first, fit into every budget together with the confirmation."""
        return next((n for n in range(len(self.lanes), 0, -1) if self._short(self.lanes[:n]) is None), 0)

    def _short(self, lanes: tuple[Lane, ...]) -> Reason | None:
        """The budget into which these rounds do not fit to their end, with the confirmation behind them, or None."""
        if rounds_seconds(self.run, [lane.current for lane in lanes]) + self.terminal_reserve > self.left:
            return Reason.WALL_CLOCK_SPENT
        wanted = confirmation_reserve(self.run)
        for lane in lanes:
            for step in remaining_steps(lane.current):
                wanted = wanted + step_reserve(self.run, step)
        numbers = {lane.round for lane in lanes}
        elsewhere = [e.reserved for e in self.run.ledger.in_flight if int(e.id.split("/")[0]) not in numbers]
        short = shortage(self.run.spec.budget, sum(elsewhere, self._spent_and_closed), wanted)
        return SPENT[short] if short else None

    @cached_property
    def unaffordable(self) -> str | None:
        """The budget that the step which is due would overdraw by itself, or None."""
        return shortage(self.run.spec.budget, self._spent_and_closed, step_reserve(self.run, self.due[0]))

    @property
    def _spent_and_closed(self) -> Cost:
        """What was spent, steps in flight left out: they are part of what is still wanted."""
        total = Cost()
        for entry in self.run.ledger.entries:
            if not entry.open:
                total = total + entry.charged
        return total

    def _between_rounds(self) -> Reason | None:
        """Why no further round is opened, or None. What was open when a planner had nothing left may give it an idea."""
        best, closed = self.run.best, self.run.closed_in_order
        last = closed[-1].plan if closed else None
        if last is not None and last.action == "stop" and last.parent is None:
            return Reason.NOTHING_LEFT
        target = self.policy.target_speedup
        if target is not None and best is not None and best.speedup.low >= target:
            return Reason.TARGET_MET
        if (signal := exhausted(self.run)) is not None:
            return FLAT[signal]
        return Reason.ROUNDS_SPENT if self.run.rounds_used >= self.run.spec.budget.rounds else None

    # --- confirmation -----------------------------------------------------------------------------------------------

    @cached_property
    def confirmed(self) -> bool:
        return bool(self.run.confirmations) and self.run.holds(self.run.confirmations[-1])

    @property
    def contender_fits(self) -> bool:
        """The first confirmation is owed; a runner-up is tried only while there is time and budget for it."""
        if self.run.contender is None:
            return False
        return not self.run.confirmations or (self.left >= self.confirmation_seconds and self.unaffordable is None)

    @property
    def stop_reason(self) -> Reason:
        # A confirmation was begun, so the search had ended; only a rule of time can have looked different since.
        return self.stop or Reason.WALL_CLOCK_SPENT

    # --- actions ----------------------------------------------------------------------------------------------------

    def begin(self, reason: Reason) -> Begin:
        step, round_number, attempt = self.due
        limit = self.policy.steps[step].deadline_seconds
        if step is StepKind.CONFIRM:
            left = max(self.left, OVERRUN * self.confirmation_seconds)
        elif step is StepKind.BASELINE:
            # Tuning may go on as long as there is time; one round and its confirmation must still fit behind it.
            rest = sum(step_seconds(self.run, kind) for kind in ROUND_STEPS) + self.terminal_reserve
            left = max(self.left - rest, self.left / 2)
        else:
            left = self.left - self.terminal_reserve
        current = self.lane.current
        feedback = current.attempts[-1].feedback if current is not None and current.attempts else ()
        return Begin(
            step=step,
            round=round_number,
            attempt=attempt,
            id=step_id(step, round_number, attempt, self.run.execution(step, round_number, attempt)),
            reason=reason,
            deadline_seconds=min(limit, left),
            reserve=step_reserve(self.run, step),
            candidate=self._under_test(step),
            feedback=feedback if step is StepKind.IMPLEMENT else (),
            directive=next_directive(self.run, round_number) if step is StepKind.PLAN else None,
        )

    def _under_test(self, step: StepKind) -> Candidate | None:
        """What is measured, where it is not the candidate of the step's round."""
        if step is StepKind.CONFIRM:
            return self.run.contender
        return self.run.looked_at(self.lane.current) if step is StepKind.EVALUATE else None

    def finish(self, outcome: Outcome, message: str, reason: Reason | None = None) -> Finish:
        best: Candidate | None = None
        if outcome is Outcome.CONFIRMED:
            position = len(self.run.confirmations)
            best = self.run.kept[-position]
        return Finish(outcome, reason or self.stop_reason, message, best)
