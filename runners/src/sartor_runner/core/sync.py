"""What is to be done for one pod now: the decision of a kubelet's `syncPod`, as a pure and total function.

    sync(pod, observed, now) -> Decision(actions, status, wake)

It asks for each thing once it is due and not yet under way; asking twice for the same thing is harmless, as the actions name
the attempt they mean. Whoever calls it calls again on every event and at `wake`.
"""

from collections.abc import Callable, Iterator

from sartor_runner.core import backoff, probes
from sartor_runner.core.backoff import Backoff
from sartor_runner.core.observed import (
    Action,
    Decision,
    Delete,
    Discard,
    Forget,
    Observed,
    Refresh,
    Run,
    RunProbe,
    SetUp,
    Start,
    Stop,
    TearDown,
    Verdict,
)
from sartor_runner.core.pod import Container, Pod, start_time
from sartor_runner.core.probes import Kind, Probe, ProbeState
from sartor_runner.core.status import (
    TERMINAL,
    Ending,
    init_should_restart,
    initialised,
    is_started,
    pod_status,
    should_restart,
)

CREATE_RETRY_SECONDS = 10.0
KEPT_RUNS = 2
DEADLINE = Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
MINIMUM_GRACE = 1.0


def sync(pod: Pod, observed: Observed, now: float) -> Decision:
    """Never raises for a pod that `pod.parse` accepts."""
    ending = why_ending(pod, observed, now)
    if ending is None and derived_end(pod, observed):
        ending = Ending(pod.grace)
    actions: list[Action] = []
    wakes: list[float] = []
    if ending is not None:
        actions += _stop_all(pod, observed, ending, now)
        if not observed.any_running():
            actions += _finish(pod, observed)
    else:
        for action, wake in _advance(pod, observed, now):
            if action is not None:
                actions.append(action)
            if wake is not None:
                wakes.append(wake)
        if pod.active_deadline is not None:
            wakes.append(_start(observed, now) + pod.active_deadline)
    for action, wake in _probe_all(pod, observed, ending, now):
        if action is not None:
            actions.append(action)
        if wake is not None:
            wakes.append(wake)
    actions += _forget(observed)
    status = pod_status(pod, observed, ending, now)
    wakes += _shown_until(observed, now) if ending is None else []
    return Decision(tuple(actions), status, min(wakes, default=None))


def why_ending(pod: Pod, observed: Observed, now: float) -> Ending | None:
    """Why the pod must stop, other than that its containers are done: deletion, a verdict of the node, its deadline, or a
    terminal phase that it already has."""
    verdict = observed.verdict
    terminal = observed.status.get("phase") in TERMINAL
    if verdict is None and not terminal and pod.active_deadline is not None:
        verdict = DEADLINE if now >= _start(observed, now) + pod.active_deadline else None
    if observed.gone:
        return Ending(max(pod.grace if pod.deletion_grace is None else pod.deletion_grace, MINIMUM_GRACE), verdict)
    if pod.deleted:
        return Ending(pod.grace if pod.deletion_grace is None else pod.deletion_grace, verdict)
    if verdict is not None or terminal:
        return Ending(pod.grace, verdict)
    return None


def derived_end(pod: Pod, observed: Observed) -> bool:
    """All containers have ended for good by the restart policy."""
    if observed.starting:
        return False
    for container in pod.init_containers if not initialised(pod, observed) else ():
        run = observed.latest(container.name)
        if run is not None and run.ended and run.exit_code != 0:
            return pod.restart_policy == "Never"
        if run is None or not run.ended:
            return False
    runs = [observed.latest(container.name) for container in pod.containers]
    return all(run is not None and run.ended and not should_restart(pod, run) for run in runs)


def _start(observed: Observed, now: float) -> float:
    began = start_time({"status": observed.status})
    return now if began is None else began


def _stop_all(pod: Pod, observed: Observed, ending: Ending, now: float) -> Iterator[Action]:
    by = now + ending.grace
    for container in pod.all_containers():
        run = observed.latest(container.name)
        if run is not None and run.running and (run.stop_by is None or by < run.stop_by):
            yield Stop(container.name, run.attempt, by, f"Stopping container {container.name}")


