"""All pods of the node: a worker for each, admission, memory and disk limits, orphans, and the end of the node."""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from sartor_runner.api.client import Object
from sartor_runner.core import probes
from sartor_runner.core.admission import admit
from sartor_runner.core.observed import Verdict
from sartor_runner.core.pod import HttpGet, Pod, TcpSocket, parse
from sartor_runner.core.quantity import parse as parse_quantity
from sartor_runner.core.refusals import REASON, refusals
from sartor_runner.host import containers, memory, volumes
from sartor_runner.host.directories import PodDirectory, pod_uids, remove_tree
from sartor_runner.host.process import trim
from sartor_runner.node.machine import Machine
from sartor_runner.node.worker import PodWorker

logger = logging.getLogger(__name__)

DISK_PERIOD_SECONDS = 10.0
ORPHAN_GRACE_SECONDS = 2.0
REPLACE_SECONDS = 5.0
SHUTDOWN = Verdict("Terminated", "Pod was terminated in response to imminent node shutdown.")
SHUTDOWN_REJECTED = Verdict("NodeShutdown", "Pod was rejected as the node is shutting down.")


class PodManager:
    """Called from the informer of this node's pods, and from the kubelet API."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._shutting_down = False

    def changed(self, raw: Object) -> None:
        """The API has this pod, new or changed."""
        uid = raw["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(raw)
            return
        try:
            pod = parse(raw)
        except ValueError as error:
            logger.error("a pod from the API cannot be read: %s", error)
            return
        worker = PodWorker(self._machine, raw, self._ended)
        if not worker.adopted and not pod.deleted:
            verdict = self._admit(pod)
            if verdict is not None:
                worker.end(verdict)
                self._machine.events.emit(worker.subject(), "Warning", verdict.reason, verdict.message)
        self._workers[uid] = worker
        self._tasks[uid] = asyncio.create_task(self._run(worker))

    def removed(self, raw: Object) -> None:
        """The API has this pod no more."""
        worker = self._workers.get(raw["metadata"]["uid"])
        if worker is not None:
            worker.remove(raw)

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod by name; of two with one name the newer."""
        found = [w for w in self._workers.values() if (w.pod.namespace, w.pod.name) == (namespace, name)]
        return max(found, key=lambda w: w.pod.metadata.get("creationTimestamp") or "", default=None)

    def workers(self) -> Iterable[PodWorker]:
        return tuple(self._workers.values())

    async def watch_memory(self) -> None:
        """Kills containers that hold more memory than their limit. For ever; ends by cancellation only."""
        while True:
            await asyncio.sleep(memory.PERIOD_SECONDS)
            for worker in self.workers():
                for container in worker.pod.all_containers():
                    limit = container.limits.get("memory")
                    run = worker.runs.get(container.name, (None,))[-1]
                    if limit is None or run is None or not run.running:
                        continue
                    folder = worker.directory.attempt(container.name, run.attempt)
                    pid = containers.pid(folder)
                    if pid is not None and memory.over(pid, int(parse_quantity(limit))):
                        containers.kill(folder, "OOMKilled")
                        logger.info(
                            "%s/%s: %s is over %s", worker.pod.namespace, worker.pod.name, container.name, limit
                        )

    async def watch_disk(self) -> None:
        """Evicts pods whose emptyDir is over its limit. For ever; ends by cancellation only."""
        while True:
            await asyncio.sleep(DISK_PERIOD_SECONDS)
            trim()
            for worker in self.workers():
                sentence = await worker.exceeded()
                if sentence is not None:
                    worker.end(Verdict("Evicted", sentence))
                    self._machine.events.emit(worker.subject(), "Warning", "Evicted", sentence)

    async def clean_orphans(self, known: Iterable[str]) -> None:
        """Ends and removes what pods left here that the API does not have any more. `known`: the UIDs that it has."""
        orphans = set(pod_uids(self._machine.root)) - set(known) - self._workers.keys()
        folders = [folder for uid in orphans for _, _, folder in PodDirectory(self._machine.root, uid).attempts()]
        living = [folder for folder in folders if containers.lives(folder)]
        for folder in living:
            containers.send(folder, "signal SIGTERM")
        if living:
            logger.info("%d containers of pods that are gone are ended", len(living))
            await asyncio.sleep(ORPHAN_GRACE_SECONDS)
        while living := [folder for folder in living if containers.lives(folder)]:
            for folder in living:
                containers.kill(folder)
            await asyncio.sleep(0.1)
        for uid in orphans:
            directory = PodDirectory(self._machine.root, uid)
            record = directory.read()
            if record.get("address"):
                self._machine.give_back_address(record["address"])
            self._machine.users.give_back(record.get("user"))
            volumes.remove(uid, directory.volumes)
            remove_tree(directory.path)

    async def stop_all(self, grace: float) -> None:
        """The node goes down: every pod is ended and says so. Returns when nothing runs, at the latest after `grace`."""
        self._shutting_down = True
        for worker in self.workers():
            worker.end(SHUTDOWN)
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        while any(worker.any_running() for worker in self.workers()) and loop.time() < until:
            await asyncio.sleep(0.05)
        reports = [asyncio.create_task(worker.reported()) for worker in self.workers()]
        if reports:
            _, pending = await asyncio.wait(reports, timeout=max(until - loop.time(), 2.0))
            for task in pending:
                task.cancel()

    async def close(self) -> None:
        """Ends the workers and leaves the processes alone."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self, pod: Pod) -> Verdict | None:
        if self._shutting_down:
            return SHUTDOWN_REJECTED
        sentences = [*refusals(pod, self._machine.allowed), *self._unreachable(pod)]
        if sentences:
            return Verdict(REASON, "this node cannot run the pod: " + "; ".join(sentences))
        others = [w.pod for w in self._workers.values() if w.holds_resources()]
        return admit(pod, others, self._machine.allocatable)

    def _unreachable(self, pod: Pod) -> Iterator[str]:
        """Probes that would come from outside of a network that nobody can enter."""
        for container in pod.containers:
            environment = self._machine.images.find(container.image)
            if environment is None or not environment.table.unshare_net:
                continue
            for kind, probe in probes.of(container).items():
                if isinstance(probe.handler, HttpGet | TcpSocket):
                    yield (
                        f"container {container.name}: its environment {environment.name} has no network (unshare_net), so "
                        f"its {kind.value.lower()} probe cannot reach it; probe it by exec"
                    )

    async def _run(self, worker: PodWorker) -> None:
        """A worker that fails is replaced by one that takes over what is there, as after a restart of the runner."""
        while True:
            try:
                await worker.run()
                return
            except Exception:
                logger.exception("%s/%s: its worker failed and is replaced", worker.pod.namespace, worker.pod.name)
            await asyncio.sleep(REPLACE_SECONDS)
            worker = self._workers[worker.pod.uid] = worker.successor()

    def _ended(self, worker: PodWorker) -> None:
        self._workers.pop(worker.pod.uid, None)
        self._tasks.pop(worker.pod.uid, None)
        self._machine.sources.forget(worker.pod, [w.pod for w in self._workers.values()])
