"""A node is lost while it implements and while it measures: the step is repeated elsewhere, and nobody is blamed for it.

The controllers are the real ones: they mark the node, evict its pods and collect what it left. In a cluster of its own
they do it within seconds.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_support import STEPS, Gate, Scene, scene
from operator_support import Kubelet, apply, wait_for
from scripted_kubelet import NODE

from sartor_api.search.records import FailureClass
from sartor_devcluster import DevCluster
from sartor_operator.kinds import TARGET

POOL = {"test.sartor.dev/pool": "lost"}
LIVES = {"implements": STEPS[2], "measures": STEPS[4]}


def target(cluster: DevCluster, name: str, labels: dict[str, str]) -> None:
    spec = {"platform": "cpu", "nodeSelector": labels, "agentNodeSelector": labels}
    apply(cluster, {"apiVersion": TARGET.api_version, "kind": TARGET.kind, "metadata": {"name": name}, "spec": spec})


def blamed_nobody(life: Scene, reasons: set[str]) -> None:
    """Every life lost pods, and has all its rounds."""
    for name, step in LIVES.items():
        records = life.records(name)
        failed = [r for r in records if r.failure]
        assert failed and failed[0].id == step, (name, [r.id for r in failed])
        for record in failed:
            assert record.failure is not None
            assert record.failure.failure_class is FailureClass.INFRASTRUCTURE, record
            assert record.failure.reason in reasons, record.failure
        kept = [r.id.rpartition("/")[0] for r in records if not r.failure]
        assert kept == [step.rpartition("/")[0] for step in STEPS], name


def test_a_node_that_is_drained_costs_no_attempt(cluster: DevCluster, tmp_path: Path) -> None:
    """A NoExecute taint: the taint manager evicts, the node's kubelet ends the pods, and they come back to it later."""
    node = f"drained-{os.getpid()}"
    labels = {"kubernetes.io/hostname": node}
    gate = Gate(dict(LIVES))
    with (
        Kubelet(
            cluster.kubeconfig, None, node=node, alone=True, script=gate.script, delivered=gate.delivered
        ) as kubelet,
        scene(cluster, tmp_path, kubelet=kubelet) as life,
    ):
        target(cluster, "drained", labels)
        try:
            life.begin(*LIVES, hardware={"targetRef": {"name": "drained"}})
            for name, step in LIVES.items():
                life.at(name, step)
            cluster.kubectl("taint", "node", node, "test.sartor.dev/drain=now:NoExecute", check=True)
            for name, step in LIVES.items():
                wait_for(f"{name}: {step} is lost", lambda n=name: any(r.failure for r in life.records(n)))
            gate.held.clear()
            cluster.kubectl("taint", "node", node, "test.sartor.dev/drain-", check=True)
            life.serving()
            blamed_nobody(life, {"PodDisrupted", "BaselineLost", "CandidatePodLost", "BaselineNotReady"})
        finally:
            cluster.kubectl("delete", "hwt/drained", f"node/{node}", check=True)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster that gives a silent node up after seconds, as others do after minutes."""
    arguments = {
        "kube-controller-manager": ["--node-monitor-grace-period=8s", "--node-monitor-period=1s"],
        "kube-apiserver": [
            "--default-not-ready-toleration-seconds=1",
            "--default-unreachable-toleration-seconds=1",
        ],
    }
    root = tmp_path_factory.mktemp("impatient")
    name = f"nodes-{os.getpid()}"
    with DevCluster.up(name, root=root, lifeline=True, extra_arguments=arguments, say=print) as running:
        yield running


def lost(cluster: DevCluster, folder: Path, *, delete: bool) -> None:
    """The node falls silent in the middle (and is deleted, as a cloud does); another one takes its place."""
    gate = Gate(dict(LIVES))

    def kubelet(node: str) -> Kubelet:
        return Kubelet(
            cluster.kubeconfig, None, node=node, alone=True, beat=2.0, script=gate.script, delivered=gate.delivered
        )

    with kubelet("first") as first, scene(cluster, folder, kubelet=first) as life:
        cluster.kubectl("label", "node", "first", *(f"{k}={v}" for k, v in POOL.items()), check=True)
        target(cluster, "pool", POOL)
        life.begin(*LIVES, hardware={"targetRef": {"name": "pool"}})
        for name, step in LIVES.items():
            life.at(name, step)
        first.lose()
        gate.held.clear()
        with kubelet("second"):
            cluster.kubectl("label", "node", "second", *(f"{k}={v}" for k, v in POOL.items()), check=True)
            if delete:
                life.api.delete(NODE, None, "first")
            else:
                wait_for("the node is given up", lambda: not ready(life), 60, every=0.5)
            life.serving(280)
            blamed_nobody(life, {"PodDisrupted", "PodLost", "BaselineLost", "CandidatePodLost", "BaselineNotReady"})
    for node in ("first", "second"):
        cluster.kubectl("delete", "node", node, "--ignore-not-found", check=True)


def ready(life: Scene) -> bool:
    found = life.api.get(NODE, None, "first")
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@pytest.mark.exhaustive
def test_a_node_that_falls_silent_costs_no_attempt(impatient: DevCluster, tmp_path: Path) -> None:
    lost(impatient, tmp_path, delete=False)


@pytest.mark.exhaustive
def test_a_node_that_is_deleted_costs_no_attempt(impatient: DevCluster, tmp_path: Path) -> None:
    lost(impatient, tmp_path, delete=True)
