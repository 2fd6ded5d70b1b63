"""The status of a run: phase, conditions, numbers. Everything is derived from the records; nothing is remembered.

Numbers change with records and with steps that begin, never with time alone, so that an idle run is not written to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sartor_api.conditions import ConditionType, Reason
from sartor_api.fields import Money
from sartor_api.quantities import DecimalString, Duration
from sartor_api.search.estimate import eta_seconds
from sartor_api.search.reasons import MEANINGS
from sartor_api.search.reasons import Reason as SearchReason
from sartor_api.search.records import Cost, Measurement, Outcome, StepKind
from sartor_api.search.rules import Wait
from sartor_api.search.state import RunState
from sartor_api.synthesis_run import RunPhase, StepInFlight, SynthesisRunStatus
from sartor_operator.conditions import SEARCH_REASONS, Wanted, conditions, done, held, stalled, working
from sartor_operator.payback import payback
from sartor_operator.pods.jobs import StepObjects, repository_url
from sartor_operator.reasons import OperatorReason
from sartor_operator.run.candidates import candidate_name
from sartor_operator.run.observe import RunObserved
from sartor_operator.run.steps import Running
from sartor_operator.shown import decimal, shown_baseline, shown_best, shown_cost, work_seconds
from sartor_operator.times import at
from sartor_operator.wire import Ending, StepBegin

_STEP_KIND = {StepKind.BASELINE: "tuneBaseline"}

_PHASES = {
    Outcome.CONFIRMED: RunPhase.SUCCEEDED,
    Outcome.NO_SPEEDUP: RunPhase.NO_GAIN,
    Outcome.NOT_CONFIRMED: RunPhase.NO_GAIN,
    Outcome.FAILED: RunPhase.FAILED,
}


@dataclass(frozen=True)
class Standing:
    """Where the run stands, as far as records alone do not say it."""

    message: str
    conditions: tuple[Wanted, ...]
    phase: RunPhase | None = None

    @classmethod
    def at_work(cls, running: Sequence[tuple[StepBegin, Running]]) -> "Standing":
        """The reason is that of the oldest step."""
        message = "; ".join(
            f"{f'round {begin.round}: ' if begin.round else ''}{begin.step.value}: {step.message}"
            for begin, step in running
        )
        return cls(message, tuple(working(running[0][1].reason, message)))

    @classmethod
    def waiting(cls, run: RunState, wait: Wait) -> "Standing":
        failure = run.records[-1].failure if run.records else None
        why = f"{failure.reason}: {failure.message}" if failure else MEANINGS[wait.reason]
        message = f"tried again soon; the last try failed: {why}"
        return cls(message, tuple(working(Reason.RETRYING, message)))

    @classmethod
    def on_hold(cls, why: str) -> "Standing":
        message = f"held, because {why}; it goes on where it stopped"
        return cls(message, tuple(held(Reason.SUSPENDED, message)), RunPhase.PAUSED)

    @classmethod
    def stuck(cls, message: str) -> "Standing":
        return cls(message, tuple(stalled(Reason.INFRASTRUCTURE_FAILURE, message)), RunPhase.FAILED)

    @classmethod
    def ended(cls, run: RunState | None, ending: Ending) -> "Standing":
        finished = ending.finished
        if finished is None:
            if ending.how == "refused":
                return cls(
                    ending.message, tuple(stalled(OperatorReason.NOT_SUPPORTED, ending.message)), RunPhase.FAILED
                )
            if ending.how == "unprofitable":
                return cls(ending.message, tuple(done(Reason.CANNOT_PAY_BACK, ending.message)), RunPhase.NO_GAIN)
            reason = Reason.SUPERSEDED if ending.how == "superseded" else Reason.CANCELLED
            return cls(ending.message, tuple(done(reason, ending.message)), RunPhase.CANCELLED)
        phase = _PHASES[finished.outcome]
        reason = SEARCH_REASONS[SearchReason(finished.reason)]
        message = finished.message
        if phase is RunPhase.SUCCEEDED:
            return cls(message, tuple(done(Reason.SUCCEEDED, message)), phase)
        last = run.records[-1].failure if run is not None and run.records else None
        if phase is RunPhase.FAILED:
            detail = f"{message}: {last.reason}: {last.message}" if last else message
            return cls(detail, tuple(stalled(reason, detail)), phase)
        return cls(message, tuple(done(reason, message)), phase)


def phase_of(run: RunState | None, begun: Sequence[StepBegin]) -> RunPhase:
    """The phase of a run that has not ended."""
    if run is None or (run.baseline is None and not begun):
        return RunPhase.PENDING
    if run.baseline is None:
        return RunPhase.BASELINE
    confirming = any(begin.step is StepKind.CONFIRM for begin in begun) or bool(run.confirmations)
    return RunPhase.CONFIRMING if confirming else RunPhase.ROUND


def run_status(
    observed: RunObserved,
    run: RunState | None,
    running: Sequence[tuple[StepBegin, Running]],
    standing: Standing,
    now: float,
) -> SynthesisRunStatus:
    """The whole status. `running` are the steps in flight, the oldest first."""
    before = observed.manifest.get("status") or {}
    generation = int(observed.manifest["metadata"].get("generation", 1))
    ending = observed.ending
    price = observed.place.hardware.price_per_hour
    currency = price.currency if price else None
    records = run.records if run else ()
    spent = Cost()
    for record in records:
        spent = spent + record.cost
    best = run.best if run else None
    winner = ending.finished if ending is not None else None
    confirmed = winner.speedup if winner is not None else None
    if run is not None and winner is not None and winner.best_round is not None:
        best = next((c for c in run.kept if c.round == winner.best_round), best)
    rounds = run.rounds_used if run else 0
    flying = [_step(observed, begin, step) for begin, step in running]
    reserved = sum((begin.reserve for begin, _ in running), Cost())
    meta = observed.manifest["metadata"]
    eta = None
    if run is not None and ending is None and standing.phase is None:
        # Taken at the last change, not now: an estimate that ticks would be a write that tells nothing.
        eta = Duration.of(round(eta_seconds(run, run.session_started), -1))
    return SynthesisRunStatus(
        observed_generation=generation,
        phase=standing.phase or phase_of(run, [begin for begin, _ in running]),
        message=standing.message[:4096],
        conditions=conditions(
            before.get("conditions", ()), [*standing.conditions, *_domain(run, ending)], generation=generation, now=now
        ),
        repository=repository_url(observed.place, meta["namespace"], meta["name"]),
        head=next((r.commit for r in reversed(observed.records) if r.commit), None),
        round=max((begin.round for begin, _ in running), default=0) or rounds,
        step=flying[0] if flying else None,
        beside=tuple(flying[1:]),
        baseline=shown_baseline(run.baseline, observed.place.image("baseline")) if run and run.baseline else None,
        best=shown_best(candidate_name(observed, best.round), best, confirmed) if best else None,
        spent=shown_cost(spent, rounds=rounds, seconds=work_seconds(run) if run else 0.0, currency=currency),
        reserved=shown_cost(
            reserved,
            rounds=0,
            seconds=max((begin.deadline_seconds for begin, _ in running), default=0),
            currency=currency,
        ),
        payback=payback(
            observed.intent,
            observed.place.hardware,
            run.spec if run is not None else None,
            run,
            cost=None if price is None else Money(amount=_amount(spent.money), currency=price.currency),
            speedup=(confirmed or (best.speedup if best else None)),
            ended=ending is not None,
        ),
        estimate=eta,
        started_at=at(observed.steps[0].begun) if observed.steps else None,
        finished_at=at(ending.at) if ending is not None else None,
    )


def _amount(money: float) -> DecimalString:
    return decimal(money, 2)


def _step(observed: RunObserved, begin: StepBegin, step: Running) -> StepInFlight:
    running = step.started
    return StepInFlight(
        id=begin.id,
        kind=_STEP_KIND.get(begin.step, begin.step.value),  # pyright: ignore[reportArgumentType] - checked by the model
        round=begin.round or None,
        attempt=begin.attempt,
        job=StepObjects.of(observed.prefix, observed.uid, begin.id).job,
        started_at=None if running is None else at(running),
        deadline=None if running is None else at(running + begin.deadline_seconds),
    )


def _domain(run: RunState | None, ending: Ending | None) -> list[Wanted]:
    if run is None:
        return []
    wanted: list[Wanted] = []
    if run.baseline is not None:
        text = f"{run.baseline.engine} {run.baseline.version}, {run.baseline.chosen or 'default'}"
        wanted.append(Wanted(ConditionType.BASELINE_READY, "True", Reason.SUCCEEDED, text))
    if run.confirmations:
        last = run.confirmations[-1]
        good = run.holds(last)
        speedup = last.result.speedup if isinstance(last.result, Measurement) else None
        text = f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}], n={speedup.n}" if speedup else "failed"
        reason = Reason.SUCCEEDED if good else Reason.NOT_CONFIRMED
        wanted.append(Wanted(ConditionType.CONFIRMED, "True" if good else "False", reason, text))
    finished = ending.finished if ending else None
    if finished is not None and SEARCH_REASONS[SearchReason(finished.reason)] is Reason.BUDGET_SPENT:
        text = f"{MEANINGS[SearchReason(finished.reason)]} The best was kept."
        wanted.append(Wanted(ConditionType.WITHIN_BUDGET, "False", Reason.BUDGET_SPENT, text))
    return wanted


__all__ = ["Standing", "phase_of", "run_status"]
