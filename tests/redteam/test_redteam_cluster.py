"""Cheats as pods, the whole way of a synthesis in a cluster: the implementer's skills have the cheat in them, and everything
else is as it is installed.

Planner, implementer, judge and candidate are Jobs and Pods of a real Kubernetes on a `sartor-runner` node; what the
candidate tried is read from its log, what became of it from its `ServingCandidate`.
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redteam_stacks import ALWAYS, CHEATS, MAIN

from sartor_agents.checkpoints import SyntheticSource, resolve
from sartor_agents.run.model import cache_folder
from sartor_demo.cli import MANIFESTS, load
from sartor_demo.installing import apply, install
from sartor_demo.node import ROOT, Node, environments
from sartor_devcluster import DevCluster

pytestmark = [pytest.mark.cluster, pytest.mark.exhaustive, pytest.mark.slow, pytest.mark.timeout(1500)]

PLANTED: dict[str, tuple[tuple[str, ...], str]] = {
    "attacks": (("keeps_on_disk", "attacks_on_import", "reads_sealed_data", "tampers"), "OutputDiverged"),
    "handover": (("handover",), "HandedOver"),
}
"""Cheats of one candidate (the last one answers), and the reason that its ServingCandidate must give."""

END_SECONDS = 900


def planted_skills(names: tuple[str, ...], folder: Path) -> Path:
    """The skills of this checkout, with cheats in the block that starts a stack."""
    shutil.copytree(ROOT / "skills", folder, ignore=shutil.ignore_patterns("__pycache__"))
    core = folder / "serving-core"
    modules = [*ALWAYS, *names]
    for name in modules:
        shutil.copy(CHEATS / f"{name}.py", core / "blocks")
    (core / "blocks" / "plant.py").write_text('"""Whether the cheats are on."""\n\nON = True\n')
    imports = ", ".join(names)
    calls = "".join(f"    {name}.install()\n" for name in names)
    cheat = f'"""What was planted."""\n\nfrom . import {imports}\n\n\ndef install() -> None:\n{calls}'
    (core / "blocks" / "cheat.py").write_text(cheat)
    (core / "blocks" / "__main__.py").write_text(MAIN)
    recipe = core / "recipe.toml"
    added = "".join(f'    "{name}.py",\n' for name in (*modules, "plant", "cheat"))
    text = recipe.read_text().replace("blocks = [\n", f"blocks = [\n{added}", 1)
    assert added in text
    recipe.write_text(text)
    return folder


@pytest.fixture(scope="module")
def planted() -> Iterator[Path]:
    """A folder that the pods' user can read, which pytest's are not."""
    with TemporaryDirectory(prefix="redteam-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def cluster(planted: Path) -> Iterator[DevCluster]:
    folder, cache = planted, cache_folder()
    resolve(SyntheticSource("chain", "llama", "tiny", 0, "bfloat16"))
    found = environments(cache, None)
    targets: list[dict[str, Any]] = []
    for name, (cheats, _) in PLANTED.items():
        skills = planted_skills(cheats, folder / name)
        binds = [
            f"{skills}:{ROOT / 'skills'}" if bind == str(ROOT / "skills") else bind for bind in found["agents"]["binds"]
        ]
        image = f"sartor-agent-{name}"
        found[image] = {**found["agents"], "images": [f"{image}:*"], "binds": binds}
        target = load(MANIFESTS / "hardware.yaml")
        target["metadata"]["name"] = f"redteam-{name}"
        target["spec"]["images"] = {"agent": f"{image}:1"}
        targets.append(target)
    up = DevCluster.up("redteam", lifeline=True)
    node = Node(up, up.layout.folder / "node")
    try:
        writable = folder / "engine-cache"
        writable.mkdir()
        node.start(node.configure(found, writable))
        install(up, access_log=None, stack_command=None)
        apply(up, targets)
        yield up
    finally:
        node.stop()
        up.down()


def synthesis(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "sartor.dev/v1alpha1",
        "kind": "ServingSynthesis",
        "metadata": {"name": name, "namespace": f"redteam-{name}"},
        "spec": {
            "model": {"source": {"synthetic": {"kind": "chain", "architecture": "llama", "size": "tiny"}}},
            "workload": {
                "scenario": "code-edit",
                "parameters": {"fileTokens": 48, "matchRates": [95]},
                "envelope": {"maxInputTokens": 512, "maxOutputTokens": 256, "maxConcurrency": 4},
            },
            "hardware": {"targetRef": {"name": f"redteam-{name}"}},
            "correctness": {"samples": 4},
            "baseline": {"engine": "transformers", "tuning": "none"},
            "measurement": {"preset": "quick"},
            "budget": {"rounds": 1, "wallClock": "20m"},
        },
    }


class Said:
    """Logs of candidates' pods, collected while they live: they are gone with their step."""

    def __init__(self, cluster: DevCluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._logs: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    def _collect(self) -> None:
        while not self._over.wait(1.0):
            pods = self._cluster.kubectl(
                "-n", self._namespace, "get", "pods", "-l", "sartor.dev/role=candidate", "-o", "name"
            )
            for pod in pods.stdout.split():
                log = self._cluster.kubectl("-n", self._namespace, "logs", pod, "--all-containers")
                if len(log.stdout) > len(self._logs.get(pod, "")):
                    self._logs[pod] = log.stdout

    @property
    def attempts(self) -> list[str]:
        return [line for log in self._logs.values() for line in log.splitlines() if line.startswith("ATTEMPT ")]

    def __enter__(self) -> "Said":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.mark.parametrize("name", list(PLANTED))
def test_a_cheat_is_rejected_in_a_cluster_by_the_same_reason(cluster: DevCluster, name: str) -> None:
    namespace = f"redteam-{name}"
    apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])
    with Said(cluster, namespace) as said:
        apply(cluster, [synthesis(name)])
        candidate = rejected(cluster, namespace)
    reasons = {verdict["reason"] for verdict in candidate["status"]["verdicts"] if not verdict["passed"]}
    assert PLANTED[name][1] in reasons, candidate["status"]
    assert [line for line in said.attempts if line.endswith(": DONE")] == []
    if name == "attacks":
        assert len(said.attempts) > 15, said.attempts
    run = json.loads(cluster.kubectl("-n", namespace, "get", "ssyn", name, "-o", "json", check=True).stdout)
    assert "best" not in run["status"]


def rejected(cluster: DevCluster, namespace: str) -> dict[str, Any]:
    """The first candidate that a gate has spoken of."""
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        found = json.loads(cluster.kubectl("-n", namespace, "get", "scand", "-o", "json", check=True).stdout)["items"]
        judged = [c for c in found if any(not v["passed"] for v in c.get("status", {}).get("verdicts", ()))]
        if judged:
            return judged[0]
        time.sleep(2)
    shown = cluster.kubectl("-n", namespace, "get", "ssyn,srun,scand,pods", "-o", "wide").stdout
    raise AssertionError(f"no candidate was rejected within {END_SECONDS} s:\n{shown}")
