"""One pod: gathers what is observed, asks the core what to do, does it, and has the status reported.

Everything that takes time runs as a task of its own and wakes the loop when it is done, so the loop never waits for the API
server, for a volume or for a container: a pod goes on living, restarting and being probed while the server is away.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sartor_runner.api.client import Object
from sartor_runner.core import probes
from sartor_runner.core.observed import (
    Action,
    Delete,
    Discard,
    Failure,
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
from sartor_runner.core.pod import Pod, parse
from sartor_runner.core.probes import Kind, ProbeState
from sartor_runner.core.status import TERMINAL
from sartor_runner.core.sync import CREATE_RETRY_SECONDS, sync
from sartor_runner.errors import ContainerError, RunnerError
from sartor_runner.host import containers
from sartor_runner.host.directories import PodDirectory, remove_tree
from sartor_runner.node.events import Subject
from sartor_runner.node.machine import Machine
from sartor_runner.node.reporter import OWN_CONDITIONS, Reporter, version
from sartor_runner.node.setup import PodSetup
from sartor_runner.node.starting import start_container
from sartor_runner.node.stopping import Stopper

logger = logging.getLogger(__name__)

SETUP_FIRST_DELAY, SETUP_MAXIMUM_DELAY = 0.5, 120.0
DELETE_RETRY_SECONDS = 2.0
SOON_SECONDS = 1.0
BEGUN_POLL_SECONDS = 0.5


class PodWorker:
    """Lives from the first sight of a pod until its object and its processes are gone; then `ended` is called."""

    def __init__(self, machine: Machine, raw: Object, ended: Callable[["PodWorker"], None]) -> None:
        self.pod: Pod = parse(raw)
        self.directory = PodDirectory(machine.root, self.pod.uid)
        self.runs: dict[str, tuple[Run, ...]] = {}
        self.verdict: Verdict | None = None
        self.status: dict[str, Any] = dict(raw.get("status") or {})
        self.adopted = self.directory.path.exists()
        self._machine, self._ended = machine, ended
        self._setup = PodSetup(machine, self.directory)
        self._reporter = Reporter(machine.client, raw)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watches: dict[tuple[str, int], Callable[[], None]] = {}
        self._stoppers: dict[tuple[str, int], Stopper] = {}
        self._starting: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._probes: dict[tuple[str, Kind], ProbeState] = {}
        self._setup_failures = 0
        self._setup_retry_at = 0.0
        self._images_since = machine.clock()
        self._gone = self._deleting = self._discarded = False
        self._find_images()

    def successor(self) -> "PodWorker":
        """A new worker of the same pod, which finds what this one left."""
        after = PodWorker(self._machine, self._reporter.known, self._ended)
        after.verdict, after._gone = self.verdict, self._gone
        return after

    # What comes from outside.

    def update(self, raw: Object) -> None:
        """The API has a new version of the pod."""
        if version(raw) >= version(self._reporter.known):
            self.pod = parse(raw)
            phase = (raw.get("status") or {}).get("phase")
            if phase in TERMINAL and self.status.get("phase") not in TERMINAL:
                self.status.update({k: raw["status"].get(k) for k in ("phase", "reason", "message")})
        self._reporter.seen(raw)
        self._wake.set()

    def remove(self, raw: Object) -> None:
        """The API has the pod no more."""
        self.pod = parse(raw)
        self._gone = self._reporter.gone = True
        self._wake.set()

    def end(self, verdict: Verdict) -> None:
        """The node ends the pod; the first verdict stands."""
        if self.verdict is None:
            self.verdict = verdict
            self._wake.set()

    @property
    def address(self) -> str:
        return self._setup.address

    def holds_resources(self) -> bool:
        """A pod that is over has given everything back."""
        return self.status.get("phase") not in TERMINAL and not (self.verdict and not any(self.runs.values()))

    def any_running(self) -> bool:
        return self._observed().any_running()

    async def exceeded(self) -> str | None:
        """The sentence for an emptyDir that is over its limit."""
        return await self._setup.exceeded(self.pod) if self._setup.state == "ready" else None

    async def reported(self) -> None:
        """Returns once the API has the newest status."""
        await self._reporter.settled()

    def subject(self, container: str = "") -> Subject:
        field = f"spec.containers{{{container}}}" if container else ""
        return Subject("Pod", self.pod.namespace, self.pod.name, self.pod.uid, field)

    # The loop.

    async def run(self) -> None:
        """Until the pod is gone; cancelled, it leaves the processes alone."""
        reporting = asyncio.create_task(self._reporter.run())
        try:
            self._adopt()
            while not self._discarded:
                now = self._machine.clock()
                decision = sync(self.pod, self._observed(), now)
                self._tell_waiting(decision.status)
                self.status = {**self._foreign(), **decision.status}
                if not self._gone:
                    self._reporter.report(decision.status)
                for action in decision.actions:
                    self._do(action)
                await self._sleep(None if decision.wake is None else decision.wake - self._machine.clock())
        finally:
            for task in [reporting, *self._tasks]:
                task.cancel()
            for close in self._watches.values():
                close()
        self._ended(self)

    async def _sleep(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else max(seconds, 0.01)):
                await self._wake.wait()
        self._wake.clear()

    def _observed(self) -> Observed:
        status = {**self.status}
        own = [c for c in status.get("conditions") or () if c["type"] in OWN_CONDITIONS]
        known = (self._reporter.known.get("status") or {}).get("conditions") or ()
        status["conditions"] = own + [c for c in known if c["type"] not in OWN_CONDITIONS]
        return Observed(
            setup=self._setup.state,
            setup_retry_at=self._setup_retry_at,
            addresses=(self._setup.address,) if self._setup.address else (),
            host_address=self._machine.address,
            runs=self.runs,
            starting=frozenset(self._starting),
            failures=self._failures,
            image_errors=self._image_errors,
            images_since=self._images_since,
            probes=self._probes,
            refresh_at=self._setup.refresh_at,
            verdict=self.verdict,
            gone=self._gone,
            deleting=self._deleting,
            status=status,
        )

    def _foreign(self) -> dict[str, Any]:
        return {key: self.status[key] for key in ("qosClass", "nominatedNodeName") if key in self.status}

    def _find_images(self) -> None:
        images = self._machine.images
        missing = [c for c in self.pod.all_containers() if images.find(c.image) is None]
        self._image_errors = {c.name: images.missing(c.image) for c in missing}

    # What an earlier runner left.

    def _adopt(self) -> None:
        if not self.adopted:
            return
        self._setup.adopt(self.pod)
        self.runs = containers.load_all(self.directory)
        reported = {s["name"]: s for s in self.status.get("containerStatuses") or ()}
        for name, runs in self.runs.items():
            run = runs[-1]
            if run.ended:
                continue
            self._watch(name, run.attempt)
            status = reported.get(name) or {}
            if status.get("containerID") == run.container_id:
                self._probes[(name, Kind.READINESS)] = ProbeState(run.attempt, bool(status.get("ready")))
                self._probes[(name, Kind.STARTUP)] = ProbeState(run.attempt, True if status.get("started") else None)
            if run.stop_by is not None:
                self._stop(Stop(name, run.attempt, run.stop_by, ""), hook=False)
            if not run.running:
                self._spawn(self._await_begin(name, run.attempt))

    async def _await_begin(self, name: str, attempt: int) -> None:
        """A container that was between start and running when the runner was killed."""
        while (run := self._run(name, attempt)) is not None and not run.running and not run.ended:
            await asyncio.sleep(BEGUN_POLL_SECONDS)
            self._reload(name, attempt)

    # What the core asks for.

    def _do(self, action: Action) -> None:
        match action:
            case SetUp():
                self._setup.state = "pending"
                self._spawn(self._set_up())
            case Start():
                self._starting.add(action.container)
                self._spawn(self._start(action))
            case Stop():
                self._stop(action)
            case RunProbe():
                key = (action.container, action.kind)
                state = self._probes.get(key)
                if state is None or state.attempt != action.attempt:
                    state = probes.initial(action.kind, action.attempt)
                self._probes[key] = probes.begun(state, self._machine.clock())
                self._spawn(self._probe(action))
            case Refresh():
                self._setup.refresh_at = None
                self._spawn(self._refresh())
            case Forget():
                remove_tree(self.directory.attempt(action.container, action.attempt))
                kept = tuple(r for r in self.runs[action.container] if r.attempt != action.attempt)
                self.runs[action.container] = kept
                self._stoppers.pop((action.container, action.attempt), None)
                self._wake.set()
            case TearDown():
                self._setup.tear_down()
                self._wake.set()
            case Delete():
                self._deleting = True
                self._spawn(self._delete())
            case Discard():
                self._setup.discard()
                self._discarded = True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it beside the loop, and wakes the loop afterwards. What fails unexpectedly is logged and tried again."""
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("%s/%s: %r", self.pod.namespace, self.pod.name, error, exc_info=error)
            self._wake.set()

        task.add_done_callback(done)

    async def _set_up(self) -> None:
        try:
            await self._setup.set_up(self.pod)
            self._setup_failures = 0
        except (RunnerError, OSError) as error:
            self._setup_failures += 1
            delay = min(SETUP_FIRST_DELAY * 2**self._setup_failures, SETUP_MAXIMUM_DELAY)
            self._setup_retry_at = self._machine.clock() + delay
            self._machine.events.emit(self.subject(), "Warning", "FailedMount", f"the pod cannot be set up: {error}")
        finally:
            if self._setup.state == "pending":
                self._setup.state = "absent"

    async def _refresh(self) -> None:
        try:
            await self._setup.refresh(self.pod)
        except (RunnerError, OSError) as error:
            self._machine.events.emit(
                self.subject(), "Warning", "FailedMount", f"a volume was not brought up to date: {error}"
            )
            self._setup.refresh_later()

    async def _start(self, action: Start) -> None:
        name = action.container
        container = self.pod.container(name)
        if container is None:
            self._starting.discard(name)
            return
        try:
            run = await start_container(self._machine, self._setup, self.pod, container, action, self.subject(name))
            self._failures.pop(name, None)
            self.runs[name] = (*(r for r in self.runs.get(name, ()) if r.attempt != run.attempt), run)
            if not run.ended:
                self._watch(name, run.attempt)
        except (RunnerError, OSError) as error:
            reason = error.reason if isinstance(error, ContainerError) else "CreateContainerError"
            # A server that is away, or does not know yet that we may read what the pod names, is asked again soon.
            soon = 0.0 if isinstance(error, ContainerError) else CREATE_RETRY_SECONDS - SOON_SECONDS
            self._failures[name] = Failure(reason, str(error), self._machine.clock() - soon)
            self._machine.events.emit(self.subject(name), "Warning", "Failed", f"Error: {error}")
        finally:
            self._starting.discard(name)

    def _stop(self, action: Stop, *, hook: bool = True) -> None:
        name, attempt = action.container, action.attempt
        run, container = self._run(name, attempt), self.pod.container(name)
        if run is None or run.ended or container is None:
            return
        self._put(name, replace(run, stop_by=action.by))
        folder = self.directory.attempt(name, attempt)
        containers.stop_by(folder, action.by)
        stopper = self._stoppers.get((name, attempt))
        if stopper is not None:
            stopper.hasten(action.by)
            return
        if action.message:
            self._machine.events.emit(self.subject(name), "Normal", "Killing", action.message)
        stopper = Stopper(self._machine, container, folder, self.address, action.by)
        self._stoppers[(name, attempt)] = stopper
        self._spawn(stopper.run(hook=hook, subject=self.subject(name)))
        self._wake.set()

    async def _probe(self, action: RunProbe) -> None:
        name, key = action.container, (action.container, action.kind)
        container = self.pod.container(name)
        probe = None if container is None else probes.of(container).get(action.kind)
        if container is None or probe is None:
            return
        folder = self.directory.attempt(name, action.attempt)
        try:
            passed, seen = await self._machine.prober.send(
                probe.handler, container, folder, self.address, probe.timeout
            )
        except OSError as error:  # of this machine: no result, and the next one comes in its time
            logger.warning("%s/%s: a probe could not be sent: %s", self.pod.namespace, self.pod.name, error)
            self._probes[key] = replace(self._probes[key], running=False)
            return
        state, run = self._probes.get(key), self._run(name, action.attempt)
        if state is None or state.attempt != action.attempt or run is None or run.ended:
            return
        self._probes[key] = probes.recorded(state, action.kind, probe, passed)
        if not passed:
            message = f"{action.kind.value} probe failed: {seen}"
            self._machine.events.emit(self.subject(name), "Warning", "Unhealthy", message)

    async def _delete(self) -> None:
        await self._reporter.settled()
        try:
            await self._setup.delete_object(self.pod)
        except RunnerError as error:
            logger.warning("%s/%s was not deleted: %s", self.pod.namespace, self.pod.name, error)
            await asyncio.sleep(DELETE_RETRY_SECONDS)
            self._deleting = False

    # What happens to processes.

    def _watch(self, name: str, attempt: int) -> None:
        def over() -> None:
            self._watches.pop((name, attempt), None)
            self._reload(name, attempt)
            self._wake.set()

        folder = self.directory.attempt(name, attempt)
        self._watches[(name, attempt)] = containers.watch(folder, over)

    def _reload(self, name: str, attempt: int) -> None:
        folder = self.directory.attempt(name, attempt)
        run = containers.load(attempt, folder)
        if run is None:
            return
        self._put(name, run)
        if run.ended:
            remove_tree(folder / containers.ROOT)
            stopper = self._stoppers.pop((name, attempt), None)
            if stopper is not None:
                stopper.ended()

    def _run(self, name: str, attempt: int) -> Run | None:
        return next((r for r in self.runs.get(name, ()) if r.attempt == attempt), None)

    def _put(self, name: str, run: Run) -> None:
        self.runs[name] = tuple(run if r.attempt == run.attempt else r for r in self.runs.get(name, ()))

    def _tell_waiting(self, status: Any) -> None:
        """Events for waiting states that a person should know of, once each time they begin."""
        before = {s["name"]: s for s in _statuses(self.status)}
        for new in _statuses(status):
            wait = new["state"].get("waiting") or {}
            reason = wait.get("reason")
            old = ((before.get(new["name"]) or {}).get("state") or {}).get("waiting") or {}
            if reason == old.get("reason"):
                continue
            if reason in ("ErrImagePull", "ErrImageNeverPull"):
                self._machine.events.emit(self.subject(new["name"]), "Warning", "Failed", wait["message"])
            elif reason in ("CrashLoopBackOff", "ImagePullBackOff"):
                self._machine.events.emit(self.subject(new["name"]), "Warning", "BackOff", wait["message"])


def _statuses(status: Any) -> list[Any]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
