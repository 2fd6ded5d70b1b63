"""Pods that lie, hang or die: each gets the reason and the class that say whose fault it was, and the search goes on."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults_support import DELIVERY, STEPS, Gate, Scene, scene
from operator_support import Ends, apply, wait_for
from operator_world import commit_of, files_of, measured

from sartor_api.search.records import (
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    StepKind,
    StepResult,
    Verdict,
)
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import DEPLOYMENT, TARGET, Manifest
from sartor_operator.pods.unpack import content_hash
from sartor_operator.wire import StepBegin, StepReport, report_text

OWN = content_hash(files_of(1, 1))


@dataclass(frozen=True)
class Lie:
    """What the first pod of a step says, and the failure that is recorded for it (`at` another step: found out there)."""

    step: str
    result: StepResult | None = None
    message: str | None = None
    reason: str = ""
    blamed: FailureClass = FailureClass.INFRASTRUCTURE
    at: str = ""


def report(step: str, result: StepResult) -> str:
    return report_text(StepReport(step=step, result=result))


JUDGED = Judgement(verdicts=(Verdict(gate="exact-greedy", passed=True, reason="Passed"),))
LIES = {
    "judges-another-step": Lie(STEPS[3], message=report("001/judge/2/1", JUDGED), reason="ReportUntrue"),
    "answers-another-question": Lie(STEPS[4], JUDGED, reason="ReportUntrue"),
    "plans-another-round": Lie(
        STEPS[1], Plan(round=7, action="build", hypothesis="h"), reason="PlanInvalid", blamed=FailureClass.PROVIDER
    ),
    "plans-from-nowhere": Lie(
        STEPS[1],
        Plan(round=1, action="build", hypothesis="h", parent="e" * 40),
        reason="PlanInvalid",
        blamed=FailureClass.PROVIDER,
    ),
    "names-no-commit": Lie(
        STEPS[2],
        Implementation(commit="0" * 40, content_hash=OWN, summary="s"),
        reason="CommitMissing",
        blamed=FailureClass.CANDIDATE,
        at=STEPS[3],
    ),
    "names-another-commit": Lie(
        STEPS[2],
        Implementation(commit=commit_of(2, 1), content_hash=OWN, summary="s"),
        reason="ContentChanged",
        blamed=FailureClass.CANDIDATE,
        at=STEPS[3],
    ),
    "names-another-hash": Lie(
        STEPS[2],
        Implementation(commit=commit_of(1, 1), content_hash="ab" * 32, summary="s"),
        reason="ContentChanged",
        blamed=FailureClass.CANDIDATE,
        at=STEPS[3],
    ),
    "names-a-branch": Lie(
        STEPS[2],
        Implementation(commit="main", content_hash=OWN, summary="s"),
        reason="ReportUntrue",
        blamed=FailureClass.CANDIDATE,
    ),
    "talks-too-long": Lie(
        STEPS[4], message=report(STEPS[4], measured(9.0))[:-1].ljust(4096), reason="RoleAnsweredGarbage"
    ),
    "talks-of-something-else": Lie(STEPS[3], message='{"speedup": 99}', reason="RoleAnsweredGarbage"),
}


def test_every_lie_is_found_out_and_blamed_on_who_told_it(cluster: DevCluster, tmp_path: Path) -> None:
    """The lives lie side by side; what was said in a lie is never in the books as a result."""

    def script(begin: StepBegin, pod: Manifest) -> Ends | None:
        lie = LIES[names.label(pod, names.SYNTHESIS_LABEL)]
        return Ends(result=lie.result, message=lie.message) if begin.id == lie.step else None

    with scene(cluster, tmp_path, script=script) as life:
        life.begin(*LIES)
        life.serving(240)
        for name, lie in LIES.items():
            records = life.records(name)
            failed = [(r.id, r.failure.reason, r.failure.failure_class) for r in records if r.failure]
            assert failed == [(lie.at or lie.step, lie.reason, lie.blamed)], name
            assert [r.step for r in records if r.failure is None and r.step is not StepKind.IMPLEMENT] == [
                StepKind.BASELINE, StepKind.PLAN, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM,
            ], name  # fmt: skip


def test_an_evaluator_cannot_choose_its_seed_or_call_a_round_a_confirmation(
    cluster: DevCluster, tmp_path: Path
) -> None:
    def script(begin: StepBegin, _pod: Manifest) -> Ends | None:
        claims = measured(1.7, confirmation=begin.step is not StepKind.CONFIRM)
        return Ends(result=claims) if begin.step in (StepKind.EVALUATE, StepKind.CONFIRM) else None

    with scene(cluster, tmp_path, script=script) as life:
        life.begin("one")
        life.serving()
        results = {r.step: r.result for r in life.records("one") if isinstance(r.result, Measurement)}
        assert {step: found.confirmation for step, found in results.items()} == {
            StepKind.EVALUATE: False,
            StepKind.CONFIRM: True,
        }
        seeds = [found.seed for found in results.values()]
        assert None not in seeds and seeds[0] != seeds[1], "each measurement has a sealed seed of its own"


# --- pods that wait -----------------------------------------------------------------------------------------------------


def target(cluster: DevCluster, name: str, **spec: object) -> None:
    wanted = {"platform": "cpu", **spec}
    apply(cluster, {"apiVersion": TARGET.api_version, "kind": TARGET.kind, "metadata": {"name": name}, "spec": wanted})


def test_a_pod_that_no_node_takes_is_told_and_waited_for(cluster: DevCluster, tmp_path: Path) -> None:
    """Pending at the plan and at the measurement; once a node fits, the very same pods go on."""
    pool, agents = f"pool-{tmp_path.name}", f"agents-{tmp_path.name}"
    labels = {"agents": {"test.sartor.dev/agents": agents}, "serving": {"test.sartor.dev/pool": pool}}
    target(cluster, "no-agents", agentNodeSelector=labels["agents"])
    target(cluster, "no-servers", nodeSelector=labels["serving"])
    try:
        with scene(cluster, tmp_path) as life:
            life.begin("planless", hardware={"targetRef": {"name": "no-agents"}})
            life.begin("baseless", hardware={"targetRef": {"name": "no-servers"}})
            for name, step in (("planless", "plan"), ("baseless", "baseline")):
                said = wait_for(
                    f"{name} says why",
                    lambda n=name: "node(s) didn't match" in (m := life.status(n).get("message", "")) and m,
                )
                assert step in said
                reconciling = {c["type"]: c["reason"] for c in life.status(name)["conditions"]}
                assert reconciling.get("Reconciling") == "AwaitingNode", reconciling
            node = life.kubelet.node
            merged = {**labels["agents"], **labels["serving"]}
            cluster.kubectl("label", "node", node, *(f"{k}={v}" for k, v in merged.items()), check=True)
            try:
                life.serving()
                life.undisturbed("planless", "baseless")
            finally:
                cluster.kubectl("label", "node", node, *(f"{k}-" for k in merged), check=True)
    finally:
        cluster.kubectl("delete", "hwt", "no-agents", "no-servers", check=True)


@pytest.mark.exhaustive
def test_a_pod_that_no_node_ever_takes_ends_with_its_deadline(cluster: DevCluster, tmp_path: Path) -> None:
    """The wall clock is a minute: so is the Job's deadline, and the run ends instead of waiting for ever."""
    target(cluster, "never", nodeSelector={"test.sartor.dev/never": tmp_path.name})
    try:
        with scene(cluster, tmp_path) as life:
            hardware = {"targetRef": {"name": "never"}}
            life.begin("one", hardware=hardware, budget={"rounds": 1, "wallClock": "1m"})
            wait_for("Failed", lambda: life.phases()["one"] == "Failed", 150, every=1.0)
            failed = [r.failure.reason for r in life.records("one") if r.failure]
            assert set(failed) == {"StepOverdue"}, failed
            assert "delete SynthesisRun" in life.status("one")["message"]
    finally:
        cluster.kubectl("delete", "hwt", "never", check=True)


