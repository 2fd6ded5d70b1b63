"""Which device a run takes and what is said where it can take none; what its processes see of it; how it is shared."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import Device as Fake
from fake_nvml import FakeNvml
from run_fakes import run_spec

from sartor_agents.checkpoints import make
from sartor_agents.measurement.accelerators import MissingAcceleratorError, NoAccelerators, Nvml, open_accelerators
from sartor_agents.run import device, placement
from sartor_agents.run.candidates import CandidateError
from sartor_agents.run.device import NOTHING, Access, Device, again, choose, require_local, require_nodes, same_product
from sartor_agents.run.device_share import FETCHED, ROOM, Needs, Shares, TooSmallError, shares, taken, vllm_arguments
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.placement import Placement, placed, sequences_of
from sartor_api.hardware_target import Accelerator

GIB = 1 << 30
FREE: dict[str, str] = {}


def nvml(*devices: Fake) -> Nvml:
    return Nvml(FakeNvml(*devices))


def wanted(**more: Any) -> Accelerator:
    return Accelerator.model_validate({"resource": "nvidia.com/gpu", **more})


def refused(*devices: Fake, environment: dict[str, str] | None = None, **more: Any) -> str:
    with pytest.raises(BadRequestError) as caught:
        choose(wanted(**more), nvml(*devices), "target", environment or FREE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("found", "product", "same"),
    [
        ("NVIDIA H200", "NVIDIA H200", True),
        ("NVIDIA H200", "NVIDIA-H200", True),
        ("NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3", True),
        ("NVIDIA H200", "NVIDIA-H200-SHARED", True),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA-A100-SXM4-40GB", True),
        ("NVIDIA H200", "NVIDIA H20", False),
        ("NVIDIA H200 NVL", "NVIDIA H200", False),
    ],
)
def test_a_product_is_written_plainly_or_as_a_label(found: str, product: str, same: bool) -> None:
    assert same_product(found, product) is same


def test_the_first_free_device_of_the_product_is_taken() -> None:
    devices = nvml(
        Fake("GPU-a", name="NVIDIA L4", minor=0), Fake("GPU-b", minor=1, pids=[7]), Fake("GPU-c", minor=2)
    )  # fmt: skip
    chosen = choose(wanted(product="NVIDIA-H200"), devices, "target", FREE)
    assert (chosen.uuid, chosen.minor, chosen.capability, chosen.memory_bytes) == ("GPU-c", 2, "9.0", 150 << 30)
    assert choose(wanted(), devices, "target", FREE).uuid == "GPU-a"


def test_without_a_driver_or_the_product_what_was_found_is_said() -> None:
    with pytest.raises(
        BadRequestError, match=r"target: platform cuda, and NVML shows no NVIDIA device.*\n.*nvidia-smi"
    ):
        choose(wanted(), NoAccelerators(), "target", FREE)
    text = refused(Fake(name="NVIDIA L4"), Fake("GPU-2", name="NVIDIA A10"), product="NVIDIA H200")
    assert "accelerator.product NVIDIA H200 is not in this machine; found: NVIDIA A10, NVIDIA L4" in text


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Fake(pids=[12, 4]), "is used by process 4, 12"),
        (Fake(taken=9 * GIB), "has 9.0 GiB in use by processes that cannot be seen"),
        (Fake(mig=1), "is cut into MIG slices"),
        (Fake(capability=(7, 5)), "has compute capability 7.5, and 8.0 is the oldest"),
    ],
)
def test_a_device_that_cannot_be_measured_on_is_not_taken(fake: Fake, words: str) -> None:
    text = refused(fake)
    assert "NVIDIA H200 (GPU-1) " + words in text
    spare = dataclasses.replace(fake, uuid="GPU-2", pids=[], taken=0, mig=0, capability=(8, 0))
    assert choose(wanted(), nvml(fake, spare), "target", FREE).uuid == "GPU-2"


@pytest.mark.parametrize(
    ("given", "uuid"), [("1", "GPU-b"), ("GPU-b", "GPU-b"), ("GPU-b,GPU-a", "GPU-a"), ("0,1", "GPU-a")]
)
def test_devices_that_the_user_hides_are_left_alone(given: str, uuid: str) -> None:
    devices = nvml(Fake("GPU-a"), Fake("GPU-b"))
    assert choose(wanted(), devices, "target", {"CUDA_VISIBLE_DEVICES": given}).uuid == uuid


def test_a_number_says_nothing_where_products_differ() -> None:
    mixed = Fake("GPU-a", name="NVIDIA L4"), Fake("GPU-b")
    assert "GPU-1) is left out by CUDA_VISIBLE_DEVICES" in refused(Fake(), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert "depends on CUDA_DEVICE_ORDER" in refused(*mixed, environment={"CUDA_VISIBLE_DEVICES": "0"})
    order = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert choose(wanted(), nvml(*mixed), "target", order).uuid == "GPU-b"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"count": 2}, "count 2: sartor run takes one device"),
        ({"resource": "nvidia.com/mig-3g.40gb"}, "is a MIG slice"),
        ({"sharing": "mig"}, "is a MIG slice"),
        ({"resource": "amd.com/gpu"}, "is no NVIDIA device"),
    ],
)
def test_what_only_a_scheduler_can_give_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        require_local(wanted(**more), "target")


def test_a_whole_device_serves_for_a_shared_one() -> None:
    require_local(wanted(resource="nvidia.com/gpu.shared", sharing="timeSliced"), "target")


def test_a_run_goes_on_with_its_own_device_and_no_other() -> None:
    mine = choose(wanted(), nvml(Fake("GPU-b")), "target", FREE)
    assert again(mine, nvml(Fake("GPU-a"), Fake("GPU-b")), "run r").uuid == "GPU-b"
    with pytest.raises(BadRequestError, match=r"run r began on NVIDIA H200 \(GPU-b\).*found: NVIDIA L4"):
        again(mine, nvml(Fake("GPU-a", name="NVIDIA L4")), "run r")
    with pytest.raises(BadRequestError, match="is used by process 5"):
        again(mine, nvml(Fake("GPU-b", pids=[5])), "run r")
    with pytest.raises(BadRequestError, match="NVML shows no NVIDIA device"):
        again(mine, NoAccelerators(), "run r")


def test_the_record_gives_the_device_back_and_damage_is_said() -> None:
    mine = choose(wanted(), nvml(Fake("GPU-b", minor=3)), "target", FREE)
    assert Device.from_record(mine.as_record()) == mine
    for text in ("{", '{"uuid": 1, "surprise": 2}'):
        with pytest.raises(BadRequestError, match=r"device.json of this run is damaged"):
            Device.from_record(text)


def test_only_the_device_itself_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DEV", tmp_path)
    mine = choose(wanted(), nvml(Fake("GPU-b", minor=3)), "target", FREE)
    names = [path.name for path in mine.access.nodes or ()]
    assert "nvidia3" in names and {"nvidiactl", "nvidia-uvm"} <= set(names)
    assert not [name for name in names if name in ("nvidia0", "nvidia1")]
    assert mine.access.environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    with pytest.raises(BadRequestError, match=r"has no .*nvidiactl, .*nvidia-uvm, .*nvidia3.*\n.*nvidia-modprobe"):
        require_nodes(mine, "target")
    for name in ("nvidiactl", "nvidia-uvm", "nvidia3"):
        (tmp_path / name).touch()
    require_nodes(mine, "target")


def test_commands_of_a_role_see_what_it_was_given() -> None:
    assert device.shown({}) == device.AS_IT_IS
    assert device.shown(dict(device.HIDDEN)) == NOTHING
    given = {"SARTOR_DEVICE_NODES": "/dev/nvidia3:/dev/nvidiactl", "CUDA_VISIBLE_DEVICES": "GPU-b", "HOME": "/x"}
    assert device.shown(given) == Access(
        (Path("/dev/nvidia3"), Path("/dev/nvidiactl")), {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    )


def test_a_measurement_asks_for_its_device_by_uuid() -> None:
    library = FakeNvml(Fake("GPU-a", pids=[1]), Fake("GPU-b"))
    only = open_accelerators(lambda: library, only="GPU-b")
    assert [one["uuid"] for one in only.identity()] == ["GPU-b"] and not only.state()[0].pids
    with pytest.raises(MissingAcceleratorError, match="GPU-c"):
        open_accelerators(lambda: library, only="GPU-c")
    with pytest.raises(MissingAcceleratorError, match="GPU-b any more: no driver"):
        open_accelerators(lambda: FakeNvml(broken=True), only="GPU-b")
    assert isinstance(open_accelerators(lambda: FakeNvml(broken=True)), NoAccelerators)


# --- shares -----------------------------------------------------------------------------------------------------------


def need(weights: int, cache: int = GIB) -> Needs:
    return Needs(weights, cache, 32_000)


@pytest.mark.parametrize(
    ("total", "weights", "cache", "expected"),
    [
        (140 * GIB, 15 * GIB, GIB, (False, "cuda", "cuda")),
        (140 * GIB, 50 * GIB, GIB, (True, "cuda", "cuda")),
        (140 * GIB, 61 * GIB, GIB, (True, "cuda", "cuda")),
        (140 * GIB, 59 * GIB, 6 * GIB, (True, "cuda", "cpu")),
        (23 * GIB, 6 * GIB, GIB, (False, "cpu", "cpu")),
        (28 * GIB, 6 * GIB, GIB, (True, "cuda", "cuda")),
    ],
)
def test_the_reference_is_where_there_is_room(total: int, weights: int, cache: int, expected: tuple[Any, ...]) -> None:
    needs = need(weights, cache)
    found = shares(total, needs)
    assert (found.judged_alone, found.judge, found.evaluator) == expected
    assert found.stack >= needs.stack and found.baseline == needs.baseline and found.cache >= needs.cache
    assert found.stack + found.baseline + (FETCHED if found.evaluator == "cuda" else 0) <= total
    if found.judge == "cuda":
        beside = 0 if found.judged_alone else found.baseline
        assert found.stack + beside + weights + ROOM <= total
    assert found.baseline <= found.utilization * total <= found.baseline + total / 1000


def test_both_servers_have_to_fit() -> None:
    with pytest.raises(
        TooSmallError, match=r"need 64\.\d GiB and 6\d\.\d GiB at the same time, and the device has 80\.0"
    ):
        shares(80 * GIB, need(60 * GIB))


def test_what_is_the_share_s_to_say_is_not_the_owner_s() -> None:
    assert taken(["--max-num-seqs=4"]) == "--max-num-seqs=4"
    assert taken(["--enforce-eager"]) is None
    found = shares(140 * GIB, need(15 * GIB))
    assert vllm_arguments(found, 4) == ("--gpu-memory-utilization", str(found.utilization), "--max-num-seqs", "4")


@pytest.mark.parametrize(
    ("parameters", "sequences"),
    [({}, 1), ({"concurrencies": [1, 16]}, 16), ({"concurrencies": [2], "request_rates": [3.0]}, 64),
     ({"concurrencies": [128], "find_peak": True}, 128), ({"concurrencies": [2], "find_peak": False}, 2)],
)  # fmt: skip
def test_a_server_has_the_sequences_of_its_workload(parameters: dict[str, Any], sequences: int) -> None:
    assert sequences_of(run_spec().model_copy(update={"parameters": parameters})) == sequences


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("random", "llama", "tiny", 0, tmp_path_factory.mktemp("model") / "m").path


H200 = Device("GPU-b", "NVIDIA H200", 140 * GIB, "580", "9.0", 3)


def test_a_run_s_processes_see_what_they_need(checkpoint: Path) -> None:
    place = placed(run_spec(str(checkpoint)), checkpoint, H200)
    assert place.shares.judge == "cuda" and place.weight_bytes > 0
    for role in ("judge", "evaluator"):
        assert place.role_environment(role)["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    trying = place.role_environment("implementer")
    assert "/dev/nvidia3" in trying["SARTOR_DEVICE_NODES"] and trying["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    for role in ("planner", "reviewer"):
        assert place.role_environment(role) == device.HIDDEN
    on_processor = dataclasses.replace(place.shares, judge="cpu", evaluator="cpu")
    place = dataclasses.replace(place, shares=on_processor)
    assert place.role_environment("judge") == place.role_environment("evaluator") == device.HIDDEN


def test_a_model_that_does_not_fit_twice_is_refused_with_both_sizes(checkpoint: Path) -> None:
    small = dataclasses.replace(H200, memory_bytes=4 * GIB)
    with pytest.raises(BadRequestError, match=r"NVIDIA H200 \(GPU-b\): both arms need .* GiB and .* GiB"):
        placed(run_spec(str(checkpoint)), checkpoint, small)
    own = run_spec(str(checkpoint)).model_copy(update={"baseline": {"arguments": ["--gpu-memory-utilization", "0.9"]}})
    with pytest.raises(BadRequestError, match=r"spec.baseline.arguments: --gpu-memory-utilization is set by the run"):
        placed(own, checkpoint, H200)


def test_planners_are_told_of_the_device_and_the_stack_s_share(checkpoint: Path) -> None:
    facts = placed(run_spec(str(checkpoint)), checkpoint, H200).hardware(4.2e12, 7e14)
    assert (facts.platform, facts.accelerators, facts.accelerator_uuids) == ("cuda", ("NVIDIA H200",), ("GPU-b",))
    assert (facts.accelerator_bytes, facts.read_bandwidth, facts.matrix_rate) == (140 * GIB, 4.2e12, 7e14)
    assert facts.cache_bytes is not None and facts.stack_bytes is not None and facts.cache_bytes < facts.stack_bytes
    assert "NVIDIA H200 (140.0 GiB, compute capability 9.0, driver 580, of which a stack" in facts.accelerator_words
    assert facts.cores >= 1 and placement.device_hardware(None).accelerators == ()


def held(used: dict[int, int], shares: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "tree_pids", lambda pids: frozenset({7, 8} if list(pids) == [7] else ()))
    place = Placement(H200, shares, 1, 1)
    place.check(7, nvml(Fake("GPU-b", pids=[*used], used=used)))


def test_a_candidate_is_held_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shares(140 * GIB, need(15 * GIB))
    held({7: GIB, 8: found.stack - GIB, 99: 80 * GIB}, found, monkeypatch)
    held({}, found, monkeypatch)  # NVML does not tell: nothing is known
    with pytest.raises(
        CandidateError, match=r"holds .* GiB of NVIDIA H200, and may hold .* GiB beside the baseline"
    ) as e:
        held({7: GIB, 8: found.stack}, found, monkeypatch)
    assert e.value.reason == "CandidateDeviceMemoryExceeded"


def test_a_candidate_has_time_to_load_what_it_loads() -> None:
    found = shares(140 * GIB, need(61 * GIB))
    assert Placement(H200, found, 61 * GIB, 1).ready_seconds > 180 + 61 * GIB / (256 << 20)
