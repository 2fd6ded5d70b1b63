"""The run as it is decided about: its records folded, with the steps in flight as the ledger has them."""

from dataclasses import dataclass

from sartor_api.search.budget import Entry, Ledger
from sartor_api.search.control import last_round
from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import (
    FailureClass,
    RunSpec,
    StepKind,
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
        # Where a CPU is what is measured, a role's pod on the same node would disturb it.
        exclusive=place.hardware.platform == "cpu",
    )


@dataclass(frozen=True)
class Flight:
    """One step in flight: as it was begun, and where it stands."""

    begin: StepBegin
    step: Ended | Running


@dataclass(frozen=True)
class Look:
    """The run as it is decided about: the state of the search and the steps in flight, in the order in which they began."""

    run: RunState
    flights: tuple[Flight, ...]

    @property
    def ended(self) -> Flight | None:
        """The first step that is over and has no record yet."""
        return next((one for one in self.flights if isinstance(one.step, Ended)), None)

    @property
    def running(self) -> tuple[tuple[StepBegin, Running], ...]:
        return tuple((one.begin, one.step) for one in self.flights if isinstance(one.step, Running))


def look(observed: RunObserved, spec: RunSpec, now: float) -> Look:
    """Fold the records, with the steps in flight as the ledger has them. Raises `ValueError` for a history with a gap."""
    known = {stored.record.id for stored in observed.records}
    flights = tuple(_flight(observed, spec, begin, now) for begin in observed.steps if begin.id not in known)
    records = tuple(stored.record for stored in observed.records)
    for flight in flights:
        if _is_lost(observed, spec, flight.begin):
            records = tuple(r for r in records if r.sequence < flight.begin.sequence)
    latest = max((record.finished for record in records), default=0.0)
    started = [f.step.started for f in flights if isinstance(f.step, Running) and f.step.started is not None]
    run = fold(
        spec,
        records,
        ledger=_ledger(observed, flights, now),
        # The wall clock is the time in which steps ran: not while a human or a queue held the run.
        session_started=min(now, *started) if started else max(latest, now),
        finished=observed.ending.finished if observed.ending else None,
        pending=[f.begin.sequence for f in flights],
    )
    ends = observed.run.spec.control.stop_after_round or _cannot_pay(observed, spec, run, flights)
    return Look(last_round(run) if ends else run, flights)


def _flight(observed: RunObserved, spec: RunSpec, begin: StepBegin, now: float) -> Flight:
    step = progress(observed, begin, now)
    if isinstance(step, Running) and _is_lost(observed, spec, begin):
        # Others were begun after it, so it had ended; only its record is gone.
        lost = failed(
            begin.step.value, "RecordLost", "the record of this step was deleted", FailureClass.INFRASTRUCTURE
        )
        step = Ended(lost, begin.begun, begin.begun)
    return Flight(begin, step)


def _is_lost(observed: RunObserved, spec: RunSpec, begin: StepBegin) -> bool:
    """Whether a step was begun that is begun only after the end of this one."""

    def follows(later: StepBegin) -> bool:
        if spec.policy.parallelism == 1 or 0 in (later.round, begin.round) or later.round == begin.round:
            return True
        both_plan = later.step is begin.step is StepKind.PLAN
        return both_plan or (later.step in MEASURING and begin.step in MEASURING)

    return any(later.sequence > begin.sequence and follows(later) for later in observed.steps)


def _cannot_pay(observed: RunObserved, spec: RunSpec, run: RunState, flights: tuple[Flight, ...]) -> bool:
    """Whether another round cannot pay; what was found is confirmed then. Asked when a round may be opened."""
    between = spec.policy.parallelism > 1 or not (flights or run.open_rounds)
    return (
        between and run.best is not None and required(observed.intent, observed.place.hardware, spec, run) is not None
    )


def _ledger(observed: RunObserved, flights: tuple[Flight, ...], now: float) -> Ledger:
    begun = {one.id: one for one in observed.steps}
    entries: list[Entry] = []
    for stored in observed.records:
        record = stored.record
        reserved = begun[record.id].reserve if record.id in begun else record.cost
        entries.append(
            Entry(id=record.id, begun=record.started, deadline=record.finished, reserved=reserved, settled=record.cost)
        )
    settings, hardware = observed.place.settings, observed.place.hardware
    for flight in flights:
        begin, step = flight.begin, flight.step
        patience = begin.deadline_seconds + settings.grace_seconds
        if begin.step in JUDGED and not observed.of_step(observed.jobs, begin.id):
            patience += hardware.start_timeout.seconds + settings.build_seconds + settings.candidate_ready_seconds
        started = step.started if isinstance(step, Running) else begin.begun
        since = now if started is None else started
        entries.append(Entry(id=begin.id, begun=since, deadline=since + patience, reserved=begin.reserve))
    return Ledger(entries=tuple(entries))
