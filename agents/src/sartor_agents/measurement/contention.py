"""What else used the machine in a window: stolen time and foreign load.

A virtual machine's neighbours show as `steal` in /proc/stat; other processes show as busy time that neither the servers nor
this process used. Either makes a window a measurement of something else. What biases a *ratio* is a difference between the
two windows of a pair; what makes even equal windows worthless is too much in all. Both have their limit in the policy.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of CPU since boot, all processors together; `own` is this process and the servers' process trees."""

    total: float
    idle: float
    stolen: float
    own: float


@dataclass(frozen=True, slots=True)
class Contention:
    """Shares of the machine's CPU time in a window. `foreign` is None when the servers' processes are not known."""

    stolen: float
    foreign: float | None

    @property
    def share(self) -> float:
        return self.stolen + (self.foreign or 0.0)


def parse_proc_stat(text: str, ticks: int) -> tuple[float, float, float]:
    """(total, idle, stolen) in seconds, from the first line of /proc/stat (`man 5 proc`)."""
    fields = [int(value) for value in text.splitlines()[0].split()[1:9]]
    return sum(fields) / ticks, (fields[3] + fields[4]) / ticks, fields[7] / ticks


def read(pids: Sequence[int]) -> CpuTimes | None:
    """The counters now; None on a system without /proc/stat (there nothing is known, and nothing is called disturbed)."""
    try:
        text = _PROC_STAT.read_text(encoding="ascii")
    except OSError:
        return None
    total, idle, stolen = parse_proc_stat(text, os.sysconf("SC_CLK_TCK"))
    return CpuTimes(total, idle, stolen, sum(_tree_seconds(pid) for pid in (os.getpid(), *pids)))


def _tree_seconds(pid: int) -> float:
    try:
        root = psutil.Process(pid)
        members = [root, *(root.children(recursive=True) if pid != os.getpid() else [])]
    except psutil.NoSuchProcess:
        return 0.0
    seconds = 0.0
    for process in members:
        try:
            times = process.cpu_times()
            seconds += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return seconds


def between(before: CpuTimes | None, after: CpuTimes | None, *, servers_known: bool) -> Contention:
    """The contention between two readings; zero where nothing is known."""
    if before is None or after is None or after.total <= before.total:
        return Contention(0.0, None)
    total = after.total - before.total
    stolen = max(0.0, after.stolen - before.stolen)
    busy = total - (after.idle - before.idle) - stolen
    foreign = max(0.0, busy - max(0.0, after.own - before.own)) / total if servers_known else None
    return Contention(min(1.0, stolen / total), foreign)
