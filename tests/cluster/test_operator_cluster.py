"""The operator as a process against a real API server, controllers and scheduler. Pods are ended by a scripted kubelet."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_support import (
    Ends,
    Kubelet,
    OperatorProcess,
    apply,
    get,
    items,
    prepare,
    repository,
    still,
    synthesis,
    wait_for,
    writes_in,
)

from sartor_api.search.records import FailureClass, StepKind
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.run.observe import RECORD_KEY
from sartor_operator.wire import StepBegin, StoredRecord

STEPS = [
    "000/baseline/1/1",
    "001/plan/1/1",
    "001/implement/1/1",
    "001/judge/1/1",
    "001/evaluate/1/1",
    "000/confirm/1/1",
]


@pytest.fixture(scope="module")
def prepared(cluster: DevCluster) -> DevCluster:
    prepare(cluster)
    return cluster


@pytest.fixture(scope="module")
def stacks() -> Iterator[str]:
    with repository() as address:
        yield address


@pytest.fixture
def namespace(prepared: DevCluster) -> Iterator[str]:
    name = f"op-{uuid.uuid4().hex[:8]}"
    prepared.kubectl("create", "namespace", name, check=True)
    yield name
    prepared.kubectl("delete", "namespace", name, "--wait=false", check=True)


@pytest.fixture
def operator(prepared: DevCluster, namespace: str, stacks: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """Without a lease: no second process could ever run, and nobody would start one anew that could not renew in time."""
    process = OperatorProcess(prepared.kubeconfig, namespace, stacks, tmp_path / "operator.log", "--lease-seconds", "0")
    with process:
        wait_for("the operator leads", process.leading)
        yield process
        assert process.alive, process.log.read_text()[-3000:]
    log = process.log.read_text()
    assert "defect" not in log, log[-3000:]


def phase(cluster: DevCluster, namespace: str, name: str = "editor") -> str:
    found = get(cluster, "ssyn", name, "-n", namespace)
    return str(((found or {}).get("status") or {}).get("phase"))


def serving(cluster: DevCluster, namespace: str) -> None:
    wait_for("Serving", lambda: phase(cluster, namespace) == "Serving", 180, every=0.3)


def records(cluster: DevCluster, namespace: str) -> list[StoredRecord]:
    maps = items(cluster, "configmaps", namespace, "-l", f"{names.PART_LABEL}={names.RECORD}")
    found = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]) for m in maps]
    return sorted(found, key=lambda s: s.record.sequence)


def test_from_apply_to_two_ready_deployments(prepared: DevCluster, namespace: str, operator: OperatorProcess) -> None:
    with Kubelet(prepared.kubeconfig, namespace) as kubelet:
        apply(prepared, synthesis(namespace))
        serving(prepared, namespace)
        assert kubelet.started == STEPS
    deployments = items(prepared, "deployments", namespace)
    assert sorted(d["metadata"]["labels"][names.ROLE_LABEL] for d in deployments) == [
        "serving-baseline",
        "serving-stack",
    ]
    assert all(d["status"]["availableReplicas"] == 1 for d in deployments)
    ready = prepared.kubectl("wait", "--for=condition=Ready", "ssyn/editor", "-n", namespace, "--timeout=5s")
    assert ready.returncode == 0, ready.stderr
    shown = prepared.kubectl("get", "ssyn,srun,scand", "-n", namespace, check=True).stdout
    assert "1.40× (1.39–1.41, n=6)" in shown and "Serving" in shown and "Kept" in shown
    reasons = {e["reason"] for e in items(prepared, "events", namespace)}
    assert {"RunStarted", "BaselineMeasured", "Measured", "RunFinished", "Delivered"} <= reasons
    assert operator.metric("sartor_synthesis_phase") == 1
    assert operator.metric("sartor_run_rounds") == 0, "series of runs that ended are gone"


def test_nothing_is_written_for_an_unchanged_manifest(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    with Kubelet(prepared.kubeconfig, namespace):
        apply(prepared, synthesis(namespace))
        begun = prepared.audit_log.stat().st_size
        serving(prepared, namespace)
        still("nothing is written any more", lambda: mine(prepared, begun), quiet=3.0)
        since = prepared.audit_log.stat().st_size
        assert "unchanged" in apply(prepared, synthesis(namespace))
        prepared.kubectl("annotate", "ssyn", "editor", "-n", namespace, "a/b=c", check=True)
        time.sleep(3)
        assert mine(prepared, since) == []
        operator.kill()
        operator.start()
        wait_for("the operator leads again", operator.leading)
        time.sleep(3)
        assert mine(prepared, since) == []


def mine(cluster: DevCluster, since: int) -> list[str]:
    """Writes of an operator to what belongs to `editor`."""
    return [write for write in writes_in(cluster.audit_log, since) if "editor" in write]


def test_killed_again_and_again_it_does_every_step_once(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    with Kubelet(prepared.kubeconfig, namespace, seconds=0.5) as kubelet:
        apply(prepared, synthesis(namespace))
        for moment in range(5):
            wait_for("a step", lambda n=moment: len(kubelet.started) > n, 60)
            operator.kill()
            operator.start()
        serving(prepared, namespace)
        assert kubelet.started == STEPS
    assert [s.record.id for s in records(prepared, namespace)] == STEPS


BAD = [
    (Ends(message="rm -rf"), "RoleAnsweredGarbage", FailureClass.INFRASTRUCTURE),
    (Ends(message=""), "RoleGaveNothing", FailureClass.INFRASTRUCTURE),
    (Ends(code=137, reason="OOMKilled"), "RoleMemoryExceeded", FailureClass.INFRASTRUCTURE),
    (Ends(pod_reason="Evicted"), "PodEvicted", FailureClass.INFRASTRUCTURE),
    (Ends(disrupted=True), "PodDisrupted", FailureClass.INFRASTRUCTURE),
]


def test_bad_ends_of_role_pods_are_told_apart_and_cost_no_attempt(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    """Every step's first pods end badly, each in another way; the record says which, and the run goes on."""
    steps = list(StepKind)

    def bad(begin: StepBegin, _pod: dict[str, Any]) -> Ends | None:
        first = begin.id.endswith("/1")
        return BAD[steps.index(begin.step) % len(BAD)][0] if first else None

    with Kubelet(prepared.kubeconfig, namespace, script=bad):
        apply(prepared, synthesis(namespace))
        serving(prepared, namespace)
    failed = {s.record.step: s.record.failure for s in records(prepared, namespace) if s.record.failure}
    assert {step: (f.reason, f.failure_class) for step, f in failed.items()} == {
        step: BAD[number % len(BAD)][1:] for number, step in enumerate(steps)
    }
    assert [c["status"]["attempts"] for c in items(prepared, "scand", namespace)] == [1]


