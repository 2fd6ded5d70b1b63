"""The demonstration's node: a `sartor-runner` on this machine, with environments in place of images.

A container image holds files; here an image's name stands for a view of this checkout's virtual environment. Who sees what
is as in the images: stacks get Python, its libraries and a compiler, and none of Sartor's code.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from sartor_agents.baselines.environment import VllmEnvironment
from sartor_demo.errors import DemoError
from sartor_devcluster import DevCluster

ROOT = Path(__file__).resolve().parents[4]
NODE = "this-machine"
ADDRESS = "10.240.1.1"
READY_SECONDS = 60.0
STOP_SECONDS = 60.0
SYSTEM_PATH = ["/usr/local/bin", "/usr/bin", "/bin"]
BRAKE_FILE = "slow"
_SLOW, _BRAKE = "/demo/slow.py", "/demo/brake"
SLOW_COMMAND = f"python3 {_SLOW} {_BRAKE}/{BRAKE_FILE} python3 -m stack"
"""How a stack is started that can be made slow (`slow.py`)."""


def sources(*packages: str) -> list[str]:
    """Folders of this checkout that hold the packages' code: the virtual environment only points at them."""
    return [str(ROOT / package) for package in packages]


def environments(cache: Path, vllm: VllmEnvironment | None, brake: Path | None = None) -> dict[str, dict[str, Any]]:
    """What each image's name stands for. Without vLLM the baseline's image is that of the agents.

    `brake`: the folder with the file that makes a stack slow; only the demonstration of a rollback has one.
    """
    checkpoints = [str(cache / "checkpoints")]
    agents: dict[str, Any] = {
        "python": sys.prefix,
        "binds": [*sources("crds/src", "agents/src", "skills", "requirements"), *checkpoints],
        "environment": {"SARTOR_CACHE": str(cache)},
    }
    # What looks on must not take the cores of what is measured.
    one_thread = {"environment": {**agents["environment"], "OMP_NUM_THREADS": "1"}}
    found: dict[str, dict[str, Any]] = {
        "stack": {"images": ["sartor-stack:*"], "python": sys.prefix, **_braked(brake)},
        "operator": {
            "images": ["sartor-operator:*"],
            "python": sys.prefix,
            "binds": sources("crds/src", "operator/src"),
        },
        "repository": {
            "images": ["sartor-repository:*"],
            "python": sys.prefix,
            "binds": sources("crds/src", "repository/src"),
        },
        "agents": {"images": ["sartor-agent:*", "sartor-evaluator:*"], **agents, **one_thread},
        "baseline": {"images": ["sartor-baseline:*"], **agents},
    }
    if vllm is not None:
        prefix = str(vllm.python.parents[1])
        found["baseline"] |= {
            "python": prefix,
            "binds": [*agents["binds"], sys.prefix],
            "path": [f"{sys.prefix}/bin", *SYSTEM_PATH],  # `sartor-role`; python3 stays vLLM's
            "environment": {**agents["environment"], "SARTOR_VLLM": prefix},
        }
    return found


def _braked(brake: Path | None) -> dict[str, Any]:
    if brake is None:
        return {}
    return {"binds": [f"{Path(__file__).with_name('slow.py')}:{_SLOW}", f"{brake}:{_BRAKE}"]}


@dataclass(frozen=True)
class Node:
    """The runner of one cluster. Its files lie in `folder`; it outlives the process that started it."""

    cluster: DevCluster
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "runner.log"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "runner.pid"

    def configure(self, found: dict[str, dict[str, Any]], writable: Path, readable: Sequence[Path] = ()) -> Path:
        """Write the configuration; its path. `writable`, `readable`: folders that pods may mount from this machine."""
        content: dict[str, Any] = {
            "directory": str(self.folder / "state"),
            "node": {
                "name": NODE,
                "platform": "cpu",
                "address": ADDRESS,
                "cluster_dns": list(self.cluster.cluster_dns()),
                "shutdown": "stop",
            },
            "api": {"bootstrap_kubeconfig": str(self.cluster.bootstrap_kubeconfig)},
            "kubelet_api": {"serving": "cluster"},
            "host_paths": {"writable": [str(writable)], "readable": [str(path) for path in readable]},
            "sandbox": {"pod_users": "200000-200000"},
            "environments": found,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "runner.toml"
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
        return path

    def start(self, configuration: Path) -> None:
        """Until the node is ready; does nothing where it runs. Raises `DemoError`."""
        if self.running() is not None:
            return
        command = [sys.executable, "-m", "sartor_runner", "run", "--config", str(configuration)]
        self.log.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.cluster.enter(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file.write_text(f"{process.pid} {_started(process.pid)}\n", encoding="ascii")
        self._until("the node was not ready", lambda: "is ready at" in self._said(), READY_SECONDS, process)

    def stop(self) -> None:
        """Ends the pods and the runner. Raises `DemoError` when it does not end."""
        pid = self.running()
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        self._until("the runner did not end", lambda: self.running() is None, STOP_SECONDS)

    def running(self) -> int | None:
        """The runner's process id while it lives."""
        try:
            pid, started = self._pid_file.read_text(encoding="ascii").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started else None

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def _until(
        self, what: str, check: Callable[[], bool], seconds: float, process: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                tail = "\n".join(self._said().splitlines()[-5:])
                raise DemoError(f"{what}; the end of {self.log}:\n{tail}")
            time.sleep(0.1)


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty for one that ended. Tells it from a later one of its id."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
