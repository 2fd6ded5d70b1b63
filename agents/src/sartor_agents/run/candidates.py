"""A candidate on this machine: its committed files written out, built, and served, in a sandbox where there is one.

What is started is what was committed: the files are written from the commit, their hash is compared with the one that gates
pass, and only then something of it runs. The worktree that the implementer wrote into is never executed.
"""

import shutil
import sys
from pathlib import Path

from sartor_agents.run.content import content_hash
from sartor_agents.run.device import AS_IT_IS, Access
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.sandbox import confined, sandbox_program
from sartor_agents.run.servers import HOST, ServerError, ServerSpec
from sartor_agents.run.storage import storage_errors

BUILD_SECONDS = 600.0
READY_SECONDS = 180.0


class CandidateError(Exception):
    """The candidate's own fault. `reason` is a CamelCase constant."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def checkout(repository: RunRepository, layout: RunLayout, commit: str, expected_hash: str) -> Path:
    """The folder that holds the `stack/` of this commit, written anew unless it is there already and whole.

    Raises `CandidateError` when the commit does not have the content that was judged.
    """
    files = repository.candidate_files(commit)
    if content_hash(files) != expected_hash:
        raise CandidateError(
            "ContentChanged", f"commit {commit[:12]} does not hold the content {expected_hash[:12]} that was committed"
        )
    folder = layout.work / f"checkout-{expected_hash[:16]}"
    if all((folder / path).is_file() and (folder / path).read_bytes() == data for path, data in files.items()):
        return folder
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
    repository.export(commit, folder)
    return folder


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


__all__ = ["CandidateError", "ServerError", "build", "checkout", "server_spec"]
