"""Memory of a container: what its processes hold for themselves.

The kubelet's limit is that of a control group. Here the processes are looked at: anonymous and shared memory of the whole
tree, a page that several of them share being counted once (proportional set size). File pages are not counted, as they can
be given back at any time.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PERIOD_SECONDS = 1.0
PROC = Path("/proc")


def descendants(pid: int) -> Iterator[int]:
    """`pid` and everything below it, as far as it is still there."""
    yield pid
    try:
        tasks = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return
    for task in tasks:
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            yield from descendants(int(child))


def over(pid: int, limit: int) -> bool:
    """Whether the tree below `pid` holds more than `limit` bytes. Cheap unless it is close to it."""
    if sys.platform != "linux":
        return group_bytes(pid) > limit
    pids = list(descendants(pid))
    if sum(map(_quick, pids)) <= limit:
        return False
    return sum(map(_exact, pids)) > limit


def used_bytes(pid: int) -> int:
    """Exact, for the statistics."""
    return sum(map(_exact, descendants(pid))) if sys.platform == "linux" else group_bytes(pid)


def group_bytes(group: int) -> int:
    """Resident memory of a process group by `ps`, where there is no /proc (macOS); shared pages count once per process."""
    listing = subprocess.run(["ps", "-axo", "pgid=,rss="], capture_output=True, text=True, check=False, timeout=10)
    pairs = (line.split() for line in listing.stdout.splitlines())
    return sum(int(pair[1]) * 1024 for pair in pairs if len(pair) == 2 and pair[0] == str(group))


def _quick(pid: int) -> int:
    return _sum(PROC / str(pid) / "status", ("RssAnon:", "RssShmem:"))


def _exact(pid: int) -> int:
    return _sum(PROC / str(pid) / "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) or _quick(pid)


def _sum(path: Path, names: tuple[str, ...]) -> int:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0  # it has ended, or is no longer ours to look at
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
