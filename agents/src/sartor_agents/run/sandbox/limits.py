"""What one command may use."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of one command and everything that it starts.

    Held by the kernel in every sandbox: `seconds` (wall clock, by the first program inside and by its parent outside),
    `cpu_seconds` (of one process), `workspace_bytes`, `temporary_bytes` and `shared_bytes` (file systems in memory),
    `files` (open in one process). Held by control groups where this user has them: `memory_bytes` (with all that was written
    into the file systems on top), `processes` (threads included), `cpus`. Without groups `memory_bytes` is the limit of one
    process's data, `processes` that of the sandbox's user (not for the machine's root, whom the kernel exempts), and a
    watching parent ends the command that is over either as a whole; `cpus` then has no effect.

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