def _finish(pod: Pod, observed: Observed) -> Iterator[Action]:
    """Nothing runs any more."""
    if observed.setup in ("pending", "removing"):
        return
    if observed.setup == "ready":
        yield TearDown()
    elif observed.gone:
        yield Discard()
    elif pod.deleted and not observed.deleting:
        yield Delete()


Step = tuple[Action | None, float | None]


def _advance(pod: Pod, observed: Observed, now: float) -> Iterator[Step]:
    """The way from nothing to running: directory, volumes and address; init containers in turn; the containers."""
    if observed.setup != "ready":
        if observed.setup in ("absent", "removed"):
            if now >= observed.setup_retry_at:
                yield SetUp(), None
            else:
                yield None, observed.setup_retry_at
        return
    if observed.refresh_at is not None:
        yield (Refresh(), None) if now >= observed.refresh_at else (None, observed.refresh_at)
    if not initialised(pod, observed):
        container = next(
            c for c in pod.init_containers if (run := observed.latest(c.name)) is None or run.exit_code != 0
        )
        yield from _ensure(container, observed, now, again=init_should_restart, pod=pod)
        return
    for container in pod.containers:
        yield from _ensure(container, observed, now, again=should_restart, pod=pod)


def _ensure(
    container: Container, observed: Observed, now: float, *, again: Callable[[Pod, Run], bool], pod: Pod
) -> Iterator[Step]:
    """Start the container if it is not there, or ended and is to run again and may already."""
    name, run = container.name, observed.latest(container.name)
    if name in observed.starting or name in observed.image_errors:
        return
    if run is not None and not run.ended:
        return
    if run is not None and not again(pod, run):
        return
    failure = observed.failures.get(name)
    if failure is not None and now < failure.at + CREATE_RETRY_SECONDS:
        yield None, failure.at + CREATE_RETRY_SECONDS
        return
    if run is None:
        yield Start(name, 0, Backoff()), None
        return
    finished = now if run.finished_at is None else run.finished_at
    ready = backoff.ready_at(run.backoff, finished)
    if now < ready:
        yield None, ready
    else:
        yield Start(name, run.attempt + 1, backoff.following(run.backoff, finished, now)), None


def _probe_all(pod: Pod, observed: Observed, ending: Ending | None, now: float) -> Iterator[Step]:
    for container in pod.containers:
        run = observed.latest(container.name)
        if run is None or not run.running:
            continue
        for kind, probe in probes.of(container).items():
            yield from _probe(container, kind, probe, run, observed, ending, now, pod)


def _probe(
    container: Container,
    kind: Kind,
    probe: Probe,
    run: Run,
    observed: Observed,
    ending: Ending | None,
    now: float,
    pod: Pod,
) -> Iterator[Step]:
    state = _state(observed, container, kind, run)
    stopping = ending is not None or run.stop_by is not None
    if kind is not Kind.READINESS and stopping:
        return
    if kind is not Kind.READINESS and state.held:
        grace = pod.grace if probe.grace is None else probe.grace
        message = f"Container {container.name} failed {kind.value.lower()} probe, will be restarted"
        yield Stop(container.name, run.attempt, now + max(grace, MINIMUM_GRACE), message), None
        return
    if is_started(container, run, observed) is (kind is Kind.STARTUP) or state.running:
        return
    due = probes.due_at(state, probe, run.started_at or now)
    yield (RunProbe(container.name, run.attempt, kind), None) if now >= due else (None, due)


def _state(observed: Observed, container: Container, kind: Kind, run: Run) -> ProbeState:
    state = observed.probes.get((container.name, kind))
    return state if state is not None and state.attempt == run.attempt else probes.initial(kind, run.attempt)


def _forget(observed: Observed) -> Iterator[Action]:
    for name, runs in observed.runs.items():
        for run in runs[:-KEPT_RUNS]:
            if run.ended:
                yield Forget(name, run.attempt)


def _shown_until(observed: Observed, now: float) -> list[float]:
    """When the waiting state of an image that cannot be had changes its name."""
    if not observed.image_errors:
        return []
    return [backoff.pull_shown_until(observed.images_since, now)]