def test_a_crashing_candidate_is_its_own_fault_and_is_repaired(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    def first_crashes(pod: dict[str, Any]) -> str:
        first = pod["metadata"]["annotations"][names.STEP_ANNOTATION] == "001/judge/1/1"
        return "serve:1:Error" if first else "ready"

    with Kubelet(prepared.kubeconfig, namespace, server=first_crashes) as kubelet:
        apply(prepared, synthesis(namespace))
        serving(prepared, namespace)
        assert kubelet.started[3:5] == ["001/implement/2/1", "001/judge/2/1"]
    failed = [s.record for s in records(prepared, namespace) if s.record.failure]
    assert [(r.id, r.failure.reason) for r in failed if r.failure] == [("001/judge/1/1", "CandidateExited")]


@pytest.mark.parametrize("kind", ["job", "pod", "synthesisrun", "servingcandidate", "deployment", "secret"])
def test_deleting_objects_in_the_middle_loses_no_round(
    prepared: DevCluster, namespace: str, operator: OperatorProcess, kind: str
) -> None:
    with Kubelet(prepared.kubeconfig, namespace, seconds=0.3) as kubelet:
        apply(prepared, synthesis(namespace))
        wait_for("the judge", lambda: "001/judge/1/1" in kubelet.started, 60)
        prepared.kubectl("delete", kind, "--all", "-n", namespace, "--wait=false", check=True)
        serving(prepared, namespace)

    def kept() -> list[str]:
        return [s.record.id.rpartition("/")[0] for s in records(prepared, namespace) if s.record.failure is None]

    # What the records of a deleted run were goes when the garbage collector comes to it.
    wait_for("each round once", lambda: kept() == [step.rpartition("/")[0] for step in STEPS])


def test_deleting_the_synthesis_removes_everything(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    with Kubelet(prepared.kubeconfig, namespace):
        apply(prepared, synthesis(namespace))
        serving(prepared, namespace)
        prepared.kubectl("delete", "ssyn", "editor", "-n", namespace, check=True)

        def left() -> list[str]:
            kinds = "srun,scand,jobs,deployments,services,pods,secrets,configmaps"
            found = items(prepared, kinds, namespace)
            return [i["metadata"]["name"] for i in found if i["metadata"]["name"].startswith("editor")]

        wait_for("nothing left", lambda: not left(), 60, every=0.5)
        wait_for("no series left", lambda: operator.metric("sartor_synthesis_phase") == 0)


def test_restarts_of_the_api_server_lose_nothing(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    with Kubelet(prepared.kubeconfig, namespace, seconds=1.0) as kubelet:
        apply(prepared, synthesis(namespace))
        wait_for("the plan", lambda: "001/plan/1/1" in kubelet.started, 60)
        prepared.restart("kube-apiserver", kill=True)
        serving(prepared, namespace)
        assert kubelet.started == STEPS


def test_what_cannot_begin_says_what_to_change_and_begins_when_it_can(
    prepared: DevCluster, namespace: str, operator: OperatorProcess
) -> None:
    target = f"late-{namespace}"
    with Kubelet(prepared.kubeconfig, namespace):
        apply(prepared, synthesis(namespace, hardware={"targetRef": {"name": target}}))
        found = wait_for(
            "Stalled",
            lambda: (get(prepared, "ssyn", "editor", "-n", namespace).get("status") or {}).get("message"),
        )
        assert f"there is no HardwareTarget {target}" in found
        apply(
            prepared,
            {
                "apiVersion": "sartor.dev/v1alpha1",
                "kind": "HardwareTarget",
                "metadata": {"name": target},
                "spec": {"platform": "cpu"},
            },
        )
        serving(prepared, namespace)
    prepared.kubectl("delete", "hwt", target, check=True)


def test_a_second_process_waits_and_takes_over(
    prepared: DevCluster, namespace: str, stacks: str, tmp_path: Path
) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    first, second = (OperatorProcess(prepared.kubeconfig, namespace, stacks, log) for log in logs)
    with first:
        wait_for("the first one leads", first.leading)
        with second, Kubelet(prepared.kubeconfig, namespace, seconds=0.5) as kubelet:
            apply(prepared, synthesis(namespace))
            wait_for("a step", lambda: len(kubelet.started) > 1, 60)
            assert not second.leading()
            first.kill()
            serving(prepared, namespace)
            assert second.leading() and kubelet.started == STEPS
    assert not [log for log in logs if "defect" in log.read_text()]


def test_a_lost_lease_ends_the_process(prepared: DevCluster, namespace: str, stacks: str, tmp_path: Path) -> None:
    process = OperatorProcess(prepared.kubeconfig, namespace, stacks, tmp_path / "operator.log")
    with process:
        wait_for("the operator leads", process.leading)
        patch = json.dumps({"spec": {"holderIdentity": "somebody-else"}})
        arguments = ["patch", "lease", "sartor-operator", "-n", namespace, "--type=merge", "-p", patch]
        prepared.kubectl(*arguments, check=True)
        wait_for("the process ends", lambda: not process.alive, 60)
        assert process.process is not None and process.process.returncode == 3


def test_the_operator_works_with_the_rights_of_its_manifests(
    prepared: DevCluster, namespace: str, stacks: str, tmp_path: Path
) -> None:
    """The installed ClusterRole is enough: the process runs as its service account."""
    root = Path(__file__).parents[2] / "operator" / "manifests"
    for name in ("namespace", "service-account", "cluster-role", "role"):
        prepared.kubectl("apply", "-f", str(root / f"{name}.yaml"), check=True)
    kubeconfig = prepared.kubeconfig_for("system:serviceaccount:sartor-system:sartor-operator")
    process = OperatorProcess(kubeconfig, None, stacks, tmp_path / "operator.log", "--lease-namespace", "sartor-system")
    with process, Kubelet(prepared.kubeconfig, namespace):
        wait_for("the operator leads", process.leading)
        apply(prepared, synthesis(namespace))
        serving(prepared, namespace)
    log = process.log.read_text()
    assert "forbidden" not in log.lower(), log[-3000:]


def documents(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects that stand one behind the other; what was cut off at the end is left out."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            found, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield found
        at += len(text[at:]) - len(text[at:].lstrip())


def test_sealed_data_is_out_of_reach_of_agents_and_candidates(
    prepared: DevCluster, namespace: str, operator: OperatorProcess, tmp_path: Path
) -> None:
    log = tmp_path / "pods.json"
    # A watch: a candidate may be there for less time than it takes to ask again.
    watching = prepared.kubectl_command("get", "pods", "-n", namespace, "--watch", "-o", "json")
    with log.open("wb") as to, subprocess.Popen(watching, stdout=to) as watch:
        try:
            apply(prepared, synthesis(namespace))
            with Kubelet(prepared.kubeconfig, namespace):
                wait_for("Serving", lambda: phase(prepared, namespace) == "Serving", 90, every=0.2)
        finally:
            watch.terminate()
    pods = {pod["metadata"]["name"]: pod for pod in documents(log.read_text())}
    seeds = {
        names.name_of(secret): secret for secret in items(prepared, "secrets", namespace) if "seed" in secret["data"]
    }
    by_role: dict[str, set[str]] = {}
    for pod in pods.values():
        mounted = {v["secret"]["secretName"] for v in pod["spec"]["volumes"] if "secret" in v}
        by_role.setdefault(names.label(pod, names.ROLE_LABEL), set()).update(mounted)
    assert {"planner", "implementer", "candidate", "judge", "evaluator"} <= set(by_role)
    for role, mounted in by_role.items():
        assert bool(mounted) == (role in ("tuner", "judge", "evaluator")), role
    assert all(set(secret["data"]) == {"seed", "canary"} for secret in seeds.values())
    # What is mounted is one step's seed; the key that all of them come from is in no pod.
    keys = [names.name_of(s) for s in items(prepared, "secrets", namespace) if "seed" not in s["data"]]
    assert keys and not set(keys) & {name for mounted in by_role.values() for name in mounted}
    for account in ("planner", "implementer", "serving", "judge", "evaluator"):
        who = f"system:serviceaccount:{namespace}:sartor-{account}"
        for verb, what in (("get", "secrets"), ("list", "secrets"), ("create", "pods"), ("create", "pods/exec")):
            said = prepared.kubectl("auth", "can-i", verb, what, "-n", namespace, "--as", who)
            assert said.stdout.strip() == "no", (account, verb, what)
