"""A `sartor-runner` of the tests' own, in a cluster's network namespace."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from sartor_devcluster import DevCluster
from sartor_runner.host import containers
from sartor_runner.host.directories import PodDirectory, pod_uids

SOURCE = Path(__file__).parents[2] / "runners" / "src"
IMAGE = "sartor.test/python:1"
READY_SECONDS = 40.0


def wait_for(what: str, check: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer of `check`. Raises `AssertionError` naming `what` when there is none in time."""
    until = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


class RunnerProcess:
    """`start` and `kill` as often as wanted; `close` leaves nothing behind, whatever happened before."""

    def __init__(
        self,
        cluster: DevCluster,
        folder: Path,
        name: str,
        address: str,
        changes: Mapping[str, Mapping[str, Any]],
        environments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.cluster, self.folder, self.name = cluster, folder, name
        self.state = folder / "state"
        self.log = folder / "runner.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        node = {"name": name, "platform": "metal", "address": address, "capacity": {"sartor.dev/metal": "1"}}
        content: dict[str, Any] = {
            "directory": str(self.state),
            "node": node | dict(changes.get("node", {})),
            "api": {"bootstrap_kubeconfig": str(cluster.bootstrap_kubeconfig)},
            "kubelet_api": {"serving": "cluster"} | dict(changes.get("kubelet_api", {})),
            "host_paths": dict(changes.get("host_paths", {})),
            "logs": dict(changes.get("logs", {})),
            "environments": {
                "python": {"images": ["sartor.test/python:*"], "python": sys.prefix},
                "isolated": {"images": ["sartor.test/isolated:*"], "unshare_net": True},
                **(environments or {}),
            },
        }
        self.config = folder / "runner.toml"
        self.config.write_text(tomli_w.dumps(content), encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "RunnerProcess":
        """Returns once the node is there and ready."""
        command = [sys.executable, "-m", "sartor_runner", "run", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.cluster.enter(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(SOURCE), "SECRET_OF_THE_HOST": "must not be seen"},
            )
        before = self.log.read_text(encoding="utf-8").count("is ready at")
        wait_for("the runner", lambda: self._ready(before), READY_SECONDS)
        return self

    def _ready(self, before: int) -> bool:
        assert self._process is not None
        text = self.log.read_text(encoding="utf-8")
        assert self._process.poll() is None, f"the runner ended:\n{text[-3000:]}"
        return text.count("is ready at") > before

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Ends the runner; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def running(self) -> list[Path]:
        """Folders of the containers that live."""
        folders = [folder for uid in pod_uids(self.state) for _, _, folder in PodDirectory(self.state, uid).attempts()]
        return [folder for folder in folders if containers.lives(folder)]

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill(signal.SIGTERM)
        until = time.monotonic() + 20
        while living := self.running():
            for folder in living:
                containers.kill(folder)
            assert time.monotonic() < until, f"containers that cannot be killed: {living}"
            time.sleep(0.1)


def pod_manifest(name: str, command: list[str], *, node: str, **spec: Any) -> dict[str, Any]:
    """A pod for one node; what is not given is as short as can be."""
    container = {"name": "main", "image": IMAGE, "command": command, **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            **spec,
        },
    }


class Pods:
    """Pods of one test, removed at its end."""

    def __init__(self, cluster: DevCluster, runner: RunnerProcess) -> None:
        self.cluster, self.runner, self._names = cluster, runner, list[str]()

    def create(self, name: str, command: list[str], **spec: Any) -> str:
        manifest = pod_manifest(name, command, node=self.runner.name, **spec)
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest), check=True)
        self._names.append(name)
        return name

    def get(self, name: str) -> dict[str, Any]:
        found = self.cluster.kubectl("get", "pod", name, "-o", "json")
        return json.loads(found.stdout) if found.returncode == 0 else {}

    def phase(self, name: str, phase: str, seconds: float = 30) -> dict[str, Any]:
        """The pod, once it is in this phase."""

        def check() -> dict[str, Any] | None:
            pod = self.get(name)
            return pod if pod.get("status", {}).get("phase") == phase else None

        return wait_for(f"{name} {phase}", check, seconds)

    def ready(self, name: str, seconds: float = 30) -> dict[str, Any]:
        def check() -> dict[str, Any] | None:
            pod = self.get(name)
            conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", ())}
            return pod if conditions.get("Ready") == "True" else None

        try:
            return wait_for(f"{name} ready", check, seconds)
        except AssertionError as error:
            pod = self.get(name)
            error.add_note(f"on {pod.get('spec', {}).get('nodeName', 'no node')}: {json.dumps(pod.get('status'))}")
            error.add_note(f"the runner:\n{self.runner.log.read_text(encoding='utf-8')[-3000:]}")
            raise

    def folder(self, name: str, attempt: int = 0) -> Path:
        directory = PodDirectory(self.runner.state, self.get(name)["metadata"]["uid"])
        return directory.attempt("main", attempt)

    def remove(self) -> None:
        if self._names:
            self.cluster.kubectl("delete", "pod", *self._names, "--ignore-not-found", "--grace-period=1", timeout=60)
