"""What else used the machine in a window: stolen time, foreign load, and the server that was not being measured.

A virtual machine's neighbours show as `steal` in /proc/stat; other processes show as busy time that neither the servers nor
this process used. Either makes a window a measurement of something else. What biases a *ratio* is a difference between the
two windows of a pair; what makes even equal windows worthless is too much in all. Both have their limit in the policy.

The other server's CPU time is told apart, since it is no stranger's: a server that works while it is not asked either
slows the other one down or gets ready for its own turn.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of CPU since boot, all processors together; `own` is this process and the servers' process trees, `servers`
    each of these trees by arm."""

    total: float
    idle: float
    stolen: float
    own: float
    servers: Mapping[str, float] = field(default_factory=dict[str, float])
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Contention:
    """Shares of the machine's CPU time in a window. `foreign` is None when the servers' processes are not known.

    `idle_arms`: how many processors, on average, the servers used that were not being measured.
    """

    stolen: float
    foreign: float | None
    idle_arms: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def share(self) -> float:
        return self.stolen + (self.foreign or 0.0)


def parse_proc_stat(text: str, ticks: int) -> tuple[float, float, float]:
    """(total, idle, stolen) in seconds, from the first line of /proc/stat (`man 5 proc`)."""
    fields = [int(value) for value in text.splitlines()[0].split()[1:9]]
    return sum(fields) / ticks, (fields[3] + fields[4]) / ticks, fields[7] / ticks


def read(pids: Mapping[str, int]) -> CpuTimes | None:
    """The counters now; None on a system without /proc/stat (there nothing is known, and nothing is called disturbed)."""
    try:
        text = _PROC_STAT.read_text(encoding="ascii")
    except OSError:
        return None
    total, idle, stolen = parse_proc_stat(text, os.sysconf("SC_CLK_TCK"))
    servers = {arm: _tree_seconds(pid) for arm, pid in pids.items()}
    own = _tree_seconds(os.getpid()) + sum(servers.values())
    return CpuTimes(total, idle, stolen, own, servers, os.cpu_count() or 1)


def tree_pids(pids: Iterable[int]) -> frozenset[int]:
    """Process ids of the trees under `pids`, and our own."""
    found = {os.getpid()}
    for pid in pids:
        found.update(process.pid for process in _tree(pid))
    return frozenset(found)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *(root.children(recursive=True) if pid != os.getpid() else [])]
    except psutil.NoSuchProcess:
        return []


def _tree_seconds(pid: int) -> float:
    """CPU seconds of a server's tree, with those of children that have ended; of this process without its children."""
    seconds = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
            seconds += times.user + times.system
            if pid != os.getpid():
                seconds += times.children_user + times.children_system
        except psutil.NoSuchProcess:
            continue
    return seconds


def between(before: CpuTimes | None, after: CpuTimes | None, *, arm: str, servers_known: bool) -> Contention:
    """The contention of the window of `arm` between two readings; zero where nothing is known."""
    if before is None or after is None or after.total <= before.total:
        return Contention(0.0, None)
    total = after.total - before.total
    stolen = max(0.0, after.stolen - before.stolen)
    busy = total - (after.idle - before.idle) - stolen
    foreign = max(0.0, busy - max(0.0, after.own - before.own)) / total if servers_known else None
    seconds = total / after.cores
    idle_arms = {
        name: max(0.0, used - before.servers.get(name, used)) / seconds
        for name, used in after.servers.items()
        if name != arm
    }
    return Contention(min(1.0, stolen / total), foreign, idle_arms)
