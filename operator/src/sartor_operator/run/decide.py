"""What a run needs next: a pure, total function of what is observed and the time.

The search itself is decided by `sartor_api.search.decide`, the very function that leads `sartor run`. Here its actions
become writes, in an order that survives being killed after any of them:

1. the step is begun: an immutable ConfigMap with its reservation and its request;
2. it is carried out: seed, servers and Job under names that follow from the step, so that doing it again does nothing;
3. its record is written: one more immutable ConfigMap. What served only the step is removed after that. A failure is
   recorded only after a look that is not behind: what a watch has not shown yet is no pod that was lost.

A name is used once. Whatever the cache shows late, a step that was begun is begun, and one that has a record is over.
"""

from dataclasses import replace

from sartor_api.search.decide import Begin, Cancel, Finish, Wait, decide
from sartor_api.search.records import (
    FailureClass,
    StepKind,
)
from sartor_api.search.snapshot import NotRunnableError
from sartor_operator import names
from sartor_operator.actions import Action, Create, Decision, Delete, StatusOf, Tell
from sartor_operator.kinds import CONFIG_MAP, JOB, POD, RUN, SECRET
from sartor_operator.payback import required
from sartor_operator.pods.jobs import SEALED, SPEC_KEY
from sartor_operator.run.candidates import candidates
from sartor_operator.run.cleanup import delete_of, leftovers, without_baseline
from sartor_operator.run.look import Look, look, run_spec
from sartor_operator.run.observe import RunObserved, config_map
from sartor_operator.run.status import Standing, run_status
from sartor_operator.run.step import Ended
from sartor_operator.run.writes import (
    baseline_server,
    begin_step,
    ending_map,
    finished_map,
    record_step,
    run_labels,
    seal_secret,
)
from sartor_operator.wire import Ending, failed


def decide_run(observed: RunObserved, now: float) -> Decision:
    """What to write, which statuses to show, and when to look again."""
    if names.deleting(observed.manifest) or not observed.synthesis_alive:
        return Decision()  # the garbage collector takes everything that the run owns
    if observed.damaged:
        standing = Standing.stuck(f"{'; '.join(observed.damaged)}; delete this run to start it again")
        return Decision(statuses=(_status(observed, None, standing, now),))
    if observed.spec is None:
        return _remember(observed, now)
    try:
        seen = look(observed, observed.spec, now)
    except ValueError as error:
        standing = Standing.stuck(f"the run's records do not fit together: {error}; delete this run to start it again")
        return Decision(statuses=(_status(observed, None, standing, now),))
    if observed.ending is not None:
        return _after(observed, seen, observed.ending, now)
    made, shown = candidates(observed, seen.run, now)
    decision = _next(observed, seen, now)
    return replace(
        decision,
        actions=(*made, *leftovers(observed, [flight.begin for flight in seen.flights]), *decision.actions),
        statuses=(*shown, *decision.statuses),
    )


def _remember(observed: RunObserved, now: float) -> Decision:
    """Write down what the search decides by, once: a later version of the operator goes on with the same numbers."""
    try:
        spec = run_spec(observed)
    except NotRunnableError as error:
        ending = Ending(how="refused", message=str(error), at=now)
        if observed.ending is not None:
            standing = Standing.ended(None, observed.ending)
            return Decision(statuses=(_status(observed, None, standing, now),))
        return Decision(actions=(ending_map(observed, ending),))
    memory = config_map(observed.manifest, observed.spec_name, names.SPEC, {SPEC_KEY: spec}, run_labels(observed))
    return Decision(actions=(seal_secret(observed), Create(memory)))


def _next(observed: RunObserved, seen: Look, now: float) -> Decision:
    control = observed.run.spec.control
    if observed.superseded or control.cancel:
        how, why = ("superseded", "the intent changed; a newer run took its place") if observed.superseded else (
            "cancelled", "spec.control.cancel is true")  # fmt: skip
        ending = Ending(how=how, message=why, at=now)
        return Decision(actions=(ending_map(observed, ending),))
    baseline = baseline_server(observed, seen.run)
    if (over := seen.ended) is not None:
        assert isinstance(over.step, Ended), "it was chosen for its end"
        return record_step(observed, seen, over.begin, over.step)
    held = "spec.suspend is true" if observed.suspended else "spec.control.pause is true" if control.pause else ""
    if seen.flights:
        return _in_flight(observed, seen, baseline, now, held=bool(held))
    if held:
        standing = Standing.on_hold(held)
        return Decision(actions=without_baseline(observed), statuses=(_status(observed, seen, standing, now),))
    match decide(seen.run, now):
        case Begin() as begin:
            if (hopeless := _unprofitable(observed, seen, begin)) is not None:
                return Decision(actions=(ending_map(observed, Ending(how="unprofitable", message=hopeless, at=now)),))
            return Decision(actions=_begin(observed, seen, begin, baseline, now))
        case Wait() as wait:
            standing = Standing.waiting(seen.run, wait)
            return Decision(actions=baseline, statuses=(_status(observed, seen, standing, now),), wake_at=wait.until)
        case Finish() as finish:
            return Decision(actions=(finished_map(observed, seen.run, finish, now),))
        case Cancel():
            raise AssertionError("nothing is in flight that could be cancelled")


