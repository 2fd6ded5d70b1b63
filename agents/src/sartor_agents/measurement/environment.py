"""What a number depends on besides the code under test: processor, clocks, memory, kernel, limits, accelerators, versions,
and the evaluator itself.

`fingerprint` is recorded beside every measurement; `identity` is its part that must stay the same from the first window to
the last. Everything is read as any user may read it, from inside a container as well; what cannot be read is left out. No
host name, no user and no path: records are published.
"""

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import JsonValue

from .accelerators import Accelerators, NoAccelerators

_LIBRARIES = (
    "httptools", "uvloop", "tokenizers", "numpy", "scipy", "pyarrow", "torch", "transformers", "nvidia-ml-py",
    "sartor-agents",
)  # fmt: skip
_EVALUATOR = ("measurement", "scenarios", "judge", "roles")
# What decides which kernels an engine may choose.
_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve", "sve2", "bf16", "i8mm", "asimddp", "hypervisor",
)  # fmt: skip


def fingerprint(accelerators: Accelerators | None = None, *, root: Path = Path("/")) -> dict[str, JsonValue]:
    """Everything that is recorded beside a measurement. `root` is where /proc and /sys are."""
    return {
        **identity(accelerators, root=root),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "swap_bytes": psutil.swap_memory().total,
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "evaluator": evaluator_digest(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
    }


def identity(accelerators: Accelerators | None = None, *, root: Path = Path("/")) -> dict[str, JsonValue]:
    """What must not change while a measurement runs: processor, governor, limits of this container, devices."""
    return {
        "cpu": cpu(root),
        "clocks": clocks(root),
        "memory": memory(root),
        "limits": limits(root),
        "accelerators": list((accelerators or NoAccelerators()).identity()),
    }


def changed(before: dict[str, JsonValue], after: dict[str, JsonValue]) -> str | None:
    """The first fact that differs between two identities, in words; None when they are the same."""
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            inner = changed(was, now)
            if inner is not None:
                return f"{name}.{inner}"
        elif was != now:
            return f"{name} was {was!r} and is {now!r}"
    return None


def cpu(root: Path = Path("/")) -> dict[str, JsonValue]:
    """The processor: model, stepping, microcode, and those of its abilities that kernels are chosen by."""
    lines = _text(root / "proc/cpuinfo").splitlines()
    first: dict[str, str] = {}
    for line in lines:
        if not line.strip() and first:
            break
        name, _, value = line.partition(":")
        first[name.strip()] = value.strip()
    flags = (first.get("flags") or first.get("Features") or "").split()
    facts: dict[str, JsonValue] = {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "vendor": first.get("vendor_id"),
        "family": "/".join(first[key] for key in ("cpu family", "model", "stepping") if key in first) or None,
        "microcode": first.get("microcode"),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "threads_per_core": _threads_per_core(root),
    }
    return {name: value for name, value in facts.items() if value is not None}


def clocks(root: Path = Path("/")) -> dict[str, JsonValue]:
    """How the processor's clock is governed; virtual machines often show none of it. Frequencies in MHz."""
    base = root / "sys/devices/system/cpu"
    policies = sorted((base / "cpufreq").glob("policy[0-9]*"))
    facts: dict[str, JsonValue] = {
        "governor": ",".join(sorted({_text(policy / "scaling_governor") for policy in policies})) or None,
        "driver": ",".join(sorted({_text(policy / "scaling_driver") for policy in policies})) or None,
        "minimum_mhz": _megahertz(policies, "scaling_min_freq"),
        "maximum_mhz": _megahertz(policies, "scaling_max_freq"),
        "no_turbo": _text(base / "intel_pstate/no_turbo") or None,
        "boost": _text(base / "cpufreq/boost") or None,
        "clocksource": _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource") or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def memory(root: Path = Path("/")) -> dict[str, JsonValue]:
    """Settings of the memory that decide speed."""
    pages = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    chosen = pages.partition("[")[2].partition("]")[0]
    return {"transparent_hugepages": chosen} if chosen else {}


def limits(root: Path = Path("/")) -> dict[str, JsonValue]:
    """What this process and its container may use: processors, share of them, memory (cgroup v2 and v1)."""
    facts: dict[str, JsonValue] = {}
    if hasattr(os, "sched_getaffinity"):
        facts["processors"] = len(os.sched_getaffinity(0))
    quota, period = "", ""
    for group in _groups(root, "cpu"):
        if text := _text(group / "cpu.max"):
            quota, _, period = text.partition(" ")
        elif text := _text(group / "cpu.cfs_quota_us"):
            quota, period = text, _text(group / "cpu.cfs_period_us")
        if quota:
            break
    if quota.isdecimal() and period.isdecimal():
        facts["cpu_limit"] = int(quota) / int(period)
    for group in _groups(root, "memory"):
        most = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
        if most.isdecimal() and int(most) < 1 << 60:
            facts["memory_limit_bytes"] = int(most)
        if most:
            break
    return facts


def throttled_seconds(root: Path = Path("/")) -> float | None:
    """Seconds that this container has been held back by its CPU limit, ever; None where there is no such counter."""
    for group in _groups(root, "cpu"):
        for line in _text(group / "cpu.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == "throttled_usec":
                return int(value) / 1e6
            if name == "throttled_time":
                return int(value) / 1e9
    return None


def heat_events(root: Path = Path("/")) -> int | None:
    """How often processors have throttled themselves for heat, ever; None where the kernel does not count it."""
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
    counts = [int(text) for path in paths if (text := _text(path)).isdecimal()]
    return sum(counts) if counts else None


def evaluator_digest() -> str:
    """SHA-256 over the sources that measure and judge: two numbers with one digest were made by the same rules."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in _EVALUATOR:
        for path in sorted((root / folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group, innermost first: v2, then v1 (`man 7 cgroups`)."""
    base = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            found += [base / path.lstrip("/"), base]
        elif controller in controllers.split(","):
            found += [base / name / path.lstrip("/") for name in (controllers, controller)] + [base / controller]
    return found


def _threads_per_core(root: Path) -> int | None:
    siblings = _text(root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    if not siblings:
        return None
    first, dash, last = siblings.partition("-")
    return int(last) - int(first) + 1 if dash and last.isdecimal() else len(siblings.split(","))


def _megahertz(policies: list[Path], name: str) -> str | None:
    values = {int(text) // 1000 for policy in policies if (text := _text(policy / name)).isdecimal()}
    return ",".join(str(value) for value in sorted(values)) or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
