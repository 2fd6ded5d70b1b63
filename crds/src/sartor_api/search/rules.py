"""What the predicates of the state machine ask: phases, reasons, stop rules and the actions that they lead to."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from sartor_api.search.budget import shortage
from sartor_api.search.directive import Directive
from sartor_api.search.estimate import ROUND_STEPS, confirmation_reserve, remaining_steps, step_reserve, step_seconds
from sartor_api.search.policies import next_directive
from sartor_api.search.records import Cost, FailureClass, Outcome, StepKind, Verdict, step_id
from sartor_api.search.state import Attempt, Candidate, RunState
from sartor_api.search.stretch import Signal, exhausted


class Phase(StrEnum):
    """Where a run stands. Derived, never stored."""

    TUNING = "Tuning"
    PLANNING = "Planning"
    IMPLEMENTING = "Implementing"
    JUDGING = "Judging"
    EVALUATING = "Evaluating"
    CONFIRMING = "Confirming"
    FINISHED = "Finished"


class Reason(StrEnum):
    """Why an action is taken. Every constant is documented by the row of `TRANSITIONS` (or the stop rule) that gives it."""

    # waiting, in any phase
    STEP_OVERDUE = "StepOverdue"
    STEP_IN_FLIGHT = "StepInFlight"
    BACKING_OFF = "BackingOff"
    # work
    BASELINE_NOT_MEASURED = "BaselineNotMeasured"
    ROUND_DUE = "RoundDue"
    PLAN_READY = "PlanReady"
    REPAIR_DUE = "RepairDue"
    CANDIDATE_COMMITTED = "CandidateCommitted"
    GATES_PASSED = "GatesPassed"
    CONFIRMATION_DUE = "ConfirmationDue"
    RUNNER_UP_DUE = "RunnerUpDue"
    # the end without a search
    BASELINE_UNAVAILABLE = "BaselineUnavailable"
    # the end of the search
    TARGET_MET = "TargetMet"
    PLATEAU = "Plateau"
    THRASHING = "Thrashing"
    NOTHING_LEFT = "NothingLeft"
    ROUNDS_SPENT = "RoundsSpent"
    WALL_CLOCK_SPENT = "WallClockSpent"
    ACCELERATOR_TIME_SPENT = "AcceleratorTimeSpent"
    TOKENS_SPENT = "TokensSpent"
    MONEY_SPENT = "MoneySpent"
    INFRASTRUCTURE_UNAVAILABLE = "InfrastructureUnavailable"
    PROVIDER_UNAVAILABLE = "ProviderUnavailable"
    MEASUREMENT_IMPOSSIBLE = "MeasurementImpossible"
    # the end of a confirmation
    CONFIRMATION_REFUTED = "ConfirmationRefuted"
    CONFIRMATION_UNAVAILABLE = "ConfirmationUnavailable"


MEANINGS: dict[Reason, str] = {
    Reason.STEP_OVERDUE: "The step in flight is past its deadline; it is stopped and counts as an infrastructure failure.",
    Reason.STEP_IN_FLIGHT: "A step was begun and has not ended.",
    Reason.BACKING_OFF: "The last try failed for no fault of the candidate; the next one waits.",
    Reason.BASELINE_NOT_MEASURED: "The baseline is tuned and measured before anything else.",
    Reason.ROUND_DUE: "No stop rule holds, and a whole round with its confirmation fits into every budget.",
    Reason.PLAN_READY: "The round has a plan to implement.",
    Reason.REPAIR_DUE: "The attempt failed by the candidate's own fault, and another is allowed.",
    Reason.CANDIDATE_COMMITTED: "The candidate is committed and not yet judged.",
    Reason.GATES_PASSED: "Every gate passed; the candidate may be measured.",
    Reason.CONFIRMATION_DUE: "The search is over; its best candidate is measured again on a seed that no round saw.",
    Reason.RUNNER_UP_DUE: "The best candidate did not hold; the incumbent before it is measured again.",
    Reason.BASELINE_UNAVAILABLE: "The baseline could not be measured in any try.",
    Reason.TARGET_MET: "The lower end of the incumbent's interval reached the target.",
    Reason.PLATEAU: "The last rounds each show that they gain less than the minimum effect, and no way out is left.",
    Reason.THRASHING: "The last rounds brought nothing new to measure, and no way out is left.",
    Reason.NOTHING_LEFT: "The planner has no hypothesis left.",
    Reason.ROUNDS_SPENT: "All rounds of the budget are used.",
    Reason.WALL_CLOCK_SPENT: "What is left of the wall clock is not enough for the next steps and the confirmation.",
    Reason.ACCELERATOR_TIME_SPENT: "What is left of the accelerator time is not enough for the next steps.",
    Reason.TOKENS_SPENT: "What is left of the tokens is not enough for the next steps.",
    Reason.MONEY_SPENT: "What is left of the money is not enough for the next steps.",
    Reason.INFRASTRUCTURE_UNAVAILABLE: "A step failed for the machine's fault as often as the retry policy allows.",
    Reason.PROVIDER_UNAVAILABLE: "A step failed for the agent provider's fault as often as the retry policy allows.",
    Reason.MEASUREMENT_IMPOSSIBLE: "No valid measurement could be had in as many tries as the retry policy allows.",
    Reason.CONFIRMATION_REFUTED: "Measured again, no candidate reached the minimum speed-up.",
    Reason.CONFIRMATION_UNAVAILABLE: "The confirmation could not be measured in any try.",
}
"""When each reason holds, for the reference page."""

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


class View:
    """The state with what the predicates ask for, computed once."""

    def __init__(self, run: RunState, now: float) -> None:
        self.run = run
        self.now = now
        self.policy = run.spec.policy

    # --- phase ------------------------------------------------------------------------------------------------------

    @cached_property
    def attempt(self) -> Attempt:
        """The try that the open round is in; a failed one is followed by the next."""
        current = self.run.open_round
        if current is None or not current.attempts:
            return Attempt(number=1)
        last = current.attempts[-1]
        return last if last.failure is None else Attempt(number=last.number + 1)

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
        current = self.run.open_round
        if current is None or current.plan is None:
            return Phase.PLANNING
        if self.attempt.implementation is None:
            return Phase.IMPLEMENTING
        return Phase.JUDGING if self.attempt.judgement is None else Phase.EVALUATING

    @cached_property
    def due(self) -> tuple[StepKind, int, int]:
        """Step, round and attempt that this phase is about."""
        match self.phase:
            case Phase.TUNING:
                return StepKind.BASELINE, 0, 1
            case Phase.CONFIRMING | Phase.FINISHED:
                return StepKind.CONFIRM, 0, len(self.run.confirmations) + 1
            case _:
                return self._round_step

    @cached_property
    def _round_step(self) -> tuple[StepKind, int, int]:
        current = self.run.open_round
        if current is None:
            return StepKind.PLAN, len(self.run.rounds) + 1, 1
        if current.plan is None:
            return StepKind.PLAN, current.number, 1
        if self.attempt.implementation is None:
            return StepKind.IMPLEMENT, current.number, self.attempt.number
        step = StepKind.JUDGE if self.attempt.judgement is None else StepKind.EVALUATE
        return step, current.number, self.attempt.number

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
        failed = [
            r
            for r in self.run.records
            if (r.step, r.round, r.attempt) == self.due
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
        if (exhausted := self._exhausted(self._round_step)) is not None:
            return EXHAUSTED[exhausted]
        if self.run.open_round is None and (reason := self._between_rounds()) is not None:
            return reason
        steps = remaining_steps(self.run)
        if sum(step_seconds(self.run, step) for step in steps) + self.terminal_reserve > self.left:
            return Reason.WALL_CLOCK_SPENT
        wanted = confirmation_reserve(self.run)
        for step in steps:
            wanted = wanted + step_reserve(self.run, step)
        short = shortage(self.run.spec.budget, self._spent_and_closed, wanted)
        return SPENT[short] if short else None

    @cached_property
    def unaffordable(self) -> str | None:
        """The budget that the step which is due would overdraw by itself, or None."""
        return shortage(self.run.spec.budget, self._spent_and_closed, step_reserve(self.run, self.due[0]))

    @property
    def _spent_and_closed(self) -> Cost:
        """What was spent, the step in flight left out: it is part of what is still wanted."""
        total = Cost()
        for entry in self.run.ledger.entries:
            if not entry.open:
                total = total + entry.charged
        return total

    def _between_rounds(self) -> Reason | None:
        rounds, best = self.run.rounds, self.run.best
        last = rounds[-1].plan if rounds else None
        if last is not None and last.action == "stop" and last.parent is None:
            return Reason.NOTHING_LEFT
        target = self.policy.target_speedup
        if target is not None and best is not None and best.speedup.low >= target:
            return Reason.TARGET_MET
        if (signal := exhausted(self.run)) is not None:
            return FLAT[signal]
        return Reason.ROUNDS_SPENT if len(rounds) >= self.run.spec.budget.rounds else None

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
        current = self.run.open_round
        feedback = current.attempts[-1].feedback if current is not None and current.attempts else ()
        return Begin(
            step=step,
            round=round_number,
            attempt=attempt,
            id=step_id(step, round_number, attempt, self.run.execution(step, round_number, attempt)),
            reason=reason,
            deadline_seconds=min(limit, left),
            reserve=step_reserve(self.run, step),
            candidate=self.run.contender if step is StepKind.CONFIRM else None,
            feedback=feedback if step is StepKind.IMPLEMENT else (),
            directive=next_directive(self.run, round_number) if step is StepKind.PLAN else None,
        )

    def finish(self, outcome: Outcome, message: str, reason: Reason | None = None) -> Finish:
        best: Candidate | None = None
        if outcome is Outcome.CONFIRMED:
            position = len(self.run.confirmations)
            best = self.run.kept[-position]
        return Finish(outcome, reason or self.stop_reason, message, best)
