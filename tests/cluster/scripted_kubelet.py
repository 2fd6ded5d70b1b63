"""A kubelet that is a script: it patches the status of pods as a kubelet would, by what a test says of each step.

The pods are real objects, bound by the real scheduler to a node that nobody is behind.
"""

import asyncio
import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "operator"))

from operator_world import Ends, good

from sartor_operator import names
from sartor_operator.client import Client
from sartor_operator.connection import Connection
from sartor_operator.errors import ApiError, NotFoundError, TransientError
from sartor_operator.kinds import CONFIG_MAP, LEASE, POD, Kind, Manifest
from sartor_operator.pods.jobs import STEP_KEY
from sartor_operator.times import format_micro, format_time
from sartor_operator.wire import StepBegin, StepReport, report_text

NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
NODE_NAME = "operator-node"
RESOURCES = {"cpu": "4k", "memory": "64Ti", "pods": "100k", "ephemeral-storage": "10Ti"}
SERVERS = ("candidate", "baseline", "serving-stack", "rollout-stack", "serving-baseline")

Script = Callable[[StepBegin, Manifest], Ends | None]
Fate = Callable[[Manifest], str]
"""What becomes of a server: `ready`, `pending`, `evicted`, `crashing` (again and again), or `CONTAINER:CODE:REASON`."""


class Outsider(Client):
    """The operator's client in other hands, so that the audit log tells the two apart."""

    def _headers(self, content_type: str | None = None) -> dict[str, str]:
        return super()._headers(content_type) | {"User-Agent": "sartor-tests"}


