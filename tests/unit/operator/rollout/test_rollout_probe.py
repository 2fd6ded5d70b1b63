"""The probe in the cluster: what it is made of, when it is there, and that no traffic hangs on it."""

import asyncio
from typing import Any

import pytest
from operator_world import NAMESPACE
from operator_world import service as user_service
from rollout_cluster import Cluster, endpoints, rollout

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.serving_rollout import ServingRolloutSpec
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.controller import keys_for
from sartor_operator.errors import RefusedError
from sartor_operator.kinds import DEPLOYMENT, ENDPOINT_SLICE, EVENT, HTTP_ROUTE, POD, ROLLOUT, RUN, SERVICE, Manifest
from sartor_operator.rollout.index import probe_name
from sartor_operator.rollout.keys import urgent
from sartor_operator.rollout.observe import observe_rollout
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.probe import RUNNER, probe_manifests
from sartor_operator.rollout.samples import NoVerdicts
from sartor_operator.settings import DefaultImages, Settings

FORWARD = [(100, 0), (80, 20), (50, 50), (0, 100)]
SETTINGS = Settings(images=DefaultImages(evaluator="evaluator:7"), probe_command=("probe", "now"))


def stored(manifest: Manifest, uid: str = "u1", version: int = 1, **meta: Any) -> Manifest:
    known = {"uid": uid, "resourceVersion": str(version), "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**manifest, "metadata": {**manifest["metadata"], **known, **meta}}


def made(hardware: HardwareTargetSpec | None = None, name: str = "editor", **policy: Any) -> tuple[Manifest, Manifest]:
    manifest = stored(rollout(name, policy=policy))
    spec = ServingRolloutSpec.model_validate(manifest["spec"])
    return probe_manifests(manifest, spec, hardware, SETTINGS)


# --- manifests ------------------------------------------------------------------------------------------------------


def test_it_is_told_both_arms_and_asked_at_its_own_address() -> None:
    deployment, service = made(analysis={"probe": {"concurrency": 7}})
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "evaluator:7" and container["command"] == [
        "probe", "now", "--baseline", "http://vllm.team-a.svc:8000", "--candidate", "http://stack.team-a.svc:8000",
        "--concurrency", "7", "--keep", "50000",
    ]  # fmt: skip
    assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container["env"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert {p["targetPort"]: p["port"] for p in service["spec"]["ports"]} == ports == {"copies": 8000, "control": 8001}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8001}


def test_it_holds_no_identity_and_runs_restricted() -> None:
    deployment, _ = made()
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False and "serviceAccountName" not in pod
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    more = made(analysis={"probe": {"concurrency": 16}})[0]["spec"]["template"]["spec"]["containers"][0]
    assert more["resources"]["limits"] == {"memory": "1280Mi"}, "it grows with what is under way at a time"


def test_there_is_one_at_a_time_and_the_rollout_owns_it() -> None:
    deployment, service = made()
    assert deployment["spec"]["replicas"] == 1 and deployment["spec"]["strategy"] == {"type": "Recreate"}
    name = deployment["metadata"]["name"]
    for one in (deployment, service):
        assert names.owner_uid(one) == "u1" and one["metadata"]["ownerReferences"][0]["kind"] == "ServingRollout"
        assert names.label(one, names.MANAGED_BY) == names.SARTOR and names.label(one, names.PROBE_LABEL) == name
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items() and labels[names.MANAGED_BY] == names.SARTOR
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]


@pytest.mark.parametrize("name", ["editor", "7.team.editor", "a" * 200])
def test_its_name_is_one_of_a_service(name: str) -> None:
    found = probe_name(stored(rollout(name)))
    assert len(found) <= 63 and found.replace("-", "").isalnum() and found.startswith("probe-")
    assert found != probe_name(stored(rollout(name), "u2"))