def _begin(
    observed: RunObserved, seen: Look, begin: Begin, baseline: tuple[Action, ...], now: float
) -> tuple[Action, ...]:
    sealed = () if observed.seal is not None else (seal_secret(observed),)
    if sealed and begin.step in SEALED:
        return sealed  # the seed is committed to in the step, so its key comes first
    return (*sealed, *baseline, begin_step(observed, seen.run, begin, now))


def _unprofitable(observed: RunObserved, seen: Look, begin: Begin) -> str | None:
    """Why nothing more is spent, asked before the baseline and before each round, as long as nothing was found.

    Once there is a candidate to keep, the search ends with its confirmation instead (see `look`).
    """
    new = begin.step is StepKind.BASELINE or (begin.step is StepKind.PLAN and seen.run.round(begin.round) is None)
    if not new or seen.run.best is not None:
        return None
    said = required(observed.intent, observed.place.hardware, seen.run.spec, seen.run)
    return None if said is None else f"spec.payback.policy is require, and {said}"


def _in_flight(observed: RunObserved, seen: Look, baseline: tuple[Action, ...], now: float, *, held: bool) -> Decision:
    """What the steps in flight need, and whether one more begins beside them: not while the run is held."""
    under_way = tuple(action for _, step in seen.running for action in step.actions)
    wakes = [step.wake_at for _, step in seen.running if step.started is not None and step.wake_at is not None]
    match decide(seen.run, now):
        case Cancel(id=late):
            begin, step = next(one for one in seen.running if one[0].id == late)
            overdue = failed(
                begin.step.value,
                "StepOverdue",
                f"the step did not end within its deadline: {step.message}",
                FailureClass.INFRASTRUCTURE,
            )
            started = begin.begun if step.started is None else step.started
            return record_step(observed, seen, begin, Ended(overdue, started, max(now, started)))
        case Begin() as begin if not held and _unprofitable(observed, seen, begin) is None:
            # Numbers are given in order: a step that was begun and is not seen yet would have the same one.
            begins = _begin(observed, seen, begin, baseline, now)
            return Decision(actions=(*under_way, *begins), rests_on=(CONFIG_MAP,))
        case Finish():
            raise AssertionError("steps are in flight, and the search says that it is over")
        case Wait(until=until):
            wakes.append(until)
        case Begin():
            wakes += [entry.deadline for entry in seen.run.ledger.in_flight]
    standing = Standing.at_work(seen.running)
    waits = all(step.started is None for _, step in seen.running)
    return Decision(
        actions=(*baseline, *under_way),
        statuses=(_status(observed, seen, standing, now),),
        wake_at=None if waits else min(wakes),
    )


def _after(observed: RunObserved, seen: Look, ending: Ending, now: float) -> Decision:
    """The end is durable: nothing begins any more. Servers and unfinished Jobs go; records, candidates and logs stay."""
    made, shown = candidates(observed, seen.run, now)
    actions: list[Action] = [*made, *without_baseline(observed), *leftovers(observed, ())]
    handled = {(a.kind, a.name) for a in actions if isinstance(a, Delete)}
    for kind, manifests in ((POD, observed.pods), (SECRET, observed.secrets)):
        for one in manifests:
            mine = names.owner_uid(one) == observed.uid and not names.deleting(one)
            if mine and names.label(one, names.STEP_LABEL) and (kind, names.name_of(one)) not in handled:
                actions.append(delete_of(kind, one))
    recorded = {names.step_label(stored.record.id) for stored in observed.records}
    actions += [
        delete_of(JOB, job)
        for job in observed.jobs
        if names.label(job, names.STEP_LABEL) not in recorded and not names.deleting(job)
    ]
    actions.append(_ended(observed, ending))
    standing = Standing.ended(seen.run, ending)
    fresh = (observed.manifest.get("status") or {}).get("finishedAt") is None
    if not fresh:
        actions = [a for a in actions if not isinstance(a, Tell)]
    return Decision(tuple(actions), (*shown, _status(observed, seen, standing, now)))


def _ended(observed: RunObserved, ending: Ending) -> Tell:
    finished = ending.finished
    if finished is None:
        return Tell(observed.manifest, "RunEnded", f"{ending.how}: {ending.message}", "ending")
    warning = finished.outcome.value == "failed"
    return Tell(observed.manifest, "RunFinished", f"{finished.outcome.value}: {finished.message}", "ending", warning)


def _status(observed: RunObserved, seen: Look | None, standing: Standing, now: float) -> StatusOf:
    run = seen.run if seen is not None else None
    running = seen.running if seen is not None and observed.ending is None else ()
    return StatusOf(RUN, observed.manifest, run_status(observed, run, running, standing, now))
