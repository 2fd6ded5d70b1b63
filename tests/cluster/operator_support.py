"""What the operator's tests on a real API server share: the process, a kubelet that is a script, a repository of stacks.

The pods are real objects, scheduled by the real scheduler onto a node that nobody is behind; `Kubelet` plays its part: it
patches the status of pods as a kubelet would, by what the test says of each step.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "operator"))

from operator_world import Ends, commit_of, files_of, good

from sartor_devcluster import Cluster
from sartor_operator import names
from sartor_operator.client import Client
from sartor_operator.connection import Connection
from sartor_operator.errors import ApiError, NotFoundError, TransientError
from sartor_operator.kinds import CONFIG_MAP, LEASE, POD, Kind, Manifest
from sartor_operator.pods.archive import archive
from sartor_operator.pods.jobs import STEP_KEY
from sartor_operator.times import format_micro, format_time
from sartor_operator.wire import StepBegin, StepReport, report_text

ROOT = Path(__file__).parents[2]
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
NODE_NAME = "operator-node"
WRITES = ("create", "update", "patch", "delete")
Script = Callable[[StepBegin, Manifest], Ends | None]


def wait_for(what: str, look: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true result; fails, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not seen in {seconds:.0f} s")
        time.sleep(every)
    return found


def get(cluster: Cluster, *arguments: str) -> Any:
    """`kubectl get … -o json`; None where there is no such object."""
    done = cluster.kubectl("get", *arguments, "-o", "json", "--ignore-not-found")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def items(cluster: Cluster, kind: str, namespace: str, *arguments: str) -> list[dict[str, Any]]:
    found = get(cluster, kind, "-n", namespace, *arguments)
    return found["items"] if found else []


def apply(cluster: Cluster, *objects: Mapping[str, Any]) -> str:
    """`kubectl apply` as a user does it; what kubectl said."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return cluster.kubectl("apply", "-f", "-", input=text, check=True).stdout


def synthesis(namespace: str, name: str = "editor", **spec: Any) -> dict[str, Any]:
    wanted = {
        "model": {"source": {"synthetic": {"kind": "chain", "size": "tiny"}}},
        "workload": {"scenario": "chat"},
        "hardware": {"targetRef": {"name": "operator-cpu"}},
        "measurement": {"preset": "quick"},
        "budget": {"rounds": 1, "wallClock": "8h"},
    }
    meta = {"name": name, "namespace": namespace}
    kind = {"apiVersion": "sartor.dev/v1alpha1", "kind": "ServingSynthesis"}
    return {**kind, "metadata": meta, "spec": {**wanted, **spec}}


TARGET = {
    "apiVersion": "sartor.dev/v1alpha1",
    "kind": "HardwareTarget",
    "metadata": {"name": "operator-cpu"},
    "spec": {"platform": "cpu"},
}


def prepare(cluster: Cluster) -> None:
    """CRDs, a hardware target, a node."""
    cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "manifests"), check=True)
    for plural in ("servingsyntheses", "synthesisruns", "servingcandidates", "hardwaretargets", "agentprofiles"):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{plural}.sartor.dev", check=True)
    apply(cluster, TARGET)


def role_pods(kubelet: "Kubelet") -> list[str]:
    """Step ids in the order in which their pods were started."""
    return list(kubelet.started)


# --- the kubelet --------------------------------------------------------------------------------------------------------


