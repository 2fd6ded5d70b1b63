"""Both arms of a rollout as Deployments, each on a node of its own that a `sartor-runner` registered; and how one is lost.

Nothing is played: the scheduler binds the pods, the runners run `rollout_engine.py` in their sandboxes, the endpoints are
those of Kubernetes' own controllers, and it is the node controller that notices when a node is silent.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults_support import Api
from operator_support import apply, wait_for
from rollout_gateway_parts import BASELINE, CANDIDATE, PORT, Came
from rollout_gateway_support import Arms
from runner_support import IMAGE, RunnerProcess

from sartor_devcluster import DevCluster
from sartor_operator.kinds import ENDPOINT_SLICE, POD, Manifest

HERE = Path(__file__).parent
SILENCE = """
table ip %(table)s {
  chain input {
    type filter hook input priority -10;
    ip saddr %(range)s drop
    ip daddr %(range)s drop
  }
}
"""
ADDRESSES = {BASELINE: "10.240.0.21", CANDIDATE: "10.240.0.22"}


class Node:
    """A runner, and everything that it runs."""

    def __init__(self, cluster: DevCluster, folder: Path, name: str, address: str) -> None:
        self.name, self._cluster, self._silent = name, cluster, False
        self.journal = folder / "journal"
        self.journal.mkdir(parents=True)
        self.journal.chmod(0o777)  # pods have users of their own
        paths = {"readable": [str(HERE)], "writable": [str(self.journal)]}
        self.runner = RunnerProcess(cluster, folder, name, address, {"host_paths": paths})

    def lose(self, *, silent: bool = False) -> float:
        """SIGKILL to the runner and to all that it runs, in one go: nobody is told. When that was done (Unix seconds).

        `silent`: its pods' addresses say nothing either, as those of a machine without power; else connections are refused.
        """
        children = _children()
        supervisors = [pid for pid in _commanded(str(self.runner.state)) if pid != self.runner.pid]
        family = [self.runner.pid, *supervisors]
        for (
            pid
        ) in family:  # grows: the runner first, which could still tell, then supervisors, then what is in the sandboxes
            family += [child for child in children[pid] if child not in family]
        if silent:
            self._nft(SILENCE % {"table": self._table, "range": self._pods()})
            self._silent = True
        assert len(supervisors) >= 1 and len(family) >= 3, f"nothing runs on {self.name}: {family}"
        for pid in family:
            with contextlib.suppress(ProcessLookupError):  # a sandbox goes with its first process
                os.kill(pid, signal.SIGKILL)
        lost = time.time()
        self.runner.kill()
        wait_for(f"the end of what runs on {self.name}", lambda: not self.runner.running(), 5)
        return lost

    def come_back(self) -> float:
        """The same node starts again, as a machine does that was switched off. When it was ready (Unix seconds)."""
        self._speak()
        self.runner.start()
        return time.time()

    def close(self) -> None:
        """Nothing of it is left."""
        self._speak()
        self.runner.close()
        self._cluster.kubectl("delete", "node", self.name, "--ignore-not-found", check=True)

    def _speak(self) -> None:
        if self._silent:
            self._nft(f"delete table ip {self._table}")
            self._silent = False

    @property
    def _table(self) -> str:
        return f"silent_{self.name}".replace("-", "_")

    def _pods(self) -> str:
        return self._cluster.kubectl("get", "node", self.name, "-o", "jsonpath={.spec.podCIDR}", check=True).stdout

    def _nft(self, rules: str) -> None:
        subprocess.run(self._cluster.enter(["nft", "-f", "-"]), input=rules, text=True, timeout=30, check=True)

    def ready(self) -> bool:
        """As the API server has it."""
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        return self._cluster.kubectl("get", "node", self.name, "-o", path, check=True).stdout == "True"


def _children() -> "defaultdict[int, list[int]]":
    """Of each process of this machine."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            found[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
    return found


def _commanded(word: str) -> list[int]:
    """Processes with this in their command line."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class PodEngine:
    """The engine in the one pod of a Deployment, in all its lives."""

    api: Api
    namespace: str
    name: str
    node: Node

    ended = False

    def requests(self) -> list[Came]:
        """All that came, in order."""
        lines = (self.node.journal / self.name).read_text(encoding="utf-8").splitlines()
        return [Came(*json.loads(line)) for line in lines]

    def pod(self) -> Manifest:
        (found,) = self.api.all(POD, self.namespace, {"app": self.name})
        return found

    def restarts(self) -> int:
        (container,) = self.pod()["status"]["containerStatuses"]
        return container["restartCount"]

    def ready(self) -> bool:
        """Whether its Service has an endpoint that takes requests, as the controller of endpoints has it."""
        slices = self.api.all(ENDPOINT_SLICE, self.namespace, {"kubernetes.io/service-name": self.name})
        return any(end["conditions"].get("ready") for one in slices for end in one.get("endpoints") or ())

    def wait_ready(self, *, there: bool, seconds: float) -> float:
        """Until its endpoint is ready or not; when that was seen (Unix seconds)."""
        words = "is ready" if there else "is not ready any more"
        wait_for(f"the endpoint of {self.name} {words}", lambda: self.ready() is there, seconds, every=0.05)
        return time.time()


@contextlib.contextmanager
def nodes(cluster: DevCluster, folder: Path) -> Generator[dict[str, Node]]:
    """A node for each arm; none of them is left."""
    made = {name: Node(cluster, folder / f"node-{name}", f"node-{name}", at) for name, at in ADDRESSES.items()}
    try:
        for node in made.values():
            node.runner.start()
        yield made
    finally:
        for node in made.values():
            node.close()


def on(places: dict[str, Node]) -> Arms[PodEngine]:
    """Each arm on its node."""
    return functools.partial(_pods, places)


@contextlib.contextmanager
def _pods(
    places: dict[str, Node], cluster: DevCluster, api: Api, namespace: str
) -> Generator[tuple[PodEngine, PodEngine]]:
    arms = [PodEngine(api, namespace, name, places[name]) for name in (BASELINE, CANDIDATE)]
    for arm in arms:
        apply(cluster, *_manifests(namespace, arm.name, arm.node))
    for arm in arms:
        arm.wait_ready(there=True, seconds=60)
    yield arms[0], arms[1]


def _manifests(namespace: str, name: str, node: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    """Deployment and Service as anybody writes them. The pod tolerates the taint that all runners have, and of a lost node
    what every pod does."""
    meta, labels = {"name": name, "namespace": namespace}, {"app": name}
    container = {
        "name": "engine",
        "image": IMAGE,
        "command": ["python3", "/tests/rollout_engine.py", "$(POD_IP)", str(PORT), name, f"/journal/{name}"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "tests", "mountPath": "/tests", "readOnly": True},
            {"name": "journal", "mountPath": "/journal"},
        ],
    }
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": node.name},
        "tolerations": [{"key": "sartor.dev/runner", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [
            {"name": "tests", "hostPath": {"path": str(HERE)}},
            {"name": "journal", "hostPath": {"path": str(node.journal)}},
        ],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    service = {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}
    return (
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
    )
