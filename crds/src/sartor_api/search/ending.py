"""The record of a run's end, made from what `decide` said: the same on one machine and in a cluster."""

from sartor_api.search.records import Finished, Measurement
from sartor_api.search.rules import Finish
from sartor_api.search.state import RunState


def end_record(run: RunState, finish: Finish, *, at: float) -> Finished:
    """The end as it is recorded. `at` is Unix time in seconds.

    The speed-up is that of the last confirmation, and only where it is what made a winner: a speed-up that did not hold,
    or that only a round saw, is no claim.
    """
    best = finish.best
    measured = run.confirmations[-1].result if best is not None and run.confirmations else None
    return Finished(
        outcome=finish.outcome,
        reason=finish.reason.value,
        message=finish.message,
        best_round=best.round if best else None,
        commit=best.commit if best else None,
        content_hash=best.content_hash if best else None,
        speedup=measured.speedup if isinstance(measured, Measurement) else None,
        at=at,
    )
