"""The admission policy for agents' pods on a real API server: the operator's own pods pass, and each change that would open
a way is refused in words that say what to change. Beside each refusal the same pod passes where the policy does not hold."""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import apply, wait_for
from ruamel.yaml import YAML

from sartor_devcluster import DevCluster

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit" / "operator"))

from operator_world import World, live, profile, synthesis, target  # noqa: E402 - found by the line before

from sartor_operator import names  # noqa: E402
from sartor_operator.kinds import DEPLOYMENT, JOB, POD  # noqa: E402

FOLDER = HERE.parents[1] / "operator" / "manifests" / "agents"
ENFORCED, FREE = "agents-enforced", "agents-free"
ROLES = (
    "planner", "implementer", "candidate", "judge", "tuner", "baseline", "serving-stack", "serving-baseline", "model-proxy",
)  # fmt: skip
Pod = dict[str, Any]


@pytest.fixture(scope="module")
def made() -> dict[str, Pod]:
    """Pods as the operator makes them, by role."""
    world = World()
    world.add(target())
    world.add(profile(backend="openai", model="m", endpoints=[{"url": "https://llm.example/v1"}]))
    world.add(synthesis(agents={"profileRef": {"name": "agents"}}))
    found: dict[str, Pod] = {}

    def collect() -> bool:
        for manifest in (*world.all(JOB), *world.all(POD), *world.all(DEPLOYMENT)):
            template = manifest["spec"].get("template", manifest)
            role = names.label(manifest, names.ROLE_LABEL)
            meta = {"name": f"probe-{role}", "labels": template["metadata"]["labels"]}
            found.setdefault(role, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
        return found.keys() >= set(ROLES)

    live(world, until=collect)
    return found


@pytest.fixture(scope="module")
def walled(cluster: DevCluster, made: dict[str, Pod]) -> Iterator[DevCluster]:
    def namespace(name: str, **labels: str) -> dict[str, Any]:
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**restricted, **labels}}}

    apply(
        cluster, namespace("sartor-system"), namespace(ENFORCED, **{"sartor.dev/agents": "enforced"}), namespace(FREE)
    )
    cluster.kubectl("apply", "-k", str(FOLDER), check=True)
    accounts = {pod["spec"]["serviceAccountName"] for pod in made.values()}
    for place in (ENFORCED, FREE):
        meta = [{"name": name, "namespace": place} for name in sorted(accounts)]
        apply(cluster, *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": one} for one in meta))
    bad = changed(made["implementer"], lambda spec: spec.update(automountServiceAccountToken=True))
    wait_for("the policy holds", lambda: "automountServiceAccountToken" in tried(cluster, bad)[1])
    yield cluster
    # The policy stays: see agents_support.
    cluster.kubectl("apply", "-k", str(FOLDER), check=True)
    cluster.kubectl("delete", "namespace", ENFORCED, FREE, "--wait=false", check=True)


def tried(cluster: DevCluster, pod: Pod, namespace: str = ENFORCED) -> tuple[bool, str]:
    """Whether the API server would take the pod, and what it says."""
    done = cluster.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", input=json.dumps(pod))
    return done.returncode == 0, done.stdout + done.stderr


def changed(pod: Pod, change: Callable[[dict[str, Any]], object]) -> Pod:
    """A copy with another spec."""
    copied = copy.deepcopy(pod)
    change(copied["spec"])
    return copied


def agent(spec: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in spec["initContainers"] if one["name"] == "agent")


@pytest.mark.parametrize("role", ROLES)
def test_the_operators_own_pods_are_taken(walled: DevCluster, made: dict[str, Pod], role: str) -> None:
    taken, said = tried(walled, made[role])
    assert taken, said


SECRET_ENV = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "provider", "key": "key"}}}
OPENINGS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "token": ("implementer", lambda s: s.update(automountServiceAccountToken=True), "set automountServiceAccountToken"),
    "account": ("implementer", lambda s: s.update(serviceAccountName="sartor-planner"), "must belong together"),
    "secret": ("implementer", lambda s: s["volumes"].append({"name": "s", "secret": {"secretName": "x"}}), "no other"),
    "secret of a candidate": (
        "candidate", lambda s: s["volumes"].append({"name": "s", "secret": {"secretName": "x"}}), "no other",
    ),
    "writable claim": (
        "planner",
        lambda s: s["volumes"].append({"name": "s", "persistentVolumeClaim": {"claimName": "x"}}),
        "read-only persistentVolumeClaim",
    ),
    "token of the API server": (
        "planner",
        lambda s: s["volumes"].append({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
        "audience sartor-repository",
    ),
    "identity of a candidate": (
        "candidate",
        lambda s: s["volumes"].append({"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "sartor-repository", "expirationSeconds": 3600}}]}}),
        "planner's or implementer's pod",
    ),
    "provider's key": (
        "implementer",
        lambda s: next(v for v in s["volumes"] if v["name"] == "grant")["secret"].update(
            secretName="llm", items=[{"key": "apiKey", "path": "token"}]
        ),
        "no other",
    ),
    "grant of a candidate": (
        "candidate",
        lambda s: s["volumes"].append(
            {"name": "g", "secret": {"secretName": "x", "items": [{"key": "grant", "path": "token"}]}}
        ),
        "no other",
    ),
    "planner in the open": (
        "planner", lambda s: agent(s).update(name="worker"), "called `agent`",
    ),
    "identity in the agent": (
        "implementer",
        lambda s: agent(s)["volumeMounts"].append({"name": "identity", "mountPath": "/identity"}),
        "must not mount an identity",
    ),
    "agent under another name": ("implementer", lambda s: agent(s).update(name="worker"), "called `agent`"),
    "key in the environment": ("implementer", lambda s: agent(s)["env"].append(SECRET_ENV), "no key of a Secret"),
    "whole Secret in the environment": (
        "planner", lambda s: s["containers"][0].update(envFrom=[{"secretRef": {"name": "x"}}]), "no key of a Secret",
    ),
    "writable root": (
        "implementer", lambda s: agent(s)["securityContext"].update(readOnlyRootFilesystem=False), "readOnlyRootFilesystem",
    ),
    "shared processes": ("implementer", lambda s: s.update(shareProcessNamespace=True), "no process namespace"),
    "no limit of disk": (
        "implementer",
        lambda s: next(v for v in s["volumes"] if v["name"] == "work")["emptyDir"].pop("sizeLimit"),
        "an emptyDir with a sizeLimit",
    ),
    "no limit of memory": ("implementer", lambda s: agent(s)["resources"]["limits"].pop("memory"), "cpu and memory"),
}  # fmt: skip


@pytest.mark.parametrize("opening", list(OPENINGS))
def test_a_way_out_is_refused_in_words(walled: DevCluster, made: dict[str, Pod], opening: str) -> None:
    role, change, words = OPENINGS[opening]
    pod = changed(made[role], change)
    taken, said = tried(walled, pod)
    assert not taken and words in said, said
    taken, said = tried(walled, pod, FREE)
    assert taken, f"it is refused by something else as well: {said}"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(hostNetwork=True),
        lambda s: s.update(hostPID=True),
        lambda s: agent(s)["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
        lambda s: s["securityContext"].pop("seccompProfile"),
        lambda s: s["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        lambda s: s["containers"][0]["securityContext"].update(privileged=True, allowPrivilegeEscalation=True),
    ],
    ids=["hostNetwork", "hostPID", "capability", "seccomp", "hostPath", "privileged"],
)  # fmt: skip
def test_what_pod_security_refuses_is_refused_by_the_policy_as_well(
    walled: DevCluster, made: dict[str, Pod], change: Callable[[dict[str, Any]], object]
) -> None:
    """So that a namespace whose Pod Security label was taken off is not open."""
    restricted = "pod-security.kubernetes.io/enforce"
    walled.kubectl("label", "namespace", ENFORCED, f"{restricted}=privileged", "--overwrite", check=True)
    pod = changed(made["implementer"], change)
    try:
        wait_for(
            "the policy refuses it", lambda: "ValidatingAdmissionPolicy 'sartor-agent-pods'" in tried(walled, pod)[1]
        )
    finally:
        walled.kubectl("label", "namespace", ENFORCED, f"{restricted}=restricted", "--overwrite", check=True)
    assert not tried(walled, pod)[0]


def test_leaving_the_label_out_does_not_help(walled: DevCluster, made: dict[str, Pod]) -> None:
    pod = copy.deepcopy(made["implementer"])
    del pod["metadata"]["labels"][names.ROLE_LABEL]
    taken, said = tried(walled, pod)
    assert not taken and "must belong together" in said


def test_other_pods_are_left_alone(walled: DevCluster, made: dict[str, Pod]) -> None:
    other = changed(made["judge"], lambda s: s.update(serviceAccountName="default", automountServiceAccountToken=True))
    other["metadata"]["labels"] = {"app": "something-else"}
    taken, said = tried(walled, other)
    assert taken, said


def test_runtime_class_pool_and_registry_can_be_asked_for(walled: DevCluster, made: dict[str, Pod]) -> None:
    settings = next(iter(YAML(typ="safe").load_all(FOLDER / "settings.yaml")))
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "gvisor"},
        "handler": "runsc",
    }
    apply(walled, runtime)
    wanted = {"runtimeClasses": "gvisor kata", "nodeLabel": "pool=agents", "images": "r.example/ q.example/"}
    fits = changed(made["implementer"], lambda s: s.update(runtimeClassName="gvisor", nodeSelector={"pool": "agents"}))
    for one in (*fits["spec"]["initContainers"], *fits["spec"]["containers"]):
        one["image"] = "r.example/agent:1"
    without: dict[str, Callable[[dict[str, Any]], object]] = {
        "one of the runtime classes gvisor, kata here": lambda s: s.pop("runtimeClassName"),
        "on nodes with the label pool=agents here": lambda s: s.pop("nodeSelector"),
        "images must come from r.example/, q.example/ here": lambda s: agent(s).update(image="elsewhere.example/x:1"),
    }
    try:
        apply(walled, {**settings, "data": wanted})
        wait_for("the settings hold", lambda: "runtime classes" in tried(walled, made["implementer"])[1])
        taken, said = tried(walled, fits)
        assert taken, said
        for words, change in without.items():
            taken, said = tried(walled, changed(fits, change))
            assert not taken and words in said, said
    finally:
        apply(walled, settings)
        wait_for("the settings are back", lambda: tried(walled, made["implementer"])[0])
        walled.kubectl("delete", "runtimeclass", "gvisor", check=True)


def test_nothing_is_added_to_a_running_agent(walled: DevCluster, made: dict[str, Pod]) -> None:
    pod = copy.deepcopy(made["implementer"])
    for place, refused in ((FREE, False), (ENFORCED, True)):
        walled.kubectl("create", "-n", place, "-f", "-", input=json.dumps(pod), check=True)
        done = walled.kubectl(
            "debug", "-n", place, pod["metadata"]["name"], "--image=x", "--profile=restricted", "--", "sh"
        )
        assert ("no container may be added" in done.stderr) is refused, done.stderr
        walled.kubectl("delete", "pod", "-n", place, pod["metadata"]["name"], "--grace-period=0", "--force", check=True)


def test_the_network_policies_are_taken(walled: DevCluster) -> None:
    walled.kubectl("apply", "-n", ENFORCED, "-k", str(FOLDER / "namespaced"), check=True)
    found = json.loads(walled.kubectl("get", "networkpolicy", "-n", ENFORCED, "-o", "json", check=True).stdout)["items"]
    specs = {one["metadata"]["name"]: one["spec"] for one in found}
    assert specs["sartor-agents-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in specs["sartor-agents-deny"] and len(specs["sartor-agents-allow"]["egress"]) == 3
    assert specs["sartor-model-proxy"]["policyTypes"] == ["Ingress", "Egress"]
