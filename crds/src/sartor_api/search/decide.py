"""What a run does next: a pure, total function of its state and the time.

`TRANSITIONS` is the whole state machine: for the phase (which `phase` derives from the records, it is stored nowhere) the
first row whose predicate holds says what to do and why. The last row of each phase holds always, so there is an answer for
every state. `python -m sartor_api.search.states` renders the table as the reference page.

Who calls it carries the action out, records the result, and asks again. Asking twice gives the same answer; a step that was
begun and not recorded is begun again under a new execution number. No I/O, no paths, no clock: the command line's driver and
the operator use exactly this.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sartor_api.search.reasons import Phase, Reason
from sartor_api.search.records import Measurement, Outcome
from sartor_api.search.rules import EXHAUSTED, SPENT, Action, Begin, Cancel, Finish, View, Wait
from sartor_api.search.state import RunState

__all__ = [
    "TRANSITIONS",
    "Action",
    "Begin",
    "Cancel",
    "Finish",
    "Phase",
    "Reason",
    "Transition",
    "Wait",
    "decide",
    "phase",
]


@dataclass(frozen=True)
class Transition:
    """One row: in `phase`, if `when` holds (and no row above did), do what `then` says and go to `next`."""

    phase: Phase
    name: str
    when: Callable[[View], bool]
    then: Callable[[View], Action]
    next: str
    reasons: tuple[Reason, ...]


def _always(_: View) -> bool:
    return True


def _begin(reason: Reason) -> Callable[[View], Action]:
    return lambda view: view.begin(reason)


def _work(phase: Phase, rows: tuple[Transition, ...]) -> tuple[Transition, ...]:
    """The rows that every phase with a step begins with: what is in flight, what is backing off."""

    def overdue(view: View) -> bool:
        return any(view.now >= entry.deadline for entry in view.run.ledger.in_flight)

    def cancel(view: View) -> Action:
        late = next(entry for entry in view.run.ledger.in_flight if view.now >= entry.deadline)
        return Cancel(late.id, Reason.STEP_OVERDUE)

    def wait(view: View) -> Action:
        until = min(entry.deadline for entry in view.run.ledger.in_flight)
        # Beside what is in flight a step may wait for its next try.
        return Wait(min(until, view.retry_at) if view.retry_at > view.now else until, Reason.STEP_IN_FLIGHT)

    return (
        Transition(phase, "a step in flight is past its deadline", overdue, cancel, "-", (Reason.STEP_OVERDUE,)),
        Transition(
            phase,
            "a step is in flight, and nothing may begin beside it",
            lambda v: v.blocked,
            wait,
            "-",
            (Reason.STEP_IN_FLIGHT,),
        ),
        *(row for row in rows if row.next == Phase.FINISHED and row.when is not _always),
        Transition(
            phase,
            "the step failed for no fault of the candidate, and its back-off is not over",
            lambda v: v.now < v.retry_at,
            lambda v: Wait(v.retry_at, Reason.BACKING_OFF),
            "-",
            (Reason.BACKING_OFF,),
        ),
        *(row for row in rows if not (row.next == Phase.FINISHED and row.when is not _always)),
    )


def _no_speedup(view: View) -> Action:
    # Without a kept candidate, a fault that ended the search is a failed run; any other end is a normal one.
    if view.stop_reason in EXHAUSTED.values():
        return view.finish(Outcome.FAILED, "the search could not go on, and there is no candidate to keep")
    return view.finish(Outcome.NO_SPEEDUP, "no candidate beat the baseline by the minimum effect")


def _refuted(view: View) -> Action:
    last = view.run.confirmations[-1]
    speedup = last.result.speedup if isinstance(last.result, Measurement) else None
    seen = (
        f"measured again, it is {speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"
        if speedup
        else f"it failed when measured again ({last.failure.reason if last.failure else 'no speed-up'})"
    )
    return view.finish(Outcome.NOT_CONFIRMED, f"the best candidate did not hold: {seen}", Reason.CONFIRMATION_REFUTED)


TRANSITIONS: tuple[Transition, ...] = (
    *_work(
        Phase.TUNING,
        (
            Transition(
                Phase.TUNING,
                "the baseline failed as often as the retry policy allows",
                lambda v: v.exhausted is not None,
                lambda v: v.finish(Outcome.FAILED, "the baseline could not be measured", Reason.BASELINE_UNAVAILABLE),
                Phase.FINISHED,
                (Reason.BASELINE_UNAVAILABLE,),
            ),
            Transition(
                Phase.TUNING,
                "the wall clock is spent before there is a baseline",
                lambda v: v.left <= 0,
                lambda v: v.finish(
                    Outcome.FAILED,
                    "the wall clock was spent before the baseline was measured",
                    Reason.WALL_CLOCK_SPENT,
                ),
                Phase.FINISHED,
                (Reason.WALL_CLOCK_SPENT,),
            ),
            Transition(
                Phase.TUNING,
                "the baseline does not fit into a budget",
                lambda v: v.unaffordable is not None,
                lambda v: v.finish(
                    Outcome.FAILED, "a budget is too small to measure the baseline", SPENT[v.unaffordable or ""]
                ),
                Phase.FINISHED,
                tuple(SPENT.values()),
            ),
            Transition(
                Phase.TUNING,
                "there is no baseline",
                _always,
                _begin(Reason.BASELINE_NOT_MEASURED),
                Phase.PLANNING,
                (Reason.BASELINE_NOT_MEASURED,),
            ),
        ),
    ),
    *_work(
        Phase.PLANNING,
        (
            Transition(
                Phase.PLANNING,
                "no stop rule holds and a whole round and its confirmation fit into every budget",
                _always,
                _begin(Reason.ROUND_DUE),
                Phase.IMPLEMENTING,
                (Reason.ROUND_DUE,),
            ),
        ),
    ),
    *_work(
        Phase.IMPLEMENTING,
        (
            Transition(
                Phase.IMPLEMENTING,
                "the last attempt failed by its own fault and a repair is allowed",
                lambda v: v.attempt.number > 1,
                _begin(Reason.REPAIR_DUE),
                Phase.JUDGING,
                (Reason.REPAIR_DUE,),
            ),
            Transition(
                Phase.IMPLEMENTING,
                "the round has a plan",
                _always,
                _begin(Reason.PLAN_READY),
                Phase.JUDGING,
                (Reason.PLAN_READY,),
            ),
        ),
    ),
    *_work(
        Phase.JUDGING,
        (
            Transition(
                Phase.JUDGING,
                "the candidate is committed",
                _always,
                _begin(Reason.CANDIDATE_COMMITTED),
                Phase.EVALUATING,
                (Reason.CANDIDATE_COMMITTED,),
            ),
        ),
    ),
    *_work(
        Phase.EVALUATING,
        (
            Transition(
                Phase.EVALUATING,
                "the candidate passed every gate",
                _always,
                _begin(Reason.GATES_PASSED),
                Phase.PLANNING,
                (Reason.GATES_PASSED,),
            ),
        ),
    ),
    *_work(
        Phase.CONFIRMING,
        (
            Transition(
                Phase.CONFIRMING,
                "the last confirmation holds",
                lambda v: v.confirmed,
                lambda v: v.finish(Outcome.CONFIRMED, "the speed-up was confirmed on a seed that no round saw"),
                Phase.FINISHED,
                (
                    Reason.TARGET_MET,
                    Reason.PLATEAU,
                    Reason.THRASHING,
                    Reason.NOTHING_LEFT,
                    Reason.ROUNDS_SPENT,
                    Reason.WALL_CLOCK_SPENT,
                    *SPENT.values(),
                    *EXHAUSTED.values(),
                ),
            ),
            Transition(
                Phase.CONFIRMING,
                "no candidate was ever kept",
                lambda v: v.run.best is None,
                _no_speedup,
                Phase.FINISHED,
                (
                    Reason.PLATEAU,
                    Reason.THRASHING,
                    Reason.NOTHING_LEFT,
                    Reason.ROUNDS_SPENT,
                    Reason.WALL_CLOCK_SPENT,
                    *SPENT.values(),
                    *EXHAUSTED.values(),
                ),
            ),
            Transition(
                Phase.CONFIRMING,
                "the confirmation failed as often as the retry policy allows, by no fault of the candidate",
                lambda v: v.exhausted is not None,
                lambda v: v.finish(
                    Outcome.FAILED,
                    "the best candidate could not be measured again",
                    Reason.CONFIRMATION_UNAVAILABLE,
                ),
                Phase.FINISHED,
                (Reason.CONFIRMATION_UNAVAILABLE,),
            ),
            Transition(
                Phase.CONFIRMING,
                "the confirmation failed by no fault of the candidate, and no budget is left for another try",
                lambda v: v.retry_at > 0 and v.unaffordable is not None,
                lambda v: v.finish(
                    Outcome.FAILED,
                    "the best candidate could not be measured again within the budget",
                    Reason.CONFIRMATION_UNAVAILABLE,
                ),
                Phase.FINISHED,
                (Reason.CONFIRMATION_UNAVAILABLE,),
            ),
            Transition(
                Phase.CONFIRMING,
                "the last confirmation does not hold, and no runner-up is left or fits",
                lambda v: bool(v.run.confirmations) and not v.contender_fits,
                _refuted,
                Phase.FINISHED,
                (Reason.CONFIRMATION_REFUTED,),
            ),
            Transition(
                Phase.CONFIRMING,
                "the last confirmation does not hold, and there is a runner-up",
                lambda v: bool(v.run.confirmations),
                _begin(Reason.RUNNER_UP_DUE),
                Phase.CONFIRMING,
                (Reason.RUNNER_UP_DUE,),
            ),
            Transition(
                Phase.CONFIRMING,
                "the search ended with a best candidate",
                _always,
                _begin(Reason.CONFIRMATION_DUE),
                Phase.FINISHED,
                (Reason.CONFIRMATION_DUE,),
            ),
        ),
    ),
)


def phase(run: RunState, now: float) -> Phase:
    """Where the run stands."""
    return View(run, now).phase


def decide(run: RunState, now: float) -> Action:
    """What to do next. `now` is Unix time in seconds.

    A finished run is told to finish again with what was recorded, so a writer that lost an answer can repeat itself.
    """
    view = View(run, now)
    if (finished := run.finished) is not None:
        best = next((c for c in run.kept if c.round == finished.best_round), None)
        return Finish(finished.outcome, Reason(finished.reason), finished.message, best)
    row = next(t for t in TRANSITIONS if t.phase is view.phase and t.when(view))
    return row.then(view)
