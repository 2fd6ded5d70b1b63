"""What pods are made of: who sees what, and that nothing which runs candidate code holds a credential."""

from typing import Any

import pytest
from operator_world import World, live, profile, synthesis, target

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.model import ModelSource
from sartor_api.search.records import BaselineRecord
from sartor_operator import names
from sartor_operator.kinds import DEPLOYMENT, JOB, POD
from sartor_operator.pods.common import Place
from sartor_operator.pods.servers import baseline_pod, stack_pod
from sartor_operator.settings import RoleResources, Settings
from sartor_operator.wire import StackIndex

GPU = {
    "platform": "cuda",
    "accelerator": {"resource": "nvidia.com/gpu", "count": 2},
    "nodeSelector": {"pool": "h100"},
    "agentNodeSelector": {"pool": "small"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "runtimeClassName": "nvidia",
    "sandboxRuntimeClassName": "gvisor",
    "kueue": {"queueName": "team"},
    "resources": {"cpu": "8", "memory": "64Gi", "sharedMemory": "8Gi"},
    "images": {"stack": "r.example/stack:1", "pullSecretRef": {"name": "pull"}},
}


@pytest.fixture(scope="module")
def pods() -> dict[str, dict[str, Any]]:
    """The pod spec of every role and server of a life, by what it is."""
    world = World(settings=Settings(roles=RoleResources(limits={"memory": "4Gi"})))
    world.add(target(**GPU))
    world.add(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "pull", "namespace": "team-a"},
            "data": {".dockerconfigjson": ""},
        }
    )
    world.add(synthesis())
    found: dict[str, dict[str, Any]] = {}

    def collect() -> bool:
        for manifest in (*world.all(JOB), *world.all(DEPLOYMENT), *world.all(POD)):
            spec = manifest["spec"].get("template", manifest)["spec"]
            found.setdefault(names.label(manifest, names.ROLE_LABEL), {"manifest": manifest, "spec": spec})
        return False

    live(world, until=collect)
    collect()
    return found


