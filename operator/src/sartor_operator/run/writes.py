"""The writes that make up a run's memory: a step begun, its record, the end; and the run's baseline server."""

from sartor_api.search.decide import Begin, Finish
from sartor_api.search.ending import end_record
from sartor_api.search.records import (
    BaselineRecord,
    Implementation,
    Measurement,
    StepKind,
)
from sartor_api.search.state import RunState
from sartor_operator import names
from sartor_operator.actions import Action, Create, CreateSecret, Decision, Tell
from sartor_operator.kinds import JOB, POD, SECRET
from sartor_operator.pods.jobs import RECORDS_KEY, ROLE, SEALED, STEP_KEY, StepObjects
from sartor_operator.pods.servers import run_baseline
from sartor_operator.run.candidates import branch
from sartor_operator.run.look import Look
from sartor_operator.run.observe import ENDING_KEY, RECORD_KEY, SEAL_KEY, RunObserved, config_map
from sartor_operator.run.step import JUDGED, Ended, booked, record_of, seed_digest, seed_of, unbooked
from sartor_operator.wire import Ending, RecordReference, StepBegin, StoredRecord

SERVES = (JOB, POD, SECRET)
"""What a step is carried out with; that some of it is not there can be its failure."""
LARGEST_HISTORY = 600_000
"""Bytes of records that a planner gets in its ConfigMap; older ones it reads from the repository."""


def run_labels(observed: RunObserved) -> dict[str, str]:
    return {
        names.SYNTHESIS_LABEL: names.label(observed.manifest, names.SYNTHESIS_LABEL),
        names.RUN_LABEL: observed.name,
    }


def seal_secret(observed: RunObserved) -> CreateSecret:
    """The key that the run's sealed seeds are derived from. Made once; nobody but the operator reads it.

    Made anew if somebody deleted it: later seeds differ, and each is committed to before its use.
    """
    meta = names.metadata(
        names.child_name(observed.prefix, observed.uid, names.SEAL),
        observed.manifest,
        {names.PART_LABEL: names.SEAL, **run_labels(observed)},
    )
    return CreateSecret({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "immutable": True}, SEAL_KEY)


def begin_step(observed: RunObserved, run: RunState, begin: Begin, now: float) -> Action:
    """The step in the books. Everything else of it follows from this object."""
    current = run.round(begin.round)
    under_test = None
    if begin.step in JUDGED:
        made = current.implementation if current is not None else None
        under_test = begin.candidate or made
    plan = current.plan if current is not None and begin.step is StepKind.IMPLEMENT else None
    made_from = current.plan.parent if current is not None and current.plan and begin.step is StepKind.JUDGE else None
    repaired = current.implementation if current is not None and begin.step is StepKind.IMPLEMENT else None
    seed = seed_of(observed.seal, begin.id) if begin.step in SEALED and observed.seal is not None else None
    step = StepBegin(
        id=begin.id,
        sequence=1 + max((known.sequence for known in (*run.records, *observed.steps)), default=0),
        step=begin.step,
        round=begin.round,
        attempt=begin.attempt,
        reason=begin.reason.value,
        begun=now,
        deadline_seconds=max(1.0, begin.deadline_seconds),
        reserve=begin.reserve,
        commit=under_test.commit if under_test else None,
        content_hash=under_test.content_hash if under_test else None,
        seed_digest=seed_digest(seed) if seed is not None else None,
        source=repaired.commit if repaired else (plan.parent if plan else made_from),
        plan=plan,
        baseline=run.baseline,
        feedback=begin.feedback,
        branch=branch(begin.round) if begin.step in (StepKind.PLAN, StepKind.IMPLEMENT) else None,
        directive=begin.directive,
        message=observed.word if begin.step is StepKind.PLAN else "",
        records=tuple(
            RecordReference(id=r.record.id, commit=r.commit, digest=r.digest) for r in observed.records[-500:]
        ),
        pending=pending_of(observed),
    )
    data: dict[str, object] = {STEP_KEY: step.model_dump_json(exclude_none=True)}
    if begin.step is StepKind.PLAN:
        data[RECORDS_KEY] = _history(observed.records)
    labels = run_labels(observed) | {
        names.STEP_LABEL: names.step_label(begin.id),
        names.ROLE_LABEL: ROLE[begin.step],
    }
    objects = StepObjects.of(observed.prefix, observed.uid, begin.id)
    texts = {key: str(text) for key, text in data.items()}
    return Create(config_map(observed.manifest, objects.step, names.STEP, texts, labels))


