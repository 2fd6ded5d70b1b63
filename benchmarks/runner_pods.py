"""How fast a runner brings up 50 pods, and what it takes itself.

A real control plane (`tools/devcluster`), one runner, and 50 pods of one Deployment, each a process with an HTTP readiness
probe every second. Seconds are from the request that makes the Deployment to the moment the API says that all 50 are
Ready; memory is the runner's own resident set, the largest that was seen from then until the pods are gone.

    python -m benchmarks.runner_pods [--pods 50] [--rounds 3]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import tomli_w

from benchmarks.support.record import Bench, median_row
from sartor_devcluster import DevCluster
from sartor_runner.host import containers
from sartor_runner.host.directories import PodDirectory, pod_uids

TARGET_SECONDS, TARGET_MB = 15.0, 80.0
NODE, ADDRESS, IMAGE = "bench", "10.240.0.20", "sartor.test/python:1"
SERVER = (
    "import os, socket\n"
    "s = socket.create_server((os.environ['POD_IP'], 8080), backlog=16)\n"
    "while True:\n"
    "    c, _ = s.accept()\n"
    "    c.recv(4096)\n"
    "    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n')\n"
    "    c.close()\n"
)


def deployment(pods: int) -> str:
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python3", "-I", "-S", "-c", SERVER],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    spec = {
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }
    labels = {"app": "bench"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": pods, "selector": {"matchLabels": labels}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"}, "spec": body})


class Peak:
    """The largest resident set of a process while this is entered, megabytes."""

    def __init__(self, process: psutil.Process) -> None:
        self.megabytes = 0.0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            self.megabytes = max(self.megabytes, self._process.memory_info().rss / 1e6)


def one_round(cluster: DevCluster, runner: psutil.Process, pods: int) -> tuple[float, float]:
    """(seconds until all are ready, largest resident megabytes of the runner). One `kubectl` watches, as polling by many
    would take the processor from what is measured."""
    with Peak(runner) as peak:
        begun = time.monotonic()
        cluster.kubectl("apply", "-f", "-", input=deployment(pods), check=True)
        cluster.kubectl("rollout", "status", "deployment/bench", "--timeout=120s", check=True, timeout=130)
        seconds = time.monotonic() - begun
        time.sleep(5)  # steady, with probes every second
        cluster.kubectl("delete", "deployment", "bench", "--cascade=foreground", check=True, timeout=120)
    return seconds, peak.megabytes


def clean_up(state: Path) -> None:
    """Nothing stays behind, whatever happened."""
    folders = [folder for uid in pod_uids(state) for _, _, folder in PodDirectory(state, uid).attempts()]
    while living := [folder for folder in folders if containers.lives(folder)]:
        for folder in living:
            containers.kill(folder)
        time.sleep(0.1)


def bench(record: Bench, folder: Path, pods: int, rounds: int) -> None:
    state, config = folder / "state", folder / "runner.toml"
    with DevCluster.up("bench-runner", root=folder / "clusters", lifeline=True) as cluster:
        content = {
            "directory": str(state),
            "node": {
                "name": NODE,
                "platform": "cpu",
                "address": ADDRESS,
                "reserved": {},
                "max_pods": pods + 10,
                "cluster_dns": list(cluster.cluster_dns()),
            },
            "api": {"bootstrap_kubeconfig": str(cluster.bootstrap_kubeconfig)},
            "kubelet_api": {"serving": "cluster"},
            "environments": {"python": {"images": ["sartor.test/python:*"], "python": sys.prefix}},
        }
        config.write_text(tomli_w.dumps(content), encoding="utf-8")
        command = [sys.executable, "-m", "sartor_runner", "run", "--config", str(config)]
        with (folder / "runner.log").open("wb") as log:
            process = subprocess.Popen(cluster.enter(command), stdout=log, stderr=log, env=dict(os.environ))
        try:
            while b"is ready at" not in (folder / "runner.log").read_bytes():
                if process.poll() is not None:
                    raise SystemExit((folder / "runner.log").read_text(encoding="utf-8"))
                time.sleep(0.1)
            runner = psutil.Process(process.pid)
            found = [one_round(cluster, runner, pods) for _ in range(rounds)]
        finally:
            process.terminate()
            process.wait(30)
            clean_up(state)
    seconds, megabytes = [s for s, _ in found], [m for _, m in found]
    record.add(
        median_row(f"cluster/runner/{pods}-pods/ready", "s", "lower", seconds, TARGET_SECONDS, "apply to all Ready"),
        median_row(
            f"cluster/runner/{pods}-pods/rss", "MB", "lower", megabytes, TARGET_MB, "of the runner, without supervisors"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(Bench("runner_pods", "cluster"), Path(folder), options.pods, options.rounds)


if __name__ == "__main__":
    main()