# --- delivery -----------------------------------------------------------------------------------------------------------


def ready_roles(life: Scene, name: str) -> set[str]:
    found = life.of(DEPLOYMENT, name)
    return {names.label(d, names.ROLE_LABEL) for d in found if d.get("status", {}).get("availableReplicas")}


def test_a_stack_that_does_not_get_ready_is_not_called_serving(cluster: DevCluster, tmp_path: Path) -> None:
    """One hangs, one crashes again and again: the status says so, the baseline is there, and both heal by themselves."""
    fates = {"hangs": "pending", "crashes": "crashing"}

    def delivered(pod: Manifest) -> str:
        stack = names.label(pod, names.ROLE_LABEL) == "serving-stack"
        return fates.get(names.label(pod, names.SYNTHESIS_LABEL), "ready") if stack else "ready"

    with scene(cluster, tmp_path, delivered=delivered) as life:
        life.begin(*fates)
        for name in fates:
            life.at(name, DELIVERY)
            wait_for(f"{name}: its baseline", lambda n=name: ready_roles(life, n) == {"serving-baseline"})
            wait_for(f"{name} says what it waits for", lambda n=name: "0 of 1 ready" in life.status(n)["message"])
        told = lambda: "crashes again and again" in (m := life.status("crashes")["message"]) and m  # noqa: E731
        said = wait_for("the other says why", told)
        time.sleep(2)
        assert life.phases() == dict.fromkeys(fates, "Delivering")
        ready = {c["type"]: c["status"] for c in life.status("hangs")["conditions"]}
        assert ready["Ready"] != "True" and ready["Delivered"] == "False"
        fates.clear()
        life.serving()
        life.undisturbed("hangs", "crashes")
    assert "bfloat16 is missing" in said, said


@pytest.mark.exhaustive
def test_a_stack_that_never_gets_ready_stalls_and_heals(cluster: DevCluster, tmp_path: Path) -> None:
    """Kubernetes gives up after the target's start timeout; the synthesis says so, and takes it back when it heals."""
    target(cluster, "quick-start", startTimeout="1m")
    gate = Gate({"one": DELIVERY})
    try:
        with scene(cluster, tmp_path, gate=gate) as life:
            life.begin("one", hardware={"targetRef": {"name": "quick-start"}})

            def stalled() -> str | None:
                conditions = life.status("one").get("conditions", ())
                return next((c["reason"] for c in conditions if c["type"] == "Stalled" and c["status"] == "True"), None)

            assert wait_for("Stalled", stalled, 150, every=1.0) == "CandidateNotReady"
            assert "ProgressDeadlineExceeded" in life.status("one")["message"]
            assert ready_roles(life, "one") == {"serving-baseline"}
            gate.held.clear()
            life.serving()
            assert stalled() is None
            life.undisturbed("one")
    finally:
        cluster.kubectl("delete", "hwt", "quick-start", check=True)