def pending_of(observed: RunObserved) -> tuple[int, ...]:
    """The numbers of the steps that have no record yet."""
    known = {stored.record.id for stored in observed.records}
    return tuple(step.sequence for step in observed.steps if step.id not in known)


def _history(records: tuple[StoredRecord, ...]) -> str:
    """The newest records that fit, oldest first, as a JSON list."""
    kept: list[str] = []
    size = 2
    for stored in reversed(records):
        text = stored.record.model_dump_json(exclude_none=True)
        size += len(text.encode()) + 1
        if size > LARGEST_HISTORY:
            break
        kept.append(text)
    return f"[{','.join(reversed(kept))}]"


def record_step(observed: RunObserved, seen: Look, begin: StepBegin, ended: Ended) -> Decision:
    stored = record_of(begin, booked(observed, begin, ended), seen.run.spec)
    objects = StepObjects.of(observed.prefix, observed.uid, begin.id)
    labels = run_labels(observed) | {names.STEP_LABEL: names.step_label(begin.id)}
    made = Create(config_map(observed.manifest, objects.record, names.RECORD, {RECORD_KEY: stored}, labels))
    # Told first: killed between the two, it is told again under the same name, and never forgotten.
    asked = begin.id in observed.spent or not unbooked(observed, begin, ended)
    return Decision(
        (_told(observed, stored), made),
        rests_on=SERVES if stored.record.failure is not None else (),
        unbooked=() if asked else (begin.id,),
    )


def _told(observed: RunObserved, stored: StoredRecord) -> Tell:
    """What happened, in a sentence."""
    record = stored.record
    where = f"Round {record.round}: " if record.round else ""
    failure = record.failure
    if failure is not None:
        text = f"{where}{record.step.value} failed ({failure.failure_class}): {failure.reason}: {failure.message}"
        return Tell(observed.manifest, "StepFailed", text, record.id, warning=True)
    match record.result:
        case BaselineRecord() as baseline:
            text = f"Baseline {baseline.engine} {baseline.version} measured; chosen: {baseline.chosen or 'default'}"
            return Tell(observed.manifest, "BaselineMeasured", text, record.id)
        case Measurement(speedup=speedup) if speedup is not None:
            what = "confirmation" if record.step is StepKind.CONFIRM else "measured"
            text = f"{where}{what} {speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}], n={speedup.n}"
            return Tell(observed.manifest, "Measured", text, record.id)
        case Implementation() as done:
            return Tell(observed.manifest, "Implemented", f"{where}{done.summary or done.commit[:12]}", record.id)
        case _:
            hypothesis = getattr(record.result, "hypothesis", "")
            reason = {StepKind.PLAN: "Planned", StepKind.JUDGE: "Judged"}.get(record.step, "StepDone")
            return Tell(observed.manifest, reason, f"{where}{hypothesis or 'every gate passed'}", record.id)


def ending_map(observed: RunObserved, ending: Ending) -> Create:
    name = names.child_name(observed.prefix, observed.uid, names.ENDING)
    return Create(config_map(observed.manifest, name, names.ENDING, {ENDING_KEY: ending}, run_labels(observed)))


def finished_map(observed: RunObserved, run: RunState, finish: Finish, now: float) -> Action:
    finished = end_record(run, finish, at=now)
    return ending_map(observed, Ending(how="finished", message=finish.message, at=now, finished=finished))


def baseline_server(observed: RunObserved, run: RunState) -> tuple[Action, ...]:
    """The run's baseline server, from the moment that there is something to compare until the run ends."""
    if run.baseline is None or any(names.label(d, names.ROLE_LABEL) == "baseline" for d in observed.deployments):
        return ()
    name = names.child_name(observed.prefix, observed.uid, "baseline")
    made = run_baseline(
        observed.place,
        observed.manifest,
        name,
        run.baseline,
        served_name=str(run.spec.model["name"]),
        length=run.spec.envelope.max_model_len,
    )
    return (Create(made),)