def test_it_runs_where_the_run_of_the_candidate_has_its_helpers() -> None:
    hardware = HardwareTargetSpec.model_validate(
        {
            "platform": "cpu",
            "images": {"evaluator": "mine:1", "pullSecretRef": {"name": "registry", "key": "x"}},
            "agentNodeSelector": {"pool": "helpers"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
        }
    )
    pod = made(hardware)[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "mine:1" and pod["nodeSelector"] == {"pool": "helpers"}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert [t["key"] for t in pod["tolerations"]] == ["spot", "sartor.dev/runner"]
    assert made()[0]["spec"]["template"]["spec"]["tolerations"] == [RUNNER]


def seen(*extra: tuple[Any, Manifest], **spec: Any) -> RolloutObserved:
    cache = Cache()
    cache.put(ROLLOUT, stored(rollout(**spec)))
    for number, (kind, manifest) in enumerate(extra, start=2):
        cache.put(kind, stored(manifest, f"u{number}", number))
    found = observe_rollout(cache, NoVerdicts(), NAMESPACE, "editor", settings=SETTINGS)
    assert found is not None
    return found


def image_of(found: RolloutObserved) -> str:
    assert found.probe is not None
    return str(found.probe.manifests[0]["spec"]["template"]["spec"]["containers"][0]["image"])


def test_the_image_is_that_of_the_run() -> None:
    hardware = {"platform": "cpu", "images": {"evaluator": "mine:1"}}
    run = {"kind": "SynthesisRun", "metadata": {"name": "r1", "namespace": NAMESPACE}}
    good = {**run, "spec": {"snapshot": {"hardware": hardware}}}
    assert image_of(seen((RUN, good), runRef={"name": "r1"})) == "mine:1"
    strange = {**run, "spec": {"snapshot": {"hardware": {"platform": "abacus"}}}}
    for extra in ((RUN, strange), (RUN, {**run, "spec": {}})):
        assert image_of(seen(extra, runRef={"name": "r1"})) == "evaluator:7"
    assert image_of(seen(runRef={"name": "gone"})) == image_of(seen()) == "evaluator:7"


def test_why_it_is_not_ready() -> None:
    name = probe_name(stored(rollout()))
    deployment, service = made()
    assert seen().probe is not None and seen().probe.waits == "its Deployment and Service are made"  # type: ignore[union-attr]
    both = ((DEPLOYMENT, deployment), (SERVICE, service))
    assert seen(*both).probe.waits == "its pod is not ready yet"  # type: ignore[union-attr]
    pod: Manifest = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": NAMESPACE, "labels": {names.PROBE_LABEL: name}},
        "status": {
            "containerStatuses": [
                {"name": "probe", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
            ]
        },
    }
    assert seen(*both, (POD, pod)).probe.waits == "ErrImagePull: no such image"  # type: ignore[union-attr]
    ready = seen(*both, (POD, pod), (ENDPOINT_SLICE, endpoints(name, 1))).probe
    assert ready is not None and (ready.ready, ready.waits) == (1, "")


def test_one_of_somebody_else_is_not_ours() -> None:
    deployment, _ = made()
    deployment["metadata"]["ownerReferences"][0]["uid"] = "other"
    found = seen((DEPLOYMENT, deployment), policy={"analysis": {"sources": ["gatewayAccessLog"]}})
    assert found.probe is None


# --- its life -------------------------------------------------------------------------------------------------------


def probes(cluster: Cluster) -> list[Manifest]:
    return [m for kind in (DEPLOYMENT, SERVICE) for m in cluster.world.all(kind) if names.label(m, names.PROBE_LABEL)]


def copies(cluster: Cluster) -> list[str]:
    filters = [f for rule in cluster.route["spec"]["rules"] for f in rule.get("filters", ())]
    assert all("percent" not in f["requestMirror"] for f in filters)
    return [f["requestMirror"]["backendRef"]["name"] for f in filters]


def at_step(cluster: Cluster, number: int) -> None:
    cluster.run(lambda: cluster.status.get("step") == number and cluster.status.get("stepStartedAt") is not None)


def test_it_is_there_before_the_first_step_and_gone_after_the_last() -> None:
    cluster = Cluster(lambda step: "pass" if step.number < 3 else None)
    cluster.run(cluster.phase("Pending"))
    cluster.run(lambda: len(probes(cluster)) == 2)
    assert cluster.status["phase"] == "Pending"
    for number in (1, 2, 3):
        at_step(cluster, number)
        name = names.name_of(probes(cluster)[0])
        assert copies(cluster) == [name]
        assert cluster.script.asked[-1].probe == name and cluster.script.asked[-1].mirror == (10 if number == 1 else 0)
    cluster.script.says = lambda _step: "pass"
    cluster.run(cluster.phase("Promoted"))
    cluster.run(lambda: not probes(cluster))
    assert copies(cluster) == []


@pytest.mark.parametrize("ends", ["fail", "abort"])
def test_on_the_way_back_the_route_is_freed_of_it_and_then_it_goes(ends: str) -> None:
    cluster = Cluster(
        lambda step: "fail" if ends == "fail" and step.number == 2 else "inconclusive" if step.number == 2 else "pass"
    )
    at_step(cluster, 2)
    before = len(cluster.world.writes)
    if ends == "abort":
        cluster.control(abort=True)
    cluster.run(cluster.phase("RolledBack"))
    cluster.run(lambda: not probes(cluster))
    written = [w for w in cluster.world.writes[before:] if not w.startswith(("create Event", "status"))]
    assert written[0].startswith("apply HTTPRoute") and [w.split()[0] for w in written[1:3]] == ["delete", "delete"]


def test_it_stays_while_the_route_copies_to_it() -> None:
    """A gateway may refuse a route to a Service that does not exist; with both arms dead the route is left alone."""
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    at_step(cluster, 2)
    cluster.ready.update(vllm=0, stack=0)
    cluster.react()
    cluster.control(abort=True)
    cluster.run(cluster.phase("RollingBack"))
    assert copies(cluster) and len(probes(cluster)) == 2
    cluster.ready.clear()
    cluster.run(cluster.phase("RolledBack"))
    cluster.run(lambda: not probes(cluster))


def test_it_stays_while_a_route_that_somebody_replaced_copies_to_it() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    at_step(cluster, 2)
    cluster.control(promote=True)
    asyncio.run(cluster.process.controller.reconcile((ROLLOUT, NAMESPACE, "editor")))
    assert cluster.status["phase"] == "Promoting" and cluster.weights() == (80, 20)
    cluster.world.edit(HTTP_ROUTE, names.name_of(cluster.route), lambda m: m["metadata"].update(annotations={}))
    asyncio.run(cluster.process.controller.reconcile((ROLLOUT, NAMESPACE, "editor")))
    assert len(probes(cluster)) == 2 or not copies(cluster)
    cluster.run(cluster.phase("Promoted"))
    cluster.run(lambda: not probes(cluster))
    assert copies(cluster) == []


def test_without_the_source_there_is_none_and_the_candidate_is_mirrored_to() -> None:
    cluster = Cluster(lambda _step: "inconclusive", policy={"analysis": {"sources": ["gatewayAccessLog"]}})
    at_step(cluster, 1)
    assert not probes(cluster)
    (rule,) = [r for r in cluster.route["spec"]["rules"] if r.get("filters")]
    assert rule["filters"][0]["requestMirror"] == {
        "backendRef": {"group": "", "kind": "Service", "name": "stack", "port": 8000},
        "percent": 10,
    }


def test_a_source_that_is_dropped_in_the_middle_takes_it_away() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    at_step(cluster, 2)
    analysis = {"analysis": {"sources": ["gatewayAccessLog"]}}
    cluster.world.edit(ROLLOUT, "editor", lambda m: m["spec"]["policy"].update(analysis))
    cluster.run(lambda: not probes(cluster))
    assert copies(cluster) == [] and cluster.weights() == (80, 20)


def test_one_that_waits_for_the_route_has_no_probe_yet() -> None:
    cluster = Cluster(lambda _step: "inconclusive")
    at_step(cluster, 1)
    second = rollout("second", candidate={"service": "other", "contentHash": "sha256:" + "b" * 64})
    cluster.world.add(user_service("other"))
    cluster.world.add(endpoints("other", 1))
    cluster.world.add(second)
    cluster.run(lambda: "status" in cluster.world.one(ROLLOUT, "second"))
    assert len(probes(cluster)) == 2


def test_it_comes_and_goes_and_no_step_begins_again() -> None:
    """It changes whenever time passes, and every step takes its time once."""

    def story(flips: bool) -> tuple[list[int], float]:
        cluster = Cluster()
        began: dict[int, list[str]] = {}
        flipped: list[float] = []

        def note() -> bool:
            step, since = cluster.status.get("step"), cluster.status.get("stepStartedAt")
            if since is not None and since not in began.setdefault(int(step or 0), []):
                began[int(step or 0)].append(since)
            if flips and cluster.world.now not in flipped:
                cluster.ready["probe"] = 1 - cluster.ready.get("probe", 1)
                flipped.append(cluster.world.now)
            return cluster.status.get("phase") == "Promoted"

        cluster.run(note)
        assert cluster.shares == FORWARD and len(flipped) >= (10 if flips else 0)
        assert "RouteChanged" not in cluster.world.events() and "RolloutFrozen" not in cluster.world.events()
        assert all(len(times) == 1 for times in began.values()), began
        return list(began), cluster.world.now

    (steps, ends), (as_before, then) = story(True), story(False)
    assert steps == as_before == [1, 2, 3] and ends == then, "nor does it take longer"


def test_copies_begin_in_a_freeze_since_they_are_what_may_end_it() -> None:
    cluster = Cluster(lambda step: "error" if not probe_ready else "inconclusive", policy={"freeze": {"for": "1h"}})
    probe_ready = False
    cluster.ready["probe"] = 0
    cluster.run(cluster.phase("Frozen"))
    assert copies(cluster) == []
    cluster.ready["probe"] = 1
    cluster.run(lambda: len(copies(cluster)) == 1)
    assert cluster.status["phase"] == "Frozen"
    probe_ready = True
    cluster.run(cluster.phase("Progressing"))


def test_that_it_is_not_ready_stops_no_way_back_and_no_step() -> None:
    cluster = Cluster(lambda step: "fail" if step.number == 2 else "pass")
    cluster.ready["probe"] = 0
    cluster.run(cluster.phase("RolledBack"))
    assert cluster.shares == [(100, 0), (80, 20), (100, 0)]
    assert all(step.probe_waits for step in cluster.script.asked)


def test_where_it_may_not_be_made_all_else_goes_on_and_it_is_said() -> None:
    cluster = Cluster()

    def refuses(what: str) -> Exception | None:
        return RefusedError("403 Forbidden: quota", status=403) if "probe-" in what else None

    cluster.world.fail = refuses
    cluster.run(cluster.phase("Promoted"))
    assert cluster.shares == FORWARD and not probes(cluster)
    told = [e["message"] for e in cluster.world.all(EVENT) if e["reason"] == "WriteRefused"]
    assert told == ["403 Forbidden: quota"]


def test_what_somebody_changes_or_deletes_is_made_again() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    at_step(cluster, 2)
    name = names.name_of(probes(cluster)[0])
    cluster.world.edit(DEPLOYMENT, name, lambda m: m["spec"].update(replicas=3))
    cluster.run(lambda: cluster.world.one(DEPLOYMENT, name)["spec"]["replicas"] == 1)
    cluster.world.remove((SERVICE, NAMESPACE, name))
    cluster.run(lambda: len(probes(cluster)) == 2)
    cluster.run(lambda: copies(cluster) == [name])
    assert cluster.status["phase"] == "Progressing"


def test_a_deleted_rollout_takes_it_along_when_its_traffic_is_back() -> None:
    cluster = Cluster(lambda step: "inconclusive" if step.number == 2 else "pass")
    at_step(cluster, 2)
    cluster.world.edit(ROLLOUT, "editor", lambda m: m["metadata"].update(deletionTimestamp="2027-01-15T08:00:00Z"))
    cluster.run(lambda: not cluster.world.one(ROLLOUT, "editor")["metadata"]["finalizers"])
    assert copies(cluster) == [] and cluster.weights() == (100, 0)
    cluster.world.remove((ROLLOUT, NAMESPACE, "editor"))
    assert not probes(cluster)
    assert cluster.world.all(HTTP_ROUTE)


# --- what leads to a look -------------------------------------------------------------------------------------------


def test_its_changes_lead_to_its_rollout_and_overtake_nobody() -> None:
    cache = Cache()
    cache.put(ROLLOUT, stored(rollout()))
    key = (ROLLOUT, NAMESPACE, "editor")
    deployment, service = made()
    name = names.name_of(service)
    pod = {"metadata": {"name": "p", "namespace": NAMESPACE, "labels": {names.PROBE_LABEL: name}}}
    for kind, manifest in ((DEPLOYMENT, deployment), (SERVICE, service), (POD, pod)):
        assert keys_for(cache, kind, manifest, None) == [key], kind.kind
    cache.put(ENDPOINT_SLICE, stored(endpoints(name, 1), "u9", 9, labels={
        "kubernetes.io/service-name": name, names.PROBE_LABEL: name}))  # fmt: skip
    (slim,) = cache.all(ENDPOINT_SLICE)
    assert keys_for(cache, ENDPOINT_SLICE, None, slim) == [key]
    assert not urgent(key, ENDPOINT_SLICE, None, slim) and urgent(key, ENDPOINT_SLICE, None, endpoints("vllm", 1))


def test_a_rollout_that_turned_back_comes_before_others() -> None:
    key = (ROLLOUT, NAMESPACE, "editor")
    steps = {**stored(rollout()), "status": {"phase": "Progressing"}}
    back = {**steps, "status": {"phase": "RollingBack"}}
    assert urgent(key, ROLLOUT, steps, back) and not urgent(key, ROLLOUT, back, back)
    assert not urgent(key, ROLLOUT, steps, {**steps, "status": {"phase": "Paused"}})
