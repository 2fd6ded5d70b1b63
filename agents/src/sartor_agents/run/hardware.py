"""What this machine is, as planners and reports need it."""

import os
import platform
from pathlib import Path

import psutil

from sartor_agents.backends.protocol import HardwareFacts


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


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
