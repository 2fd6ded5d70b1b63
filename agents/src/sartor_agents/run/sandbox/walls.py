"""What holds a command where no namespace can be had, as in a pod: lists for Landlock, and what the kernel does not count.

Landlock (landlock(7)) and seccomp are walls that a process puts around itself, so they need no right that Pod Security
`restricted` takes. What they cannot do is done beside them: Landlock knows ports and no addresses, so commands have a few
ports of their own for servers that they start; nothing counts what one command writes on a disk, so it is looked at.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

PORTS = range(18_000, 18_016)
"""On which a command may listen, and to which it may connect, whatever the address."""
WRITABLE = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm",
)  # fmt: skip
"""Beside the command's own folder."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc", "/proc", "/sys")
LOOK_SECONDS = 0.5
ALL_USERS = "0 0 4294967295"
"""The user map of the machine's own namespace."""


def readable() -> list[str]:
    """The system, and Python with its packages as this process has them: not its own folder, which `python -m` adds."""
    python = [sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent), *sys.path]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    here = str(Path.cwd())
    wanted = (path for path in (*python, *libraries) if Path(path).is_absolute() and path != here)
    return [*SYSTEM, *dict.fromkeys(wanted)]


def own_users() -> bool:
    """Whether this process's user is one of a namespace of its own, as where each pod has its own users.

    Elsewhere the kernel counts every process of that user on the machine as one of its own, other pods' too.
    """
    try:
        return " ".join(Path("/proc/self/uid_map").read_text(encoding="ascii").split()) != ALL_USERS
    except OSError:
        return False


@dataclass
class DiskWatch:
    """Whether all below `folder` takes more than `most` bytes of its disk; looked at no more often than is cheap."""

    folder: Path
    most: int
    _next: float = field(default=0.0, init=False)

    def over(self, now: float) -> bool:
        """`now` is any clock's seconds."""
        if now < self._next:
            return False
        self._next = now + LOOK_SECONDS
        return used_bytes(self.folder) > self.most


def used_bytes(folder: Path) -> int:
    """What plain files below take of the disk; those with several names once for each. Files come and go meanwhile."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total
