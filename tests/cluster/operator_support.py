"""What the operator's tests on a real API server share: the process, objects by kubectl, a repository of stacks.

Pods are real and are bound by the real scheduler; `scripted_kubelet` plays the node.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from sartor_agents.run.servers import free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "operator"))

from operator_world import Ends, commit_of, files_of
from scripted_kubelet import Kubelet, Outsider, Script

from sartor_devcluster import Cluster
from sartor_operator.pods.archive import archive

__all__ = [
    "Ends",
    "Kubelet",
    "OperatorProcess",
    "Outsider",
    "Script",
    "apply",
    "get",
    "items",
    "prepare",
    "repository",
    "still",
    "synthesis",
    "wait_for",
    "writes_in",
]

ROOT = Path(__file__).parents[2]
WRITES = ("create", "update", "patch", "delete")
T = TypeVar("T")


def wait_for(what: str, look: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true result; fails, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not seen in {seconds:.0f} s")
        time.sleep(every)
    return found


def still(what: str, look: Callable[[], T], quiet: float, seconds: float = 60.0) -> T:
    """What `look` gives once that has been the same for `quiet` seconds; fails, naming `what`, after `seconds`."""
    last, since = look(), time.monotonic()

    def settled() -> bool:
        nonlocal last, since
        if (now := look()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= quiet

    wait_for(what, settled, seconds, every=0.2)
    return last


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
    cluster.define(ROOT / "crds" / "manifests")
    apply(cluster, TARGET)


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
        self.port = free_port()
        scope = ["--all-namespaces"] if namespace is None else ["--namespace", namespace]
        self.command = [
            sys.executable, "-m", "sartor_operator", "run", "--kubeconfig", str(kubeconfig), *scope,
            "--lease-namespace", namespace or "default", "--lease-seconds", "15", "--metrics-port", str(self.port),
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
