"""What this machine is, as planners and reports need it."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import JsonValue

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.measurement.accelerators import Accelerators, open_accelerators

ACCELERATOR_FACTS = ("accelerators", "accelerator_bytes", "capability", "driver")
"""What of a baseline's fingerprint tells of accelerators; absent where there are none."""


def local_hardware() -> HardwareFacts:
    """The CPU of this machine. Cores are those that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    info = _cpu_info()
    return HardwareFacts(
        platform="cpu",
        machine=platform.machine(),
        cpu_model=info.get("model name", platform.processor()),
        cores=cores,
        cpu_flags=tuple(sorted(info.get("flags", "").split())),
        memory_bytes=psutil.virtual_memory().total,
    )


def pod_hardware(open_devices: Callable[[], Accelerators] = open_accelerators) -> HardwareFacts:
    """The machine of a pod, with the devices that its container was given; of which platform a run is, its spec says."""
    devices = open_devices().identity()
    told = [one for one in devices if isinstance(one.get("name"), str)]
    here = local_hardware()
    if not told:
        return here
    first = told[0]
    return HardwareFacts.model_validate(
        {
            **here.model_dump(),
            "accelerators": [one["name"] for one in told],
            "accelerator_bytes": first.get("memory_bytes"),
            "capability": first.get("capability") or "",
            "driver": first.get("driver") or "",
        }
    )


def fingerprint(facts: HardwareFacts) -> dict[str, JsonValue]:
    """The machine in the baseline's record: planners on other machines read it from there."""
    telling = [flag for flag in facts.cpu_flags if flag.startswith(("avx512", "amx", "bf16", "sve", "avx2"))]
    found: dict[str, JsonValue] = {
        "cpu": facts.cpu_model,
        "cores": facts.cores,
        "memory_bytes": facts.memory_bytes,
        "machine": facts.machine,
        "cpu_flags": [*telling],
    }
    if facts.accelerators:
        found |= {
            "accelerators": [*facts.accelerators],
            "accelerator_bytes": facts.accelerator_bytes,
            "capability": facts.capability,
            "driver": facts.driver,
        }
    return found


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
