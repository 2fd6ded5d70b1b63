"""Control groups for one command, where this user may make them.

Version 1 (its hierarchies `memory`, `pids` and `cpu`) and version 2. In version 2 a group with processes may not hand
controllers on, so the new group is made beside this process's own, as systemd does for the scopes of a user's session.
Where there are none (a container without write access, a session without delegation) the limits of `Limits` that need
them fall back to what it says.
"""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.run.sandbox.limits import Limits

_PERIOD_MICROSECONDS = 100_000
_COUNTER = itertools.count()
_REMOVE_TRIES = 50


@dataclass(frozen=True)
class Group:
    """The folders of one command's group, by controller (`memory`, `pids`, `cpu`); in version 2 they are one folder."""

    folders: Mapping[str, Path]

    def joining(self) -> tuple[str, ...]:
        """What to put in front of a command so that it runs in the group from its first instruction."""
        script = 'for g in $0; do echo $$ > "$g/cgroup.procs" || exit 125; done; exec "$@"'
        return ("/bin/sh", "-c", script, " ".join(sorted({str(folder) for folder in self.folders.values()})))

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the group for its memory."""
        return self._events("memory.events", "memory.oom_control").get("oom_kill", 0) > 0

    def _events(self, *names: str) -> dict[str, int]:
        folder = self.folders.get("memory")
        for name in names:
            if folder is not None and (folder / name).is_file():
                pairs = (line.split() for line in (folder / name).read_text(encoding="ascii").splitlines())
                return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
        return {}

    def remove(self) -> None:
        """End what is left in the group, and the group."""
        for folder in {*self.folders.values()}:
            for _ in range(_REMOVE_TRIES):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last process is not gone yet
                    time.sleep(0.02)


@contextlib.contextmanager
def group(limits: Limits, *, root: Path = Path("/")) -> Generator[Group | None]:
    """A group with the limits, for as long as the context lasts; None where none can be made."""
    made = _version_1(limits, root) or _version_2(limits, root)
    try:
        yield made
    finally:
        if made is not None:
            made.remove()


def _name() -> str:
    return f"sartor-{os.getpid()}-{next(_COUNTER)}"


def _own(root: Path) -> dict[str, str]:
    """The group of this process by controller; version 2's is that of the empty name."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _total(limits: Limits) -> int:
    """Bytes of memory with what the sandbox's file systems may hold: the kernel counts them as well."""
    return limits.memory_bytes + limits.workspace_bytes + limits.temporary_bytes + limits.shared_bytes


def _version_1(limits: Limits, root: Path) -> Group | None:
    own, base, name = _own(root), root / "sys/fs/cgroup", _name()
    if not {"memory", "pids"} <= own.keys():
        return None
    settings = {
        "memory": {"memory.limit_in_bytes": str(_total(limits))},
        "pids": {"pids.max": str(limits.processes)},
    }
    if limits.cpus is not None and "cpu" in own:
        quota = max(1000, int(limits.cpus * _PERIOD_MICROSECONDS))
        settings["cpu"] = {"cpu.cfs_period_us": str(_PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)}
    folders: dict[str, Path] = {}
    try:
        for controller, values in settings.items():
            parent = base / controller / own[controller].lstrip("/")
            # Inside a container the path is the host's, and the container's own group is the mount's root.
            parent = parent if parent.is_dir() else base / controller
            folders[controller] = parent / name
            _make(parent / name, values)
        swap = folders["memory"] / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(str(_total(limits)), encoding="ascii")
    except OSError:
        Group(folders).remove()
        return None
    return Group(folders)


def _version_2(limits: Limits, root: Path) -> Group | None:
    own = _own(root).get("")
    if own is None:
        return None
    base = root / "sys/fs/cgroup"
    parent = (base / own.lstrip("/")).parent if own != "/" else base
    try:
        offered = set((parent / "cgroup.subtree_control").read_text(encoding="ascii").split())
    except OSError:
        return None
    if not {"memory", "pids"} <= offered:
        return None
    values = {"memory.max": str(_total(limits)), "memory.oom.group": "1", "pids.max": str(limits.processes)}
    if limits.cpus is not None and "cpu" in offered:
        values["cpu.max"] = f"{max(1000, int(limits.cpus * _PERIOD_MICROSECONDS))} {_PERIOD_MICROSECONDS}"
    folder = parent / _name()
    try:
        if not os.access(parent / "cgroup.procs", os.W_OK):
            return None  # moving a process here needs it
        _make(folder, values)
        swap = folder / "memory.swap.max"
        if swap.exists():
            swap.write_text("0", encoding="ascii")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True) if root != Path("/") else Group({"memory": folder}).remove()
        return None
    return Group({"memory": folder, "pids": folder, "cpu": folder})


def _make(folder: Path, values: Mapping[str, str]) -> None:
    folder.mkdir()
    for name, value in values.items():
        (folder / name).write_text(value, encoding="ascii")
