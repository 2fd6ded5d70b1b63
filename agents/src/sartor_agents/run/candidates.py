"""A candidate on this machine, built and served from its folder (`run.checkouts`), in a sandbox where there is one."""

import sys
from pathlib import Path

from sartor_agents.run.device import AS_IT_IS, Access
from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.sandbox import confined, sandbox_program
from sartor_agents.run.servers import HOST, ServerError, ServerSpec
from sartor_agents.run.storage import storage_errors

BUILD_SECONDS = 600.0
READY_SECONDS = 180.0
LOAD_BYTES = 200 << 20
"""Weights that a slow disk reads in a second."""


def ready_seconds(weight_bytes: int) -> float:
    """How long a candidate may take on a device: its weights cross a disk and a bus, and its kernels are compiled."""
    return READY_SECONDS + weight_bytes / LOAD_BYTES


class CandidateError(Exception):
    """The candidate's own fault. `reason` is a CamelCase constant."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def build(folder: Path, log: Path, *, timeout: float, memory_bytes: int | None, access: Access = AS_IT_IS) -> None:
    """`python -m stack build`, once per checkout. Raises `CandidateError`."""
    stamp = folder / ".built"
    if stamp.exists():
        return
    home, output = _folder(folder / "home"), _folder(folder / "stack" / "build")
    command = (sys.executable, "-m", "stack", "build")
    if (program := sandbox_program()) is not None:
        command = confined(command, program=program, folder=folder, home=home, writable=output, nodes=access.nodes)
    with GuardedProcess(
        command,
        cwd=folder,
        environment=scrubbed_environment(home, access.environment),
        log=log,
        memory_bytes=memory_bytes,
    ) as process:
        ended = process.wait(min(timeout, BUILD_SECONDS))
    if ended.problem == "TimedOut":
        raise CandidateError("BuildTimedOut", f"the build did not end within {min(timeout, BUILD_SECONDS):.0f} s")
    if ended.problem == "MemoryExceeded":
        raise CandidateError("BuildMemoryExceeded", "the build used more memory than a candidate may")
    if ended.code != 0:
        raise CandidateError("BuildFailed", f"the build ended with exit code {ended.code}\n{process.tail()}")
    with storage_errors(stamp):
        stamp.touch()


def server_spec(
    folder: Path,
    model_dir: Path,
    port: int,
    *,
    baseline_url: str | None,
    memory_bytes: int | None,
    access: Access = AS_IT_IS,
    ready_seconds: float = READY_SECONDS,
) -> ServerSpec:
    """How the stack in `folder` is served."""
    command = (sys.executable, "-m", "stack", "serve", "--model", str(model_dir), "--host", HOST, "--port", str(port))
    if baseline_url is not None:
        command += ("--baseline", baseline_url)
    home = _folder(folder / "home")
    if (program := sandbox_program()) is not None:
        command = confined(command, program=program, folder=folder, home=home, model_dir=model_dir, nodes=access.nodes)
    return ServerSpec(
        name="the candidate",
        command=command,
        cwd=folder,
        port=port,
        environment=scrubbed_environment(home, access.environment),
        ready_seconds=ready_seconds,
        memory_bytes=memory_bytes,
    )


def _folder(path: Path) -> Path:
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


__all__ = ["CandidateError", "ServerError", "build", "server_spec"]
