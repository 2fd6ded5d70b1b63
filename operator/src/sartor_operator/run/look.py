"""The run as it is decided about: its records folded, with the step in flight as the ledger has it."""

from dataclasses import dataclass

from sartor_api.search.budget import Entry, Ledger
from sartor_api.search.control import last_round
from sartor_api.search.records import (
    FailureClass,
    RunSpec,
)
from sartor_api.search.snapshot import snapshot
from sartor_api.search.state import RunState, fold
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_operator.payback import required
from sartor_operator.run.observe import RunObserved
from sartor_operator.run.step import (
    JUDGED,
    Ended,
    Running,
)
from sartor_operator.run.steps import progress
from sartor_operator.wire import StepBegin, failed


def run_spec(observed: RunObserved) -> RunSpec:
    """What the search decides by, from the run's snapshot. Raises `NotRunnableError`.

    The same function as `sartor run` uses; the moment of creation stands for the time, so that it is the same each time.
    """
    run, place = observed.run, observed.place
    created = run.metadata.creation_timestamp
    synthesis = ServingSynthesis.model_validate(
        {"metadata": {"name": observed.prefix}, "spec": run.spec.snapshot.synthesis.to_dict()}
    )
    accelerator, price = place.hardware.accelerator, place.hardware.price_per_hour
    return snapshot(
        synthesis,
        now=created.timestamp() if created else 0.0,
        model_folder="/model",
        platform=place.hardware.platform,
        accelerators=0 if accelerator is None else accelerator.count,
        profile=place.agents,
        price_per_hour=None if price is None else float(price.amount.number),
    )


@dataclass(frozen=True)
class Look:
    """The run as it is decided about: the state of the search and the step in flight."""

    run: RunState
    begin: StepBegin | None
    step: Ended | Running | None


def look(observed: RunObserved, spec: RunSpec, now: float) -> Look:
    """Fold the records, with the step in flight as the ledger has it. Raises `ValueError` for a history with a gap."""
    known = {stored.record.id for stored in observed.records}
    open_steps = [begin for begin in observed.steps if begin.id not in known]
    begin = open_steps[0] if open_steps else None
    step = progress(observed, begin, now) if begin is not None else None
    if begin is not None and begin is not observed.steps[-1] and isinstance(step, Running):
        # Others were begun after it, so it had ended; only its record is gone.
        lost = failed(
            begin.step.value, "RecordLost", "the record of this step was deleted", FailureClass.INFRASTRUCTURE
        )
        step = Ended(lost, begin.begun, begin.begun)
    records = tuple(stored.record for stored in observed.records)
    if begin is not None:
        records = tuple(r for r in records if r.sequence < begin.sequence)
    latest = max((record.finished for record in records), default=0.0)
    running = step.started if isinstance(step, Running) else None

    def folded(by: RunSpec) -> RunState:
        return fold(
            by,
            records,
            ledger=_ledger(observed, begin, step, now),
            # The wall clock is the time in which steps ran: not while a human or a queue held the run.
            session_started=max(latest, now if running is None else min(now, running)),
            finished=observed.ending.finished if observed.ending else None,
        )

    run = folded(spec if not observed.run.spec.control.stop_after_round else last_round(spec, records))
    between = begin is None and run.open_round is None and run.best is not None
    if between and required(observed.intent, observed.place.hardware, spec, run) is not None:
        run = folded(last_round(spec, records))  # another round cannot pay; what was found is confirmed
    return Look(run, begin, step)


def _ledger(observed: RunObserved, begin: StepBegin | None, step: Ended | Running | None, now: float) -> Ledger:
    begun = {one.id: one for one in observed.steps}
    entries: list[Entry] = []
    for stored in observed.records:
        record = stored.record
        reserved = begun[record.id].reserve if record.id in begun else record.cost
        entries.append(
            Entry(id=record.id, begun=record.started, deadline=record.finished, reserved=reserved, settled=record.cost)
        )
    if begin is not None:
        settings, hardware = observed.place.settings, observed.place.hardware
        patience = begin.deadline_seconds + settings.grace_seconds
        if begin.step in JUDGED and not observed.of_step(observed.jobs, begin.id):
            patience += hardware.start_timeout.seconds + settings.build_seconds + settings.candidate_ready_seconds
        started = step.started if isinstance(step, Running) else begin.begun
        since = now if started is None else started
        entries.append(Entry(id=begin.id, begun=since, deadline=since + patience, reserved=begin.reserve))
    return Ledger(entries=tuple(entries))