@dataclass
class Kubelet:
    """Plays the kubelet in a thread of its own. Start and stop it, or use it as a context; leaving it is losing the node.

    For the pods of one namespace (None: of all), on whatever node unless `alone`.
    """

    kubeconfig: Path
    namespace: str | None
    script: Script = lambda _begin, _pod: None
    server: Fate = lambda _pod: "ready"
    """Of candidates under test."""
    delivered: Fate = lambda _pod: "ready"
    """Of the servers that a synthesis delivers."""
    seconds: float = 0.1
    node: str = NODE_NAME
    beat: float = 5.0
    """Seconds between two signs of life of the node."""
    alone: bool = False
    """Only pods of its own node."""
    started: list[str] = field(default_factory=list)
    """Ids of the steps whose pods were started, in order."""
    of: dict[str, list[str]] = field(default_factory=dict)
    """The same for each synthesis, by its name."""
    scheduled: dict[str, float] = field(default_factory=dict)
    """When the first pod of a synthesis was seen on a node (Unix seconds), by the synthesis's name."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="kubelet", daemon=True)
        self._begun: dict[str, float] = {}
        self._begins: dict[str, StepBegin] = {}
        self._handled: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the scripted kubelet does not end"
        assert not self.problems, self.problems

    def lose(self) -> None:
        """The node falls silent, and whatever ran on it is never heard of again."""
        self._stop.set()
        self._thread.join(20)

    def _play(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - shown by the test that leaves the context
            self.problems.append(f"the scripted kubelet ended: {error!r}")

    async def _run(self) -> None:
        async with Outsider(Connection.load(str(self.kubeconfig))) as client:
            await self._join(client)
            beat = time.monotonic()
            pods: dict[str, Manifest] = {}
            watching = asyncio.create_task(self._watch(client, pods))
            while not self._stop.is_set():
                if time.monotonic() - beat > self.beat:
                    beat = time.monotonic()
                    with contextlib.suppress(ApiError):  # the API server may be away; the next beat tells it
                        await self._beat(client)
                for pod in list(pods.values()):
                    with contextlib.suppress(NotFoundError, TransientError):
                        await self._look(client, pod)
                await asyncio.sleep(0.02)
            watching.cancel()

    async def _watch(self, client: Client, pods: dict[str, Manifest]) -> None:
        version = ""
        while True:
            try:
                if not version:
                    found, version = await client.list(POD, self.namespace, names.SELECTOR)
                    pods.clear()
                    pods.update({names.uid(p): p for p in found})
                async for event, pod in client.watch(POD, self.namespace, version, names.SELECTOR):
                    version = str(pod["metadata"]["resourceVersion"])
                    if event == "DELETED":
                        pods.pop(names.uid(pod), None)
                    elif event != "BOOKMARK":
                        pods[names.uid(pod)] = pod
            except ApiError:
                version = ""
                await asyncio.sleep(0.2)

    async def _join(self, client: Client) -> None:
        """A node without a kubelet: Ready, roomy, its lease renewed."""
        labels = {"kubernetes.io/hostname": self.node}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node, "labels": labels}}
        with contextlib.suppress(ApiError):
            await client._send("create", "POST", NODE.path(None), body=node)
        await self._beat(client)
        for _ in range(100):
            found = await client.get(NODE, None, self.node)
            if not found["spec"].get("taints"):
                return
            await asyncio.sleep(0.1)

    async def _beat(self, client: Client) -> None:
        now = format_time(time.time())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Test",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": RESOURCES, "allocatable": RESOURCES, "conditions": [ready]}
        await self._patch(client, NODE.path(None, self.node, "status"), {"status": status})
        spec = {"holderIdentity": self.node, "leaseDurationSeconds": 40, "renewTime": format_micro(time.time())}
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": "Lease",
            "metadata": {"name": self.node, "namespace": "kube-node-lease"},
            "spec": spec,
        }
        with contextlib.suppress(ApiError):
            await client.apply(lease, "kubelet")

    async def _patch(self, client: Client, path: str, body: Mapping[str, Any]) -> None:
        await client._send("patch", "PATCH", path, body=body, content_type="application/merge-patch+json")

    async def _status(self, client: Client, pod: Manifest, **status: Any) -> None:
        path = POD.path(pod["metadata"]["namespace"], names.name_of(pod), "status")
        await self._patch(client, path, {"status": status})

    async def _look(self, client: Client, pod: Manifest) -> None:
        uid = names.uid(pod)
        node = pod["spec"].get("nodeName")
        if not node or (self.alone and node != self.node):
            return
        if names.deleting(pod):
            if self._handled.get(uid) != "gone":
                await self._end(client, pod)
                self._handled[uid] = "gone"
            return
        self.scheduled.setdefault(names.label(pod, names.SYNTHESIS_LABEL), time.time())
        role = names.label(pod, names.ROLE_LABEL)
        if role in SERVERS:
            await self._serve(client, pod, role)
        elif names.label(pod, names.STEP_LABEL):
            await self._role(client, pod)

    async def _end(self, client: Client, pod: Manifest) -> None:
        """The containers end, their pod says how (the Job controller waits for that), and goes."""
        if pod["status"].get("phase") not in ("Succeeded", "Failed"):
            name = "serve" if names.label(pod, names.ROLE_LABEL) in SERVERS else "role"
            now = format_time(time.time())
            ended = {"exitCode": 143, "reason": "Error", "startedAt": now, "finishedAt": now}
            status = {"name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": False}
            await self._status(
                client, pod, phase="Failed", containerStatuses=[{**status, "state": {"terminated": ended}}]
            )
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": names.uid(pod)}}
        path = POD.path(pod["metadata"]["namespace"], names.name_of(pod))
        await client._send("delete", "DELETE", path, body=body)

    # --- servers ----------------------------------------------------------------------------------------------------

    async def _serve(self, client: Client, pod: Manifest, role: str) -> None:
        uid = names.uid(pod)
        fate = "ready" if role == "baseline" else self.server(pod) if role == "candidate" else self.delivered(pod)
        if self._handled.get(uid) == fate and not self._forgotten(pod, fate):
            return
        now = format_time(time.time())
        if fate == "ready":
            await self._ready(client, pod, now)
        elif fate == "evicted":
            await self._status(client, pod, phase="Failed", reason="Evicted", message="low on memory")
        elif fate == "crashing":
            await self._status(client, pod, phase="Running", startTime=now, containerStatuses=[_crashing(now)])
        elif fate != "pending":
            name, code, reason = fate.split(":")
            ended = {"exitCode": int(code), "reason": reason, "startedAt": now, "finishedAt": now, "message": "trace"}
            status = {"name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": False}
            which = "containerStatuses" if name == "serve" else "initContainerStatuses"
            await self._status(client, pod, phase="Failed", **{which: [{**status, "state": {"terminated": ended}}]})
        self._handled[uid] = fate

    def _forgotten(self, pod: Manifest, fate: str) -> bool:
        """Whether a server that is ready is shown as not ready, since its node was given up. Said again each second."""
        ready = next((c["status"] for c in pod["status"].get("conditions", ()) if c["type"] == "Ready"), "")
        return fate == "ready" and ready == "False" and time.monotonic() - self._said.get(names.uid(pod), 0.0) > 1

    async def _ready(self, client: Client, pod: Manifest, now: str) -> None:
        self._said[names.uid(pod)] = time.monotonic()
        number = self._numbers.setdefault(names.uid(pod), len(self._numbers) + 1)
        address = f"10.250.{number >> 8}.{number & 255}"
        running = {"name": "serve", "image": "i", "imageID": "", "restartCount": 0, "ready": True}
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        await self._status(
            client,
            pod,
            phase="Running",
            podIP=address,
            podIPs=[{"ip": address}],
            startTime=now,
            conditions=[{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
            containerStatuses=[{**running, "state": {"running": {"startedAt": now}}}],
        )

    # --- roles ------------------------------------------------------------------------------------------------------

    async def _role(self, client: Client, pod: Manifest) -> None:
        uid = names.uid(pod)
        step = pod["metadata"]["annotations"][names.STEP_ANNOTATION]
        if uid not in self._begun:
            self._begun[uid] = time.monotonic()
            self.started.append(step)
            self.of.setdefault(names.label(pod, names.SYNTHESIS_LABEL), []).append(step)
        if uid in self._handled or time.monotonic() - self._begun[uid] < self.seconds:
            return
        begin = self._begins.get(uid) or await self._begin(client, pod)
        ends = self.script(begin, pod) or Ends()
        if ends.never:
            return
        await self._status(client, pod, **_ended(begin, ends, format_time(time.time())))
        self._handled[uid] = "done"

    async def _begin(self, client: Client, pod: Manifest) -> StepBegin:
        """The step that a pod was given, read as its container would."""
        name = next(v["configMap"]["name"] for v in pod["spec"]["volumes"] if v["name"] == "step")
        step_map = await client.get(CONFIG_MAP, pod["metadata"]["namespace"], name)
        begin = self._begins[names.uid(pod)] = StepBegin.model_validate_json(step_map["data"][STEP_KEY])
        return begin


def _crashing(now: str) -> dict[str, Any]:
    """A server that is started again and again, as the kubelet shows it."""
    last = {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now, "message": "bfloat16 is missing"}
    return {
        "name": "serve",
        "image": "i",
        "imageID": "",
        "restartCount": 4,
        "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
        "lastState": {"terminated": last},
    }


def _ended(begin: StepBegin, ends: Ends, now: str) -> dict[str, Any]:
    """The status of a role's pod that ended."""
    message = ends.message
    failed = bool(ends.code or ends.pod_reason or ends.disrupted)
    if message is None and not failed:
        commit = hashlib.sha1(begin.id.encode()).hexdigest()
        message = report_text(StepReport(step=begin.id, result=ends.result or good(begin), commit=commit))
    ended = {"exitCode": ends.code, "startedAt": now, "finishedAt": now}
    ended |= {"reason": ends.reason} if ends.reason else {}
    ended |= {"message": message} if message else {}
    container = {"name": "role", "image": "i", "imageID": "", "restartCount": 0, "ready": False}
    status: dict[str, Any] = {
        "phase": "Failed" if failed else "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": ended}}],
    }
    if ends.pod_reason:
        status |= {"reason": ends.pod_reason, "message": "by the test"}
    if ends.disrupted:
        kind = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        status["conditions"] = [kind | {"lastTransitionTime": now}]
    return status
