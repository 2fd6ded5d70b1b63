"""What is told of a run while it goes on: events from its state and its records. Pure; the driver says when."""

from collections.abc import Iterator

from sartor_agents.run import events
from sartor_api.search.decide import Begin
from sartor_api.search.estimate import eta_seconds, step_seconds
from sartor_api.search.records import Finished, Judgement, Measurement, Plan, Speedup, StepKind, StepRecord
from sartor_api.search.spending import standing
from sartor_api.search.state import Round, RunState


def started(run: RunState, now: float, *, folder: str, resumed: bool) -> events.Started:
    """A session begins."""
    return events.Started(
        at=now,
        name=run.spec.name,
        scenario=run.spec.scenario,
        run=folder,
        resumed=resumed,
        rounds=run.spec.budget.rounds,
        eta_seconds=eta_seconds(run, now),
        left_seconds=_left(run, now),
        step_seconds={kind: step_seconds(run, kind) for kind in StepKind},
        past=tuple(_past(closed) for closed in run.closed_rounds),
        best=run.best.speedup if run.best else None,
    )


def step_started(run: RunState, begin: Begin, now: float) -> events.StepStarted:
    """A step was reserved and begins."""
    return events.StepStarted(
        at=now,
        id=begin.id,
        step=begin.step,
        round=begin.round,
        attempt=begin.attempt,
        reason=begin.reason.value,
        expected_seconds=step_seconds(run, begin.step),
        eta_seconds=eta_seconds(run, now),
        left_seconds=_left(run, now),
        budgets=_budgets(run),
    )


def recorded(record: StepRecord) -> Iterator[events.Event]:
    """A step has ended: what it found, then that it has."""
    failure, at = record.failure, record.finished
    match record.result:
        case Plan() as plan:
            yield events.Planned(
                at=at,
                round=record.round,
                action=plan.action,
                hypothesis=plan.hypothesis,
                forecast_speedup=plan.forecast_speedup,
            )
        case Judgement() as judgement:
            for v in judgement.verdicts:
                yield events.Judged(
                    at=at, round=record.round, gate=v.gate, passed=v.passed, reason=v.reason, message=v.message
                )
        case Measurement(speedup=Speedup() as speedup):
            yield events.Measured(
                at=at, round=record.round, speedup=speedup, confirmation=record.step is StepKind.CONFIRM
            )
        case _:
            pass
    yield events.StepEnded(
        at=at,
        id=record.id,
        step=record.step,
        round=record.round,
        seconds=record.finished - record.started,
        failure_class=failure.failure_class if failure else None,
        reason=failure.reason if failure else "",
        message=failure.message if failure else "",
    )


def round_closed(run: RunState, closed: Round, now: float) -> events.RoundClosed:
    """A round has its result."""
    return events.RoundClosed(
        at=now,
        round=closed.number,
        kept=closed.kept,
        speedup=closed.speedup,
        best_round=run.best.round if run.best else None,
        best_speedup=run.best.speedup if run.best else None,
        eta_seconds=eta_seconds(run, now),
        left_seconds=_left(run, now),
        budgets=_budgets(run),
    )


def finished(
    run: RunState, end: Finished, now: float, *, stack: str | None, evidence: str | None, report: str
) -> events.RunFinished:
    """The run has ended."""
    speedup = end.speedup
    return events.RunFinished(
        at=now,
        outcome=end.outcome,
        reason=end.reason,
        message=end.message,
        speedup=events.FinishedSpeedup(value=speedup.value, low=speedup.low, high=speedup.high, n=speedup.n)
        if speedup
        else None,
        stack=stack,
        evidence=evidence,
        report=report,
        seconds=run.elapsed(now),
    )


def _left(run: RunState, now: float) -> float:
    return run.spec.budget.wall_clock_seconds - run.elapsed(now)


def _budgets(run: RunState) -> tuple[events.Budgeted, ...]:
    return tuple(
        events.Budgeted(name=one.name, spent=one.spent, reserved=one.reserved, limit=one.limit, unit=one.unit)
        for one in standing(run)
    )


def _past(closed: Round) -> events.PastRound:
    return events.PastRound(
        round=closed.number,
        hypothesis=closed.plan.hypothesis if closed.plan else "",
        kept=closed.kept,
        speedup=closed.speedup,
        failure=closed.failure.reason if closed.failure else "",
    )