ROLES = ["tuner", "planner", "implementer", "judge", "evaluator"]
SERVERS = ["candidate", "baseline", "serving-stack", "serving-baseline"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def test_every_role_and_server_was_seen(pods: dict[str, Any]) -> None:
    assert set(pods) == {*ROLES, *SERVERS}


@pytest.mark.parametrize("what", [*ROLES, *SERVERS])
def test_every_pod_is_restricted_and_has_no_token_of_the_api_server(pods: dict[str, Any], what: str) -> None:
    spec = pods[what]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(spec):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for volume in spec["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            assert source["serviceAccountToken"]["audience"] == "sartor-repository"


@pytest.mark.parametrize("what", SERVERS)
def test_a_pod_that_serves_a_model_holds_no_credential_and_no_sealed_data(pods: dict[str, Any], what: str) -> None:
    spec = pods[what]["spec"]
    assert spec["serviceAccountName"] == "sartor-serving"
    kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
    assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}
    maps = [v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v]
    assert all("-stack-" in name for name in maps)
    values = [e for one in containers(spec) for e in one["env"]]
    assert all("valueFrom" not in e and "TOKEN" not in e["name"] and "SEED" not in e["name"] for e in values)


def test_identities(pods: dict[str, Any]) -> None:
    accounts = {what: pods[what]["spec"]["serviceAccountName"] for what in ROLES}
    assert accounts == {
        "tuner": "sartor-evaluator",
        "planner": "sartor-planner",
        "implementer": "sartor-implementer",
        "judge": "sartor-judge",
        "evaluator": "sartor-evaluator",
    }


@pytest.mark.parametrize(
    ("what", "around"), [("planner", ("history", "recorder")), ("implementer", ("source", "committer"))]
)
def test_an_agent_has_no_identity_and_what_is_around_it_has(
    pods: dict[str, Any], what: str, around: tuple[str, str]
) -> None:
    spec = pods[what]["spec"]
    agent = next(c for c in spec["initContainers"] if c["name"] == "agent")
    before = next(c for c in spec["initContainers"] if c["name"] == "source")
    after = spec["containers"][0]
    assert [c["command"][-1] for c in (before, agent, after)] == [around[0], what, around[1]]
    assert not any("TOKEN" in e["name"] for e in agent["env"])
    assert {"name": "SARTOR_ISOLATION", "value": "pod"} in agent["env"]
    temporary = [next(m["name"] for m in c["volumeMounts"] if m["mountPath"] == "/tmp") for c in (agent, after)]
    assert temporary[0] != temporary[1] and {v["name"] for v in spec["volumes"]} >= set(temporary)
    assert {"name": "PYTHONNOUSERSITE", "value": "1"} in after["env"]
    assert ["identity" in [m["name"] for m in c["volumeMounts"]] for c in (before, agent, after)] == [True, False, True]
    assert spec["runtimeClassName"] == "gvisor"


@pytest.mark.parametrize("what", ROLES)
def test_sealed_seeds_are_for_those_who_measure(pods: dict[str, Any], what: str) -> None:
    secrets = [v for v in pods[what]["spec"]["volumes"] if "secret" in v]
    assert bool(secrets) == (what in ("tuner", "judge", "evaluator"))
    seeded = {e["name"] for c in containers(pods[what]["spec"]) for e in c["env"]}
    assert ("SARTOR_SEED_FILE" in seeded) == bool(secrets)


def test_judge_and_evaluator_know_servers_by_address_alone(pods: dict[str, Any]) -> None:
    for what in ("judge", "evaluator"):
        values = {e["name"]: e["value"] for e in pods[what]["spec"]["containers"][0]["env"]}
        assert values["SARTOR_CANDIDATE_URL"].startswith("http://10.")
        assert not any("stack" in m["name"] for m in pods[what]["spec"]["containers"][0]["volumeMounts"])


@pytest.mark.parametrize("what", [*ROLES, *SERVERS])
def test_places(pods: dict[str, Any], what: str) -> None:
    spec = pods[what]["spec"]
    on_accelerator = what not in ("planner", "implementer")
    assert spec["nodeSelector"] == ({"pool": "h100"} if on_accelerator else {"pool": "small"})
    own_nodes = [] if on_accelerator else [{"key": "sartor.dev/agents", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}, *own_nodes]
    assert spec.get("runtimeClassName") == ("nvidia" if on_accelerator else "gvisor")
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    holds = what in ("tuner", *SERVERS)
    amounts = [c.get("resources", {}).get("limits", {}).get("nvidia.com/gpu") for c in spec["containers"]]
    assert amounts == (["2"] if holds else [None])
    if what in ("judge", "evaluator", "candidate"):
        term = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
        assert term["labelSelector"]["matchLabels"][names.ROLE_LABEL] == "baseline"


@pytest.mark.parametrize("what", ROLES)
def test_jobs_try_once_and_keep_failures_apart(pods: dict[str, Any], what: str) -> None:
    job = pods[what]["manifest"]
    spec = job["spec"]
    assert spec["backoffLimit"] == 0 and spec["activeDeadlineSeconds"] >= 60
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert spec["suspend"] is True, "Kueue admits it"
    assert len(job["metadata"]["name"]) <= 63


def test_a_stack_is_unpacked_verified_and_then_read_only(pods: dict[str, Any]) -> None:
    for what in ("candidate", "serving-stack"):
        spec = pods[what]["spec"]
        steps = [c["name"] for c in spec["initContainers"]]
        assert steps == ["unpack", "build"]
        build, serve = spec["initContainers"][1], spec["containers"][0]
        for one in (build, serve):
            assert {"name": "code", "mountPath": "/stack", "readOnly": True} in one["volumeMounts"]
        assert {"name": "build", "mountPath": "/stack/stack/build", "readOnly": True} in serve["volumeMounts"]
        assert spec["initContainers"][0]["image"] == "r.example/stack:1"
        assert serve["command"][:4] == ["python3", "-m", "stack", "serve"]


def test_names_fit_and_follow_from_owner_and_purpose() -> None:
    long = names.child_name("e" * 40, "uid-1", "003/implement/12/34")
    assert len(long) <= 63 and "-003-implement-12-34-" in long
    assert names.child_name("a", "u", "x") == names.child_name("a", "u", "x")
    assert len({names.child_name("a", u, x) for u in "uv" for x in "xy"}) == 4
    assert names.digest("ab", "c") != names.digest("a", "bc")


def test_a_model_from_elsewhere_is_fetched_by_an_init_container_without_credentials() -> None:
    world = World()
    world.add(target())
    world.add(synthesis(model={"source": {"synthetic": {"kind": "chain", "size": "52m"}}}))
    live(world, until=lambda: any(names.label(p, names.ROLE_LABEL) == "candidate" for p in world.all(POD)))
    pod = next(p for p in world.all(POD) if names.label(p, names.ROLE_LABEL) == "candidate")
    fetch = pod["spec"]["initContainers"][0]
    assert fetch["name"] == "fetch-model" and fetch["command"] == ["sartor-role", "fetch-model"]
    source = next(e["value"] for e in fetch["env"] if e["name"] == "SARTOR_MODEL_SOURCE")
    assert '"size":"52m"' in source
    assert {"name": "SARTOR_MODEL_PART", "value": "served"} in fetch["env"]


@pytest.mark.parametrize(("backend", "agents_have"), [("playbook", "configuration"), ("openai", "served")])
def test_answers_of_a_made_checkpoint_get_to_those_who_judge_and_to_nobody_else(backend: str, agents_have: str) -> None:
    """Agents that a model leads start what they wrote, so they have the weights."""
    world = World()
    world.add(target())
    asks = {"model": "m", "endpoints": [{"url": "https://llm.example/v1"}]} if backend == "openai" else {}
    world.add(profile(backend=backend, **asks))
    made = {"source": {"synthetic": {"kind": "chain", "size": "52m"}}}
    world.add(synthesis(model=made, agents={"profileRef": {"name": "agents"}}))
    parts: dict[str, set[str]] = {}

    def over() -> bool:
        for pod in (*world.all(POD), *world.all(JOB), *world.all(DEPLOYMENT)):
            spec = pod["spec"].get("template", {}).get("spec", pod["spec"])
            for one in spec.get("initContainers", ()):
                told = {e["name"]: e.get("value", "") for e in one.get("env", ())}
                if "SARTOR_MODEL_PART" in told:
                    parts.setdefault(names.label(pod, names.ROLE_LABEL), set()).add(told["SARTOR_MODEL_PART"])
        return "serving-stack" in parts

    live(world, until=over)
    assert parts == {
        "tuner": {"all"}, "judge": {"all"}, "evaluator": {"all"},
        "planner": {agents_have}, "implementer": {agents_have},
        "candidate": {"served"}, "baseline": {"served"}, "serving-stack": {"served"}, "serving-baseline": {"served"},
    }  # fmt: skip


@pytest.mark.parametrize("what", ["tuner", *SERVERS])
def test_containers_that_use_a_gpu_get_the_drivers_libraries(pods: dict[str, Any], what: str) -> None:
    """An image without CUDA's base image says nothing of them, and PyTorch would find no device."""
    wanted = {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"}
    for one in containers(pods[what]["spec"]):
        holds = "nvidia.com/gpu" in one.get("resources", {}).get("limits", {})
        assert (wanted in one["env"]) == holds, one["name"]
    # Which devices, the device plugin says: a pod that said so itself would see those of others.
    assert "NVIDIA_VISIBLE_DEVICES" not in str(pods[what]["spec"])


@pytest.mark.parametrize(
    ("accelerator", "amount"),
    [
        ({"resource": "nvidia.com/gpu"}, {"nvidia.com/gpu": "1"}),
        ({"resource": "nvidia.com/gpu.shared", "sharing": "timeSliced"}, {"nvidia.com/gpu.shared": "1"}),
        ({"resource": "nvidia.com/mig-3g.40gb", "sharing": "mig", "count": 2}, {"nvidia.com/mig-3g.40gb": "2"}),
    ],
)
def test_shares_of_a_gpu_are_asked_for_by_the_names_of_their_resources(
    accelerator: dict[str, Any], amount: dict[str, str]
) -> None:
    place = place_of(platform="cuda", accelerator=accelerator, runtimeClassName="nvidia")
    for spec in (baseline_of(place), stack_of(place)):
        (serve,) = spec["containers"]
        assert serve["resources"] == {"requests": amount, "limits": amount}
        assert spec["runtimeClassName"] == "nvidia"


def test_a_gpu_server_has_shared_memory_that_its_processes_can_work_with() -> None:
    gpu: dict[str, Any] = {"platform": "cuda", "accelerator": {"resource": "nvidia.com/gpu"}}
    sized = {**gpu, "resources": {"sharedMemory": "8Gi"}}
    for hardware, size in ((gpu, "2Gi"), (sized, "8Gi"), ({"platform": "cpu"}, None)):
        for spec in (baseline_of(place_of(**hardware)), stack_of(place_of(**hardware))):
            found = [v["emptyDir"] for v in spec["volumes"] if v["name"] == "shm"]
            assert found == ([{"medium": "Memory", "sizeLimit": size}] if size else [])


def test_on_a_shared_network_servers_bind_the_address_of_their_pod() -> None:
    place = place_of(platform="metal", accelerator={"resource": "sartor.dev/metal"}, listenOn="podIP")
    variable = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    for spec in (baseline_of(place), stack_of(place)):
        (serve,) = spec["containers"]
        assert serve["command"][serve["command"].index("--host") + 1] == "$(POD_IP)"
        assert variable in serve["env"]
    (serve,) = baseline_of(place_of(platform="cpu"))["containers"]
    assert serve["command"][serve["command"].index("--host") + 1] == "0.0.0.0" and variable not in serve["env"]


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({"persistentVolumeClaim": "compiled"}, {"persistentVolumeClaim": {"claimName": "compiled"}}),
        ({"hostPath": "/var/cache/vllm"}, {"hostPath": {"path": "/var/cache/vllm", "type": "Directory"}}),
    ],
)
def test_what_the_engine_compiled_is_kept_where_no_generated_code_comes(
    cache: dict[str, str], volume: dict[str, Any]
) -> None:
    place = place_of(platform="cpu", engineCache=cache)
    spec = baseline_of(place)
    assert {"name": "engine-cache", **volume} in spec["volumes"]
    (serve,) = spec["containers"]
    assert {"name": "engine-cache", "mountPath": "/engine-cache"} in serve["volumeMounts"]
    assert {"name": "VLLM_CACHE_ROOT", "value": "/engine-cache/vllm"} in serve["env"]
    assert "engine-cache" not in str(stack_of(place))


def test_without_a_cache_of_the_engine_nothing_is_kept() -> None:
    spec = baseline_of(place_of(platform="cpu"))
    assert {"name": "VLLM_CACHE_ROOT", "value": "/tmp/engine-cache/vllm"} in spec["containers"][0]["env"]
    assert "engine-cache" not in [volume["name"] for volume in spec["volumes"]]


def place_of(**hardware: Any) -> Place:
    source = ModelSource.model_validate({"synthetic": {"kind": "chain", "size": "tiny"}})
    return Place(Settings(), HardwareTargetSpec.model_validate(hardware), AgentProfileSpec(), source)


def baseline_of(place: Place) -> dict[str, Any]:
    record = BaselineRecord(engine="vllm", version="1", arguments=("--dtype", "bfloat16"))
    return baseline_pod(place, record, served_name="m", length=512)


def stack_of(place: Place) -> dict[str, Any]:
    index = StackIndex(commit="0" * 40, content_hash="0" * 64)
    return stack_pod(place, index, baseline_url="http://10.0.0.1:8000")
