"""Attempts of containers as processes: started through a shim each, seen through what the shim leaves on disk.

The runner never is the parent of a container. Whether an attempt lives is asked of its FIFO `alive`, which has a writer as
long as its shim lives; so a runner that was killed finds everything again, and a pid that the system gave away anew is never
taken for the old process.
"""

import asyncio
import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sartor_runner.core.backoff import Backoff
from sartor_runner.core.observed import OOM_KILLED, STATUS_UNKNOWN, Run
from sartor_runner.core.pod import Container
from sartor_runner.errors import ContainerError
from sartor_runner.host import cri_log
from sartor_runner.host.directories import PodDirectory, read_json, remove_tree, write_json
from sartor_runner.host.sandbox import Identity, Launch
from sartor_runner.host.volumes import own

SHIM = Path(__file__).with_name("shim.py")
ENTER = Path(__file__).with_name("enter.py")
KILLED = 137
ROOT = "root"
"""The folder of an attempt that is the container's `/`: what it writes outside of volumes, gone when it ends."""
MESSAGE_BYTES = 4096
FALLBACK_BYTES, FALLBACK_LINES = 2048, 80
LOST = "The process was lost together with its supervisor (the machine restarted, or the supervisor was killed)"
START_SECONDS = 60.0


@dataclass(frozen=True)
class LogLimits:
    bytes: int
    files: int


def create(
    directory: PodDirectory,
    container: Container,
    attempt: int,
    identity: str,
    backoff: Backoff,
    user: Identity,
    cwd: str,
) -> Path:
    """The folder of a new attempt, with all that later questions need. One that never ran is replaced.

    Raises `ContainerError` while a start of this attempt that took too long has not ended: there must not be two of it.
    """
    folder = directory.attempt(container.name, attempt)
    if lives(folder):
        kill(folder)
        raise ContainerError("CreateContainerError", "an earlier start of this attempt has not ended yet; it is killed")
    remove_tree(folder)
    folder.mkdir(parents=True)
    for name in ("alive", "control"):
        os.mkfifo(folder / name, 0o600)
    (folder / "termination-log").touch(mode=0o666)
    (folder / "termination-log").chmod(0o666)
    (folder / ROOT / "var").mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (folder / ROOT / name).mkdir()
        (folder / ROOT / name).chmod(0o1777)
    (folder / ROOT / "run").mkdir()
    (folder / ROOT / "var/run").symlink_to("../run")  # relative: mounts below it are made from outside of the root
    if user.host_user is not None:
        own(folder / ROOT, user.host_user)
        os.chown(folder / "termination-log", user.host_user, user.host_user)
    write_json(
        folder / "attempt.json",
        {
            "id": f"sartor://{directory.uid}/{container.name}/{attempt}",
            "image": identity,
            "backoff": [backoff.delay, backoff.since],
            "user": user.user,
            "group": user.group,
            "directory": cwd,
            "fallback": container.termination_policy == "FallbackToLogsOnError",
        },
    )
    return folder


async def start(folder: Path, launch: Launch, user: Identity, limits: LogLimits) -> None:
    """Returns once the container runs or its start has failed; which of both, `load` tells.

    Raises `ContainerError` when not even the shim could be started.
    """
    order: dict[str, Any] = {
        "command": list(launch.command),
        "arguments": list(launch.arguments),
        "environment": dict(launch.environment),
        "sources": list(launch.sources),
        "bubblewrap": launch.bubblewrap,
        "directory": launch.directory,
        "user": user.host_user,
        "group": user.host_user,
        "log_bytes": limits.bytes,
        "log_files": limits.files,
    }
    shim = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(SHIM),
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        env={},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            await shim.communicate(json.dumps(order).encode())
    except TimeoutError as error:
        _terminate(shim)
        kill(folder)
        raise ContainerError(
            "CreateContainerError", f"the sandbox was not ready within {START_SECONDS:.0f} s"
        ) from error
    if shim.returncode != 0:
        raise ContainerError("CreateContainerError", f"the container's supervisor ended with code {shim.returncode}")


