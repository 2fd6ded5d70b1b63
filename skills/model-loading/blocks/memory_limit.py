"""How much memory this process may still use, so that a decoder that cannot fit says so instead of being killed later."""

from pathlib import Path

from .decoder_errors import DecoderError

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # limit and use of version 2 (as seen inside a container) and version 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def available_memory() -> int | None:
    """Bytes that the system and the control group still grant; None where neither tells (not Linux)."""
    bounds = [free for limit, used in _CGROUPS if (free := _cgroup_free(limit, used)) is not None]
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                bounds.append(int(value.split()[0]) * 1024)
    return min(bounds) if bounds else None


def require_memory(needed: int, kv_pages: int) -> None:
    """Raise `DecoderError` when `needed` bytes (the cache's `kv_pages` included) are more than can be had."""
    available = available_memory()
    if available is not None and needed > available:
        raise DecoderError(
            f"weights and {kv_pages} KV pages need {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are available: "
            "lower KV_PAGES, or give the server more memory"
        )


def _cgroup_free(limit: Path, used: Path) -> int | None:
    if not (limit.is_file() and used.is_file()):
        return None
    bound = limit.read_text(encoding="ascii").strip()
    # "max" and, in version 1, a number near 2^63 mean that there is no limit.
    if bound == "max" or int(bound) > 1 << 60:
        return None
    # Page cache counts as used but is given back when needed, so the file-backed part is added again where it is known.
    return max(0, int(bound) - int(used.read_text(encoding="ascii")) + _reclaimable(limit.parent))


def _reclaimable(cgroup: Path) -> int:
    for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            return int(value)
    return 0
