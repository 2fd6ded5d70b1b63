"""The fingerprint of a machine, on trees of files as kernels show them, and what of its changes voids a window."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import Device, FakeNvml
from made_windows import window

from sartor_agents.measurement import clocks, contention, environment
from sartor_agents.measurement.accelerators import NoAccelerators, Nvml, open_accelerators
from sartor_agents.measurement.clocks import Clocks
from sartor_agents.measurement.contention import Contention, CpuTimes
from sartor_agents.measurement.messages import FailureClass, Reason
from sartor_agents.measurement.pairs import Pair, disturbed
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.surroundings import Disturbance, Reading, Surroundings, disturbances

POLICY = MeasurementPolicy()

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8
microcode\t: 0x2b000603
flags\t\t: fpu avx2 fma avx512f avx512_bf16 amx_tile amx_bf16

processor\t: 1
model name\t: another
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def test_a_server_with_everything_to_read(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO,
            "proc/self/cgroup": "0::/pod/ctr",
            "sys/fs/cgroup/pod/ctr/cpu.max": "150000 100000",
            "sys/fs/cgroup/pod/ctr/memory.max": "8589934592",
            "sys/fs/cgroup/pod/ctr/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance",
            "sys/devices/system/cpu/cpufreq/policy1/scaling_governor": "powersave",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "3800000",
            "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
            "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0-1",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "2",
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "5",
            "sys/devices/system/node/node0/cpulist": "0",
            "sys/devices/system/node/node1/cpulist": "1",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        },
    )
    seen = environment.identity(root=root)
    assert seen["cpu"] == {
        "model": "Intel(R) Xeon(R) Platinum 8480+", "vendor": "GenuineIntel", "family": "6/143/8",
        "microcode": "0x2b000603", "nodes": 2, "threads_per_core": 2,
        "flags": ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"],
    }  # fmt: skip
    assert seen["clocks"] == {
        "governor": "performance,powersave", "maximum_mhz": "3800", "no_turbo": "0", "clocksource": "tsc",
    }  # fmt: skip
    assert seen["memory"] == {"transparent_hugepages": "madvise"}
    limits = seen["limits"]
    assert isinstance(limits, dict) and limits["cpu_limit"] == 1.5 and limits["memory_limit_bytes"] == 8 << 30
    assert environment.throttled_seconds(root) == 2.5
    assert environment.heat_events(root) == 7


def test_control_groups_of_version_1_and_from_inside_a_container(tmp_path: Path) -> None:
    first = tree(
        tmp_path / "v1",
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc",
            # A container sees its own group at the top, whatever /proc says.
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nthrottled_time 1500000000",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert environment.limits(first)["cpu_limit"] == 0.5
    assert "memory_limit_bytes" not in environment.limits(first)
    assert environment.throttled_seconds(first) == 1.5
    unlimited = tree(tmp_path / "v2", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"})
    assert "cpu_limit" not in environment.limits(unlimited)


def test_where_nothing_can_be_read_nothing_is_invented(tmp_path: Path) -> None:
    seen = environment.identity(root=tmp_path)
    assert seen["clocks"] == {} and seen["memory"] == {} and seen["accelerators"] == []
    assert environment.throttled_seconds(tmp_path) is None and environment.heat_events(tmp_path) is None
    assert environment.changed(seen, environment.identity(root=tmp_path)) is None


def test_the_fingerprint_of_this_machine_names_no_host() -> None:
    seen = environment.fingerprint(NoAccelerators())
    assert {"cpu", "clocks", "limits", "cores", "memory_bytes", "kernel", "libraries", "accelerators"} <= seen.keys()
    assert len(environment.evaluator_digest()) == 64 == len(str(seen["evaluator"]))
    values = json.dumps({name: value for name, value in seen.items() if name not in ("libraries", "evaluator")})
    assert f'"{os.uname().nodename}"' not in values


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; for others the tests above are it")
def test_reading_needs_no_privilege() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        os.write(writer, json.dumps(environment.identity()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        as_nobody = json.load(stream)
    assert os.waitpid(child, 0)[1] == 0
    assert as_nobody == environment.identity()


def test_what_changed_is_named() -> None:
    one = {"clocks": {"governor": "performance"}, "accelerators": [{"uuid": "a"}]}
    assert environment.changed(one, dict(one)) is None
    other = {"clocks": {"governor": "powersave"}, "accelerators": [{"uuid": "a"}]}
    assert environment.changed(one, other) == "clocks.governor was 'performance' and is 'powersave'"  # pyright: ignore[reportArgumentType]
    assert "accelerators" in (environment.changed(one, {**one, "accelerators": []}) or "")  # pyright: ignore[reportArgumentType]


# --- clocks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Clocks(1010.0, 60.0, 110.0), None),
        (Clocks(1010.04, 60.0, 110.04), None),  # between two readings
        (Clocks(1010.5, 60.0, 110.0), "set by +0.50 s"),
        (Clocks(1000.0, 60.0, 110.0), "set by -10.00 s"),
        (Clocks(1040.0, 60.0, 140.0), "stood still for 30.00 s"),
        (Clocks(1010.5, 60.0, None), "set by"),
    ],
)
def test_clock_steps(after: Clocks, words: str | None) -> None:
    step = clocks.stepped(Clocks(1000.0, 50.0, 100.0), after)
    assert step is None if words is None else words in (step or "")


def test_a_slewed_clock_is_no_step() -> None:
    day = 86400.0
    assert clocks.stepped(Clocks(0.0, 0.0), Clocks(day * 1.0005, day)) is None


def test_the_clocks_of_this_machine_agree() -> None:
    before = clocks.read()
    time.sleep(0.01)
    assert clocks.stepped(before, clocks.read()) is None


# --- accelerators -------------------------------------------------------------------------------------------------------


def test_an_accelerator_is_described_as_far_as_it_answers() -> None:
    full = Nvml(FakeNvml(Device(), Device(uuid="GPU-2", supports={"name", "uuid", "memory"})))
    first, second = full.identity()
    assert first == {
        "name": "NVIDIA H200", "uuid": "GPU-1", "driver": "580.95.05", "vbios": "96.00", "memory_bytes": 150 << 30,
        "power_limit_w": 700.0, "sm_clock_max_mhz": 1980, "memory_clock_max_mhz": 3201, "sm_clock_set_mhz": 1500,
        "ecc": True, "mig": False, "persistence": True, "compute_mode": 0, "minor": 0, "capability": "9.0",
    }  # fmt: skip
    assert second == {"name": "NVIDIA H200", "uuid": "GPU-2", "driver": "580.95.05", "memory_bytes": 150 << 30}
    assert full.state()[1].slowed_ns is None and full.state()[1].pids == frozenset()


@pytest.mark.parametrize("library", [None, FakeNvml(broken=True)])
def test_without_library_or_driver_there_is_none(library: Any) -> None:
    def load() -> Any:
        if library is None:
            raise ModuleNotFoundError("pynvml")
        return library

    assert isinstance(open_accelerators(load), NoAccelerators)


def around(device: Device, change: Any, *, pids: dict[str, int] | None = None, arms: int = 1) -> list[Reason]:
    """Reasons for which a window is void in which `change` happens to the device."""
    surroundings = Surroundings(pids or {}, arms, Nvml(FakeNvml(device)))
    before = surroundings.read()
    change(device)
    return [d.reason for d in surroundings.between(before, surroundings.read(), arm="candidate").disturbances]


def change(**values: Any) -> Any:
    return lambda device: [setattr(device, name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("happens", "reasons"),
    [
        (change(), []),
        (change(throttle=0x1), []),  # idle
        (change(throttle=0x2 | 0x4), []),  # clocks that were set; the power limit, which is the device's own
        (change(throttle=0x40), [Reason.THROTTLED]),
        (change(throttle=0x80), [Reason.THROTTLED]),
        (change(violation_ns=3_000_000), [Reason.THROTTLED]),  # over again by the end of the window
        (change(uncorrected=1), [Reason.ACCELERATOR_FAULT]),
        (change(pids=[4242, 77]), [Reason.FOREIGN_PROCESS]),
        (change(driver="590.10"), [Reason.FINGERPRINT_CHANGED]),
        (change(mig=1), [Reason.FINGERPRINT_CHANGED]),
        (change(power_limit=400_000), [Reason.FINGERPRINT_CHANGED]),
    ],
)
def test_what_happens_to_an_accelerator_voids_a_window(happens: Any, reasons: list[Reason]) -> None:
    assert around(Device(pids=[4242]), happens) == reasons


def test_processes_of_the_measurement_may_compute() -> None:
    mine = os.getpid()
    assert around(Device(pids=[mine]), change(), pids={"candidate": mine, "baseline": mine}, arms=2) == []
    # With both servers known, one that was there from the beginning is foreign too.
    known = {"candidate": mine, "baseline": mine}
    assert around(Device(pids=[mine, 1]), change(), pids=known, arms=2) == [Reason.FOREIGN_PROCESS]


def test_energy_and_memory_of_a_window_are_the_arms_own() -> None:
    mine = os.getpid()
    device = Device(pids=[mine, 77], used={mine: 3 << 30, 77: 1 << 30})
    surroundings = Surroundings({"candidate": mine}, 2, Nvml(FakeNvml(device, Device(uuid="GPU-2", energy_mj=1))))
    before = surroundings.read()
    device.energy_mj += 42_000
    after = surroundings.read()
    seen = surroundings.between(before, after, arm="candidate")
    assert seen.energy_j == 42.0
    assert seen.device_bytes == 3 << 30
    assert surroundings.between(before, after, arm="baseline").device_bytes is None  # runs in another pod
    assert before.accelerators[0].as_record()["memory_clock_mhz"] == 3200


def test_energy_that_not_every_device_counts_or_that_starts_anew_is_not_guessed() -> None:
    device = Device()
    for other in (Device(uuid="GPU-2", supports={"name", "uuid"}), Device(uuid="GPU-2")):
        surroundings = Surroundings({}, 1, Nvml(FakeNvml(device, other)))
        before = surroundings.read()
        other.energy_mj = 3
        assert surroundings.between(before, surroundings.read(), arm="candidate").energy_j is None
    nothing = Surroundings({}, 1)
    assert nothing.between(nothing.read(), nothing.read(), arm="candidate").energy_j is None


# --- readings -----------------------------------------------------------------------------------------------------------


def reading(**changes: Any) -> Reading:
    values: dict[str, Any] = {
        "clocks": Clocks(100.0, 10.0, 10.0), "cpu": None, "identity": {"cpu": "x"}, "throttled": 1.0, "heat": 0,
    }  # fmt: skip
    return Reading(**{**values, **changes})


LATER = {"clocks": Clocks(110.0, 20.0, 20.0)}


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (LATER, None),
        ({"clocks": Clocks(115.0, 20.0, 20.0)}, Reason.CLOCK_STEPPED),
        ({**LATER, "identity": {"cpu": "y"}}, Reason.FINGERPRINT_CHANGED),
        ({**LATER, "throttled": 1.4}, None),
        ({**LATER, "throttled": 1.6}, Reason.THROTTLED),
        ({**LATER, "throttled": None}, None),
        ({**LATER, "heat": 1}, Reason.THROTTLED),
    ],
)
def test_what_voids_a_window(after: dict[str, Any], reason: Reason | None) -> None:
    found = disturbances(reading(), reading(**after), known=frozenset())
    assert [d.reason for d in found] == ([] if reason is None else [reason])


def test_a_change_between_two_windows_is_seen_in_the_later_one(tmp_path: Path) -> None:
    governor = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    surroundings = Surroundings(root=tree(tmp_path, {governor: "performance"}))
    first = surroundings.read()
    assert not surroundings.between(first, surroundings.read(), arm="a").disturbances
    tree(tmp_path, {governor: "powersave"})
    second = surroundings.read()
    found = surroundings.between(second, surroundings.read(), arm="b").disturbances
    assert [d.reason for d in found] == [Reason.FINGERPRINT_CHANGED]


def test_a_disturbed_window_voids_its_pair_whichever_arm_it_was() -> None:
    stepped = window(disturbances=(Disturbance(Reason.CLOCK_STEPPED, "the wall clock was set by +5.00 s"),))
    for pair in ((stepped, window()), (window(), stepped)):
        reason, why = disturbed(*pair, POLICY)
        assert reason is Reason.CLOCK_STEPPED and "+5.00 s" in why
    assert disturbed(window(), window(), POLICY) == (None, "")


# --- the other server ---------------------------------------------------------------------------------------------------


def test_a_server_that_works_while_the_other_is_measured() -> None:
    before = CpuTimes(0, 0, 0, 0, {"candidate": 1.0, "baseline": 5.0}, cores=4)
    after = CpuTimes(40, 20, 0, 15, {"candidate": 6.0, "baseline": 12.0}, cores=4)
    seen = contention.between(before, after, arm="baseline", servers_known=True)
    assert seen.idle_arms == {"candidate": 0.5}  # of ten seconds
    busy = Pair(window(), window(arm="baseline", contention=seen), Reason.IDLE_ARM_BUSY)
    assert disturbed(busy.candidate, busy.baseline, POLICY)[0] is Reason.IDLE_ARM_BUSY
    assert busy.blamed is FailureClass.CANDIDATE
    other = Pair(window(contention=Contention(0, 0, {"baseline": 0.5})), window(arm="baseline"), Reason.IDLE_ARM_BUSY)
    assert other.blamed is FailureClass.MEASUREMENT


def test_an_idle_baseline_that_looks_at_its_queues_is_no_disturbance() -> None:
    def seen(cores: float) -> Reason | None:
        return disturbed(window(contention=Contention(0, 0, {"baseline": cores})), window(arm="baseline"), POLICY)[0]

    assert seen(0.3) is None and seen(0.6) is Reason.IDLE_ARM_BUSY


def test_a_burning_process_is_attributed_to_its_arm() -> None:
    burn = "import time\nt = time.time()\nwhile time.time() < t + 20: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            surroundings = Surroundings({"candidate": process.pid}, arms=1)
            before, begun = surroundings.read(), time.monotonic()
            while sum(psutil.Process(process.pid).cpu_times()[:2]) < 0.5 and time.monotonic() < begun + 15:
                time.sleep(0.05)
            after, elapsed = surroundings.read(), time.monotonic() - begun
        finally:
            process.kill()
    assert surroundings.between(before, after, arm="baseline").contention.idle_arms["candidate"] * elapsed > 0.3
    assert surroundings.between(before, after, arm="candidate").contention.idle_arms == {}


def test_work_in_children_that_have_ended_is_attributed_too() -> None:
    child = "import time\nwhile time.process_time() < 0.1: pass"
    burn = f"import subprocess, sys\nwhile True: subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            begun, first = time.monotonic(), contention.read({"candidate": process.pid})
            assert first is not None
            used = 0.0
            while used < 0.5 and time.monotonic() < begun + 20:
                time.sleep(0.05)
                now = contention.read({"candidate": process.pid})
                assert now is not None
                used = now.servers["candidate"] - first.servers["candidate"]
        finally:
            process.kill()
    assert used >= 0.5


def test_the_library_is_asked_through_its_own_names() -> None:
    """The fake stands where `pynvml` would: every name that is used exists there."""
    pynvml = pytest.importorskip("pynvml")
    used = FakeNvml(Device())
    Nvml(used).identity()
    Nvml(used).state()
    assert used.asked and all(hasattr(pynvml, name) for name in used.asked)