@dataclass
class Kubelet:
    """Plays the kubelet for the pods of one namespace, in a thread of its own. Start and stop it, or use it as a context."""

    kubeconfig: Path
    namespace: str
    script: Script = lambda _begin, _pod: None
    server: Callable[[Manifest], str] = lambda _pod: "ready"
    seconds: float = 0.1
    started: list[str] = field(default_factory=list)
    scheduled: dict[str, float] = field(default_factory=dict)
    """When the first pod of a synthesis was seen on a node (Unix seconds), by the synthesis's name."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="kubelet", daemon=True)
        self._begun: dict[str, float] = {}
        self._handled: dict[str, str] = {}
        self._address = 0

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self.problems, self.problems

    async def _run(self) -> None:
        async with Client(Connection.load(str(self.kubeconfig))) as client:
            await self._join(client)
            beat = time.monotonic()
            pods: dict[str, Manifest] = {}
            watching = asyncio.create_task(self._watch(client, pods))
            while not self._stop.is_set():
                if time.monotonic() - beat > 5:
                    beat = time.monotonic()
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
        labels = {"kubernetes.io/hostname": NODE_NAME}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME, "labels": labels}}
        with contextlib.suppress(ApiError):
            await client._send("create", "POST", NODE.path(None), body=node)
        await self._beat(client)
        for _ in range(100):
            found = await client.get(NODE, None, NODE_NAME)
            if not found["spec"].get("taints"):
                return
            await asyncio.sleep(0.1)

    async def _beat(self, client: Client) -> None:
        now = format_time(time.time())
        resources = {"cpu": "4k", "memory": "64Ti", "pods": "100k", "ephemeral-storage": "10Ti"}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Test",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": resources, "allocatable": resources, "conditions": [ready]}
        await self._patch(client, NODE.path(None, NODE_NAME, "status"), {"status": status})
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": "Lease",
            "metadata": {"name": NODE_NAME, "namespace": "kube-node-lease"},
            "spec": {
                "holderIdentity": NODE_NAME,
                "leaseDurationSeconds": 40,
                "renewTime": format_micro(time.time()),
            },
        }
        with contextlib.suppress(ApiError):
            await client.apply(lease, "kubelet")

    async def _patch(self, client: Client, path: str, body: Mapping[str, Any]) -> None:
        await client._send("patch", "PATCH", path, body=body, content_type="application/merge-patch+json")

    async def _status(self, client: Client, pod: Manifest, **status: Any) -> None:
        await self._patch(client, POD.path(self.namespace, names.name_of(pod), "status"), {"status": status})

    async def _look(self, client: Client, pod: Manifest) -> None:
        uid = names.uid(pod)
        if names.deleting(pod):
            if self._handled.get(uid) != "gone":
                self._handled[uid] = "gone"
                body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
                await client._send("delete", "DELETE", POD.path(self.namespace, names.name_of(pod)), body=body)
            return
        if not pod["spec"].get("nodeName"):
            return
        self.scheduled.setdefault(names.label(pod, names.SYNTHESIS_LABEL), time.time())
        role = names.label(pod, names.ROLE_LABEL)
        if role in ("candidate", "baseline", "serving-stack", "serving-baseline"):
            await self._serve(client, pod, role)
        elif names.label(pod, names.STEP_LABEL):
            await self._role(client, pod)

    async def _serve(self, client: Client, pod: Manifest, role: str) -> None:
        uid = names.uid(pod)
        fate = self.server(pod) if role == "candidate" else "ready"
        if self._handled.get(uid) == fate:
            return
        self._handled[uid] = fate
        now = format_time(time.time())
        if fate == "ready":
            self._address += 1
            address = f"10.250.{self._address >> 8}.{self._address & 255}"
            running = {"name": "serve", "image": "i", "imageID": "", "restartCount": 0, "ready": True}
            running["state"] = {"running": {"startedAt": now}}
            kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            await self._status(
                client,
                pod,
                phase="Running",
                podIP=address,
                podIPs=[{"ip": address}],
                startTime=now,
                conditions=[{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
                containerStatuses=[running],
            )
        elif fate == "evicted":
            await self._status(client, pod, phase="Failed", reason="Evicted", message="low on memory")
        elif fate != "pending":
            name, code, reason = fate.split(":")
            ended = {"exitCode": int(code), "reason": reason, "startedAt": now, "finishedAt": now, "message": "trace"}
            status = {"name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": False}
            which = "containerStatuses" if name == "serve" else "initContainerStatuses"
            await self._status(client, pod, phase="Failed", **{which: [{**status, "state": {"terminated": ended}}]})

    async def _role(self, client: Client, pod: Manifest) -> None:
        uid = names.uid(pod)
        step = pod["metadata"]["annotations"][names.STEP_ANNOTATION]
        if uid not in self._begun:
            self._begun[uid] = time.monotonic()
            self.started.append(step)
        if uid in self._handled or time.monotonic() - self._begun[uid] < self.seconds:
            return
        volumes = pod["spec"]["volumes"]
        name = next(v["configMap"]["name"] for v in volumes if v["name"] == "step")
        step_map = await client.get(CONFIG_MAP, self.namespace, name)
        begin = StepBegin.model_validate_json(step_map["data"][STEP_KEY])
        ends = self.script(begin, pod) or Ends()
        if ends.never:
            return
        self._handled[uid] = "done"
        now = format_time(time.time())
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
        await self._status(client, pod, **status)


# --- the repository -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def repository() -> Iterator[str]:
    """Serves the stacks that the scripted implementer makes; yields the address."""
    stacks = {commit_of(r, a): archive(files_of(r, a)) for r in range(1, 6) for a in range(1, 4)}
    ready, loop, found = threading.Event(), asyncio.new_event_loop(), list[str]()

    async def stack(request: web.Request) -> web.Response:
        data = stacks.get(request.match_info["commit"])
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{namespace}/{run}/stack/{commit}.tar", stack)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, name="repository", daemon=True)
    thread.start()
    assert ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


# --- the operator -------------------------------------------------------------------------------------------------------


class OperatorProcess:
    """`python -m sartor_operator run` as it is installed, against a kubeconfig."""

    def __init__(self, kubeconfig: Path, namespace: str | None, repository_url: str, log: Path, *extra: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        scope = ["--all-namespaces"] if namespace is None else ["--namespace", namespace]
        self.command = [
            sys.executable, "-m", "sartor_operator", "run", "--kubeconfig", str(kubeconfig), *scope,
            "--lease-namespace", namespace or "default", "--lease-seconds", "2", "--metrics-port", str(self.port),
            "--repository", repository_url, *extra,
        ]  # fmt: skip
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "OperatorProcess":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ})
        return self

    def __enter__(self) -> "OperatorProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL: no clean-up, the lease stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def metric(self, name: str) -> float:
        """The sum of a metric's series; 0 without any."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def leading(self) -> bool:
        try:
            return self.metric("sartor_leader") == 1
        except OSError:
            return False

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def writes_in(audit_log: Path, since: int, user_agent: str = "sartor-operator") -> list[str]:
    """(verb, resource, name) of every write of the operator in the audit log after byte `since`."""
    found: list[str] = []
    with audit_log.open("rb") as log:
        log.seek(since)
        for line in log:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that is being written
            mine = str(event.get("userAgent", "")).startswith(user_agent) and event.get("verb") in WRITES
            reference = event.get("objectRef", {})
            if mine and event.get("stage") == "ResponseComplete" and reference.get("resource") != "leases":
                found.append(f"{event['verb']} {reference.get('resource')} {reference.get('name')}")
    return found