def load(attempt: int, folder: Path) -> Run | None:
    """The attempt as it is now; None when it was never begun."""
    created = read_json(folder / "attempt.json")
    if created is None:
        return None
    delay, since = created["backoff"]
    run = Run(attempt, created["id"], created["image"], backoff=Backoff(delay, since))
    stop = read_json(folder / "stop.json")
    if stop is not None:
        run = replace(run, stop_by=stop["by"])
    living = lives(folder)  # before the files are read: the shim writes them, then dies
    started, ended = read_json(folder / "started.json"), read_json(folder / "exit.json")
    if started is not None:
        run = replace(run, started_at=started["at"])
    if ended is None and living:
        return run
    if ended is None and started is None and not (folder / "log").exists():
        return None
    ended = ended or {"code": KILLED, "at": _changed(folder), "reason": STATUS_UNKNOWN, "message": LOST}
    killed = read_json(folder / "killed.json") or {}
    reason = killed.get("reason", "") if ended["code"] == KILLED else ""
    run = replace(run, exit_code=ended["code"], finished_at=ended["at"], reason=ended["reason"] or reason)
    return replace(run, message=ended["message"] or termination_message(folder, run, fallback=created["fallback"]))


def load_all(directory: PodDirectory) -> dict[str, tuple[Run, ...]]:
    """Every attempt of a pod that is still known, oldest first."""
    found: dict[str, tuple[Run, ...]] = {}
    for name, number, folder in directory.attempts():
        run = load(number, folder)
        if run is not None:
            found[name] = (*found.get(name, ()), run)
    return found


def termination_message(folder: Path, run: Run, *, fallback: bool) -> str:
    """What the container wrote to its termination log; its last lines instead, where its policy says so and it failed."""
    try:
        with (folder / "termination-log").open("rb") as file:
            text = file.read(MESSAGE_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""  # the container replaced the file by something unreadable
    if text or not fallback or (run.exit_code == 0 and run.reason != OOM_KILLED):
        return text
    return cri_log.tail_text(folder / "log", maximum_bytes=FALLBACK_BYTES, maximum_lines=FALLBACK_LINES)


def lives(folder: Path) -> bool:
    """Whether the shim of the attempt is there."""
    try:
        fd = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return _has_writer(fd)
    finally:
        os.close(fd)


def _has_writer(fd: int) -> bool:
    try:
        os.read(fd, 1)
    except BlockingIOError:
        return True
    return False


def watch(folder: Path, ended: Callable[[], None]) -> Callable[[], None]:
    """Calls `ended` once, from the event loop, when the shim is gone. Returns what ends the watching early."""
    loop = asyncio.get_running_loop()
    fd = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    closed = False

    def close() -> None:
        nonlocal closed
        if not closed:
            closed = True
            loop.remove_reader(fd)
            os.close(fd)

    def readable() -> None:
        if not closed and not _has_writer(fd):
            close()
            ended()

    loop.add_reader(fd, readable)
    if not _has_writer(fd):
        loop.call_soon(readable)
    return close


def send(folder: Path, command: str) -> None:
    """`signal NAME` or `kill` to the shim; nothing happens when it is gone."""
    try:
        fd = os.open(folder / "control", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return
        raise
    try:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(fd, command.encode() + b"\n")
    finally:
        os.close(fd)


def stop_by(folder: Path, by: float) -> None:
    """Notes that the attempt is being stopped, for a runner that comes after this one."""
    write_json(folder / "stop.json", {"by": by})


def kill(folder: Path, reason: str = "") -> None:
    """SIGKILL to the whole container; `reason` is what its end will be put down to."""
    if reason:
        write_json(folder / "killed.json", {"reason": reason})
    send(folder, "kill")


def pid(folder: Path) -> int | None:
    """The container's first process, as the host numbers it, while it lives."""
    started = read_json(folder / "started.json")
    return started["pid"] if started is not None and lives(folder) else None


async def execute(folder: Path, command: tuple[str, ...], timeout: float) -> tuple[int | None, str]:
    """Runs a command inside the container: (exit code, None when it ran out of time; the beginning of its output)."""
    process_id, created = pid(folder), read_json(folder / "attempt.json")
    if process_id is None or created is None:
        return 125, "the container is not running"
    order: Mapping[str, Any] = {"command": command, **{k: created[k] for k in ("directory", "user", "group")}}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(ENTER), str(process_id)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={},
    )
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate(json.dumps(order).encode())
    except TimeoutError:
        _terminate(process)
        await process.wait()
        return None, f"command timed out after {timeout:g} s"
    except asyncio.CancelledError:
        _terminate(process)
        raise
    return process.returncode, output[:1024].decode("utf-8", "replace").strip()


def _terminate(helper: asyncio.subprocess.Process) -> None:
    """The helper takes the command with it; it may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        helper.terminate()


def _changed(folder: Path) -> float:
    """The last sign of life of an attempt whose end nobody saw."""
    log = folder / "log"
    return (log if log.exists() else folder).stat().st_mtime
