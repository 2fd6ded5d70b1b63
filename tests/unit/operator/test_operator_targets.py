"""The status of a HardwareTarget: which nodes fit, what they are, and why none does."""

import asyncio
from typing import Any

import pytest
from operator_world import START, Process, World, live, node, synthesis, target

from sartor_api.hardware_target import HardwareTargetSpec, HardwareTargetStatus
from sartor_operator.cache import Cache, trimmed
from sartor_operator.kinds import NODE, SYNTHESIS, TARGET, Manifest
from sartor_operator.target import misfit, target_status

GPU = {"platform": "cuda", "accelerator": {"resource": "nvidia.com/gpu", "count": 2}}
H100 = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/cuda.driver-version.full": "575.57.08",
    "pool": "h100",
}
EIGHT = {"nvidia.com/gpu": "8"}


def status_of(spec: dict[str, Any], *nodes: Manifest) -> HardwareTargetStatus:
    manifest = {**target(**spec), "metadata": {"name": "pool", "generation": 3, "uid": "u"}}
    kept = [trimmed(NODE, {**one, "metadata": {**one["metadata"], "uid": "n"}}) for one in nodes]
    return target_status(manifest, HardwareTargetSpec.model_validate(manifest["spec"]), kept, START)


def words(status: HardwareTargetStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


def test_nodes_that_fit_are_counted_and_named() -> None:
    small = node("b", H100, allocatable={"nvidia.com/gpu": "3"})
    said = status_of(GPU, node("a", H100, allocatable=EIGHT), small, node("cpu"))
    assert (said.matching_nodes, said.allocatable_accelerators, said.allocatable_replicas) == (2, 11, 5)
    assert said.product == "NVIDIA-H100-80GB-HBM3" and said.driver_version == "575.57.08"
    assert words(said) == {"Ready": ("True", "Succeeded")} and said.observed_generation == 3
    assert said.message == "2 nodes fit: NVIDIA-H100-80GB-HBM3, driver 575.57.08"
    assert said.free_replicas is None, "nobody counts the pods of others"


def test_the_scarcest_resource_bounds_the_replicas() -> None:
    said = status_of({"platform": "cpu", "resources": {"cpu": "2", "memory": "12Gi"}}, node("a"), node("b"))
    assert said.allocatable_replicas == 4 and said.allocatable_accelerators is None
    assert status_of({"platform": "cpu"}, node("a")).allocatable_replicas is None, "it asks for nothing that is counted"


MISFITS: list[tuple[dict[str, Any], Manifest, str]] = [
    ({"nodeSelector": {"pool": "h100", "zone": "a"}}, node("n", {"pool": "h100"}), "without the labels zone=a"),
    ({}, node("n", allocatable={"nvidia.com/gpu": "1"}), "with less than 2 nvidia.com/gpu allocatable"),
    ({"resources": {"memory": "64Gi"}}, node("n", allocatable=EIGHT), "with less than 64Gi memory allocatable"),
    ({}, node("n", allocatable=EIGHT, ready=False), "not ready"),
    ({}, node("n", allocatable=EIGHT, cordoned=True), "cordoned"),
    (
        {"tolerations": [{"key": "gpu", "value": "no"}]},
        node("n", allocatable=EIGHT, taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
        "with the taint gpu=yes:NoSchedule, which no toleration bears",
    ),
    (
        {"accelerator": {**GPU["accelerator"], "product": "NVIDIA H200"}},  # type: ignore[dict-item]
        node("n", H100, allocatable=EIGHT),
        "with NVIDIA-H100-80GB-HBM3 instead of NVIDIA H200",
    ),
]


@pytest.mark.parametrize(("spec", "one", "why"), MISFITS, ids=[m[2] for m in MISFITS])
def test_a_node_that_does_not_fit_says_why(spec: dict[str, Any], one: Manifest, why: str) -> None:
    assert misfit(HardwareTargetSpec.model_validate(GPU | spec), trimmed(NODE, one)) == why
    said = status_of(GPU | spec, one)
    assert words(said) == {"Ready": ("False", "NoMatchingNode"), "Stalled": ("True", "NoMatchingNode")}
    assert f"1 {why}" in said.message and "spec.nodeSelector" in said.message and said.matching_nodes == 0


BORNE = [
    ([{"key": "gpu", "operator": "Exists"}], {"key": "gpu", "value": "yes", "effect": "NoExecute"}),
    ([{"operator": "Exists"}], {"key": "any", "effect": "NoSchedule"}),
    ([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], {"key": "gpu", "value": "yes", "effect": "NoSchedule"}),
    ([{"key": "empty"}], {"key": "empty", "effect": "NoSchedule"}),
    ([], {"key": "soft", "effect": "PreferNoSchedule"}),
]


@pytest.mark.parametrize(("tolerations", "taint"), BORNE)
def test_taints_are_borne_as_the_scheduler_sees_it(tolerations: Any, taint: Any) -> None:
    spec = HardwareTargetSpec.model_validate({"platform": "cpu", "tolerations": tolerations})
    assert misfit(spec, trimmed(NODE, node("n", taints=[taint]))) is None


def test_a_product_is_compared_without_what_labels_cannot_hold() -> None:
    wanted = GPU | {"accelerator": {**GPU["accelerator"], "product": "NVIDIA H100 80GB HBM3"}}  # type: ignore[dict-item]
    shared = node("n", {**H100, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED"}, allocatable=EIGHT)
    assert status_of(wanted, shared).matching_nodes == 1


@pytest.mark.parametrize(
    ("labels", "product", "driver"),
    [
        ({"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}, "AMD_Instinct_MI300X_OAM", None),
        (
            {f"nvidia.com/cuda.driver.{p}": v for p, v in zip(("major", "minor", "rev"), "123", strict=True)},
            None,
            "1.2.3",
        ),
        ({**H100, "sartor.dev/product": "mine", "sartor.dev/driver-version": "7"}, "mine", "7"),
    ],
)
def test_labels_of_several_vendors_are_read_and_ones_own_come_first(
    labels: dict[str, str], product: str | None, driver: str | None
) -> None:
    said = status_of(GPU, node("n", labels, allocatable=EIGHT))
    assert (said.product, said.driver_version) == (product, driver)


def test_several_products_are_said_and_warned_of() -> None:
    other = node("b", {**H100, "nvidia.com/gpu.product": "NVIDIA-H200"}, allocatable=EIGHT)
    said = status_of(GPU, node("a", H100, allocatable=EIGHT), other)
    assert said.product == "NVIDIA-H100-80GB-HBM3, NVIDIA-H200"
    assert "narrow spec.nodeSelector" in said.message and words(said)["Ready"][0] == "True"


def test_an_empty_cluster_and_many_causes_are_said_in_bounds() -> None:
    assert "the cluster has no node" in status_of(GPU).message
    many = [node(f"n{i}", taints=[{"key": f"k{i}", "effect": "NoSchedule"}], allocatable=EIGHT) for i in range(40)]
    said = status_of(GPU, *many)
    assert "35 other causes" in said.message and len(said.message) < 1000


def test_the_status_follows_nodes_and_target_and_is_written_only_on_change() -> None:
    world = World()
    world.add(target(nodeSelector={"pool": "a"}))
    process = live(world)
    assert world.one(TARGET)["status"]["matchingNodes"] == 0
    world.add(node("n", {"pool": "a"}))
    process.stop()
    process = live(world)
    assert world.one(TARGET)["status"]["matchingNodes"] == 1
    before = len(world.writes)

    async def heartbeats() -> None:
        for beat in range(3):
            world.edit(NODE, "n", lambda m, b=beat: m["metadata"].update(annotations={"beat": str(b)}), namespace="")
        assert not process.keys, "a heartbeat is news to nobody"
        world.edit(NODE, "n", lambda m: m["metadata"]["labels"].update(other="x"), namespace="")
        assert list(process.keys) == [(TARGET, "", "pool")]
        await process.work()

    asyncio.run(heartbeats())
    assert world.writes[before:] == [], "a label that nobody asks for changes no status"
    world.edit(TARGET, "pool", lambda m: m["spec"].update(nodeSelector={"pool": "b"}), namespace="")
    asyncio.run(process.work())
    said = world.one(TARGET)["status"]
    assert said["matchingNodes"] == 0 and "1 without the labels pool=b" in said["message"]
    world.remove((NODE, "", "n"))
    asyncio.run(process.work())
    assert "the cluster has no node" in world.one(TARGET)["status"]["message"]


def test_a_target_without_nodes_stops_nothing() -> None:
    """Nodes may come when pods wait for them (an autoscaler); the target says so, and pods wait."""
    world = World()
    world.add(target(nodeSelector={"pool": "none"}))
    world.add(synthesis())
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert world.one(TARGET)["status"]["matchingNodes"] == 0


def test_what_others_wrote_of_the_roofline_stays() -> None:
    world = World()
    world.add(target())
    live(world).stop()
    measured = {"memoryBandwidth": "40G"}
    world.edit(TARGET, "pool", lambda m: m["status"].update(roofline=measured), namespace="")
    before = len(world.writes)
    live(world)
    assert world.writes[before:] == [] and world.one(TARGET)["status"]["roofline"] == measured


def test_a_spec_that_this_version_does_not_know_is_said_and_is_no_defect() -> None:
    world = World()
    world.add(target(platform="quantum"))
    world.add(synthesis())
    process = Process(world)
    asyncio.run(process.work())
    for said in (world.one(TARGET)["status"], world.one(SYNTHESIS)["status"]):
        stalled = next(c for c in said["conditions"] if c["type"] == "Stalled")
        assert stalled["reason"] == "NotSupported" and "HardwareTarget pool" in stalled["message"]
        assert "install the operator that the CRDs belong to" in stalled["message"]


def test_of_a_node_only_what_counts_is_kept() -> None:
    cache = Cache()
    large = node("n", {"a": "b"})
    large["metadata"] |= {"uid": "u", "resourceVersion": "1", "annotations": {"x": "y" * 1000}}
    large["status"] |= {"images": [{"names": ["i"]}] * 100, "nodeInfo": {"kernelVersion": "6"}}
    cache.put(NODE, large)
    kept = cache.get(NODE, None, "n")
    assert kept is not None and len(str(kept)) < 500 and kept["metadata"]["labels"] == {"a": "b"}
