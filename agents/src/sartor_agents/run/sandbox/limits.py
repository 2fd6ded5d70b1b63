"""What one command may use."""

import math
from dataclasses import dataclass

from sartor_api.search.agents import SandboxSettings

MIB = 1 << 20
AROUND_BYTES = 512 * MIB
"""Of a pod's memory, what is left to the agent itself, or half of it where that is less."""
SHARES = 4
"""Of a pod's disk: the worktree, one command's workspace and its temporary files, and room for what is kept."""


@dataclass(frozen=True)
class Limits:
    """Limits of one command and everything that it starts.

    Held by the kernel in every sandbox: `seconds` (wall clock, by the first program inside and by its parent outside),
    `cpu_seconds` (of one process), `workspace_bytes`, `temporary_bytes` and `shared_bytes` (file systems in memory),
    `files` (open in one process). Held by control groups where this user has them: `memory_bytes` (with all that was written
    into the file systems on top), `processes` (threads included), `cpus`. Without groups `memory_bytes` is the limit of one
    process's data, `processes` that of the sandbox's user (not for the machine's root, whom the kernel exempts), and a
    watching parent ends the command that is over either as a whole; `cpus` then has no effect.

    In a pod, where a command writes on the pod's disk, `workspace_bytes` and `temporary_bytes` are together what it may
    write; a watching parent ends one that wrote more. `processes` is the kernel's to hold only where the pod's user is one
    of a namespace of its own.

    `output_bytes` is what is kept of what it prints, half of it from the beginning and half from the end.
    """

    seconds: float = 120.0
    cpu_seconds: int = 600
    memory_bytes: int = 4096 * MIB
    processes: int = 512
    cpus: float | None = None
    workspace_bytes: int = 512 * MIB
    temporary_bytes: int = 1024 * MIB
    shared_bytes: int = 256 * MIB
    files: int = 4096
    output_bytes: int = 64 * 1024

    @classmethod
    def of(cls, given: SandboxSettings | None, *, pod: bool) -> "Limits":
        """Those that a profile gives; without one the defaults.

        In a `pod` memory and disk are those of its container, which a command shares with the agent and with the candidate
        that it tries. Elsewhere a command's files lie in memory of their own, of which it gets no more for a larger disk.
        """
        if given is None:
            return cls()
        around = min(AROUND_BYTES, given.memory_bytes // 2) if pod else 0
        room = given.disk_bytes // SHARES
        return cls(
            seconds=given.command_seconds,
            cpu_seconds=max(cls.cpu_seconds, math.ceil(given.command_seconds * given.cpus)),
            memory_bytes=given.memory_bytes - around,
            processes=given.processes,
            cpus=given.cpus,
            workspace_bytes=room if pod else min(cls.workspace_bytes, room),
            temporary_bytes=room if pod else min(cls.temporary_bytes, room),
        )
