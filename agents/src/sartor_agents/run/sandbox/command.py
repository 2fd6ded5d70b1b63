"""A command of an agent on this machine: what it may see, what it may use, and what is kept of what it did.

Inside are, read-only, the system's programs, Python with its packages and what the caller shows (`readable`, the model);
`/workspace`, a copy of the worktree in memory; a home and /tmp in memory; user, process, IPC, host name, cgroup and network
namespaces of its own, so no network but the ways that the caller opens. The seccomp filter covers what namespaces do not.
Nothing on the machine's disk is writable: what is to be kept of the workspace comes out through a pipe and is checked
(`kept`). When the command ends, is over its time or the caller dies, everything of it dies.

In a pod the pod is the sandbox, and namespaces cannot be had in it. `Isolation.POD` puts the walls around a command that
need no right (`walls`): Landlock and the filter. So a command sees none of what is mounted into the pod (step, grant), can
look into no other process, and of the network has its ways out and a few ports for servers of its own. The rest is as here,
but for two things: the workspace lies on the pod's disk, and what is shown lies at its own path, to which words of a command
that begin with the path inside are changed (`shown`). Nobody gets it without asking for it.
"""

import contextlib
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from sartor_agents.run.process import GuardedProcess
from sartor_agents.run.sandbox import bubblewrap, seccomp, walls
from sartor_agents.run.sandbox.cgroups import Group, group
from sartor_agents.run.sandbox.errors import SandboxError
from sartor_agents.run.sandbox.kept import Kept, put_in_place, unpack
from sartor_agents.run.sandbox.limits import Limits
from sartor_agents.run.sandbox.output import Output

INSIDE = Path(__file__).with_name("inside.py")
WORKSPACE = "/workspace"
KEEP = "stack"
"""The folder of the worktree that a command may change."""

_AROUND = 8
"""Processes that lie around a command: shell, bubblewrap's two, the first program with its threads."""
_GRACE_SECONDS = 10.0
"""What starting and keeping may take beside the command's own time."""
_TIMED_OUT = 124
LOG_BYTES = 256 << 10
"""Of one command, in the log of all."""
_PAGE = 4096
_HOME = "/tmp/home"
_ENVIRONMENT = {
    "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1",
}  # fmt: skip


class Isolation(StrEnum):
    BUBBLEWRAP = "bubblewrap"
    POD = "pod"


@dataclass(frozen=True)
class Way:
    """The one way out: inside, 127.0.0.1:`port` leads to the UNIX socket `path` outside."""

    port: int
    path: Path


@dataclass(frozen=True)
class CommandResult:
    """`code` is the exit code (128 + signal for one that was killed). `problem`: None, `TimedOut`, `MemoryExceeded`,
    `ProcessesExceeded`, `DiskExceeded` or `Stopped`. `output` is text; the middle of a long one is left out. `kept`: whether
    the changes to `stack/` were taken over; `refused` what of them was not, with the reason."""

    code: int
    problem: str | None
    output: str
    seconds: float
    kept: bool
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandSandbox:
    """Runs commands over one worktree. `scratch`, a folder of the caller on the same file system, holds logs and what comes
    out; it is never shown inside.

    `readable` are folders shown read-only under a path inside. `tracing` allows a profiler to look into processes. `nodes`
    are those of NVIDIA's devices that commands see (None: all of the machine).
    """

    worktree: Path
    scratch: Path
    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = Isolation.BUBBLEWRAP
    readable: Mapping[str, Path] = field(default_factory=dict[str, Path])
    model_dir: Path | None = None
    ways: tuple[Way, ...] = ()
    tracing: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    nodes: tuple[Path, ...] | None = None

    def shown(self, path: str) -> str:
        """Where a command sees `path`, a path inside (`/skills/NAME`): as it is, but for pods."""
        if self.isolation is not Isolation.POD:
            return path
        places = dict(self.readable) | ({} if self.model_dir is None else {"/model": self.model_dir})
        for place, folder in places.items():
            if path == place or path.startswith(f"{place}/"):
                return f"{folder}{path.removeprefix(place)}"
        return path

    @property
    def home(self) -> str:
        """The command's home, gone with it."""
        return str(self.inside / "home") if self.isolation is Isolation.POD else _HOME

    @property
    def temporary(self) -> str:
        """Where it puts what is gone with it."""
        return str(self.inside / "tmp") if self.isolation is Isolation.POD else "/tmp"

    @property
    def inside(self) -> Path:
        """In a pod: the folder with all that one command may write."""
        return self.scratch / "inside"

    def run(self, command: Sequence[str], *, seconds: float | None = None, keep: bool = True) -> CommandResult:
        """Run to the end, and with `keep` take over what it changed in `stack/`. Raises `SandboxError`, `StorageError`."""
        limits = self.limits if seconds is None else replace(self.limits, seconds=min(seconds, self.limits.seconds))
        with started(replace(self, limits=limits), command, keep=keep) as running:
            return running.result()


class Running:
    """A command at work. Made by `started`, whose end is its end."""

    def __init__(
        self, sandbox: CommandSandbox, process: GuardedProcess, output: Output, pipe: int | None, members: Group | None
    ) -> None:
        self._sandbox = sandbox
        self.process = process
        self.output = output
        self._group = members
        self._kept: Kept | None = None
        self._error: Exception | None = None
        self._begun = time.monotonic()
        self._reader: threading.Thread | None = None
        if pipe is not None:
            self._reader = threading.Thread(target=self._read, args=(pipe,), name="what is kept", daemon=True)
            self._reader.start()

    def _read(self, pipe: int) -> None:
        target = self._sandbox.scratch / "kept"
        try:
            with os.fdopen(pipe, "rb") as stream:
                self._kept = unpack(stream, target, below=KEEP, most_bytes=self._sandbox.limits.workspace_bytes)
        except Exception as error:  # noqa: BLE001 - raised again by `result`
            self._error = error
            self.process.kill()

    def result(self) -> CommandResult:
        """Wait for the end."""
        limits = self._sandbox.limits
        ended = self.process.wait(max(0.0, self._begun + limits.seconds + _GRACE_SECONDS - time.monotonic()))
        if self._reader is not None:
            self._reader.join(_GRACE_SECONDS)
        if self._error is not None:
            raise self._error
        problem = ended.problem
        if problem is None and self._group is not None and self._group.out_of_memory():
            problem = "MemoryExceeded"
        if problem is None and ended.code == _TIMED_OUT and ended.seconds >= limits.seconds:
            problem = "TimedOut"
        kept = self._kept is not None and self._kept.complete
        if kept and self._kept is not None:
            put_in_place(self._kept.folder / KEEP, self._sandbox.worktree / KEEP)
        return CommandResult(
            ended.code, problem, self.output.text(), ended.seconds, kept, self._kept.refused if self._kept else ()
        )


@contextlib.contextmanager
def started(
    sandbox: CommandSandbox,
    command: Sequence[str],
    *,
    keep: bool,
    into: Mapping[int, int] | None = None,
    hear: Callable[[bytes], None] = lambda _: None,
) -> Generator[Running]:
    """The command running; everything of it is gone afterwards.

    `into`: descriptor of a listening UNIX socket → port inside that its connections reach. `hear` gets every byte of output,
    from a thread. Raises `SandboxError`.
    """
    if _size(sandbox.worktree) > sandbox.limits.workspace_bytes:
        raise SandboxError(
            "WorkspaceTooLarge",
            f"the worktree does not fit into a workspace of {sandbox.limits.workspace_bytes >> 20} MiB; "
            "make the stack smaller",
        )
    output = Output(sandbox.limits.output_bytes)

    def said(data: bytes) -> None:
        output.add(data)
        hear(data)

    with contextlib.ExitStack() as stack:
        members = stack.enter_context(group(sandbox.limits))
        reading, writing = os.pipe() if keep else (None, None)
        descriptors = [*(into or ()), *(() if writing is None else (writing,))]
        try:
            arguments = _arguments(sandbox, command, writing, into or {}, stack, descriptors, members)
            process = GuardedProcess(
                arguments,
                cwd=sandbox.worktree,
                environment={**_environment(sandbox), **sandbox.environment},
                log=sandbox.scratch / "commands.log",
                # Resident bytes count what processes share once for each: a measure for want of a group's.
                memory_bytes=sandbox.limits.memory_bytes + _mapped(sandbox) if members is None else None,
                log_bytes=LOG_BYTES,
                processes=sandbox.limits.processes + _AROUND if members is None else None,
                look=_disk(sandbox) if sandbox.isolation is Isolation.POD else None,
                pass_fds=descriptors,
                on_output=said,
            )
        except BaseException:
            if reading is not None:
                os.close(reading)
            raise
        finally:
            if writing is not None:
                os.close(writing)
        stack.enter_context(process)
        yield Running(sandbox, process, output, reading, members)


def _size(worktree: Path) -> int:
    """Bytes of memory that a copy of the folder's plain files takes."""
    total = 0
    for folder, _, names in os.walk(worktree):
        for name in names:
            status = (Path(folder) / name).lstat()
            if stat.S_ISREG(status.st_mode):
                total += -(-status.st_size // _PAGE) * _PAGE
    return total


def _arguments(
    sandbox: CommandSandbox,
    command: Sequence[str],
    writing: int | None,
    into: Mapping[int, int],
    stack: contextlib.ExitStack,
    descriptors: list[int],
    members: Group | None,
) -> tuple[str, ...]:
    """The whole command line; descriptors that it needs are added to `descriptors` and closed with `stack`."""
    joining = members.joining() if members is not None else ()
    pod = sandbox.isolation is Isolation.POD
    if pod:  # there it is on the disk, and nothing of the last command is to be found in it
        shutil.rmtree(sandbox.inside, ignore_errors=True)
        stack.callback(shutil.rmtree, sandbox.inside, ignore_errors=True)
    descriptors.append(_filter(stack, tracing=sandbox.tracing, shared_network=pod))
    configuration = {
        "source": str(sandbox.worktree) if pod else "/run/sartor/source",
        "workspace": str(sandbox.inside / "workspace") if pod else WORKSPACE,
        "keep": KEEP,
        "seconds": sandbox.limits.seconds,
        "limits": _limits(sandbox.limits, _mapped(sandbox), alone=not pod or walls.own_users()),
        "kept": writing,
        "out": {str(way.port): str(way.path) if pod else f"/run/sartor/way-{way.port}" for way in sandbox.ways},
        "into": {str(number): port for number, port in into.items()},
        "folders": [sandbox.home, sandbox.temporary],
        "alone": not pod,
        "walls": _walls(sandbox, descriptors[-1]) if pod else None,
    }
    first = (sys.executable, "-I", "-S", str(INSIDE) if pod else "/run/sartor/inside.py", json.dumps(configuration))
    if pod:
        return (*joining, *first, *map(sandbox.shown, command))
    program = bubblewrap.sandbox_program()
    if program is None:
        raise SandboxError(
            "SandboxMissing",
            "no command is run without a sandbox, and bubblewrap cannot make one here; install the package bubblewrap and "
            "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)",
        )
    return (*joining, program, *_bubblewrap(sandbox, descriptors[-1]), "--", *first, *command)


def _bubblewrap(sandbox: CommandSandbox, seccomp_descriptor: int) -> list[str]:
    limits = sandbox.limits
    arguments = [
        *bubblewrap.namespaces("sandbox"),
        "--unshare-net",
        "--disable-userns",
        "--uid",
        "1000",
        "--gid",
        "1000",
    ]
    arguments += bubblewrap.system(bubblewrap.SETTINGS)
    arguments += [
        "--size",
        str(limits.temporary_bytes),
        "--tmpfs",
        "/tmp",
        *bubblewrap.python(),
        *bubblewrap.libraries(sandbox.nodes),
    ]
    arguments += bubblewrap.kernel(limits.shared_bytes, sandbox.nodes)
    # The processors' number and caches, which PyTorch and OpenMP look up; for a device where it is on the bus.
    shown = [Path("/sys/devices/system/cpu"), Path("/sys/devices/system/node")]
    if sandbox.nodes:
        shown += [Path("/sys/bus/pci"), Path("/sys/module/nvidia"), *sorted(Path("/sys/devices").glob("pci*"))]
    for place in shown:
        arguments += ["--ro-bind-try", str(place), str(place)]
    if sandbox.model_dir is not None:
        arguments += bubblewrap.model(sandbox.model_dir, Path("/model"))
    for place, folder in sandbox.readable.items():
        arguments += ["--ro-bind", str(folder), place]
    arguments += ["--ro-bind", str(INSIDE), "/run/sartor/inside.py"]
    arguments += ["--ro-bind", str(sandbox.worktree), "/run/sartor/source"]
    for way in sandbox.ways:
        arguments += ["--ro-bind", str(way.path), f"/run/sartor/way-{way.port}"]
    arguments += ["--size", str(limits.workspace_bytes), "--tmpfs", WORKSPACE]
    return [*arguments, "--remount-ro", "/", "--chdir", WORKSPACE, "--seccomp", str(seccomp_descriptor)]


def _walls(sandbox: CommandSandbox, seccomp_descriptor: int) -> dict[str, object]:
    """Those of a pod, for the first program inside."""
    shown = [*sandbox.readable.values(), *(() if sandbox.model_dir is None else (sandbox.model_dir,))]
    return {
        "filter": seccomp_descriptor,
        "read": [*walls.readable(), *map(str, shown)],
        "write": [*walls.WRITABLE, str(sandbox.inside)],
        "bind": list(walls.PORTS),
        "connect": [*walls.PORTS, *(way.port for way in sandbox.ways)],
    }


def _disk(sandbox: CommandSandbox) -> Callable[[], str | None]:
    """Says when a command has written more than it may."""
    most = sandbox.limits.workspace_bytes + sandbox.limits.temporary_bytes
    watch = walls.DiskWatch(sandbox.inside, most)
    return lambda: "DiskExceeded" if watch.over(time.monotonic()) else None


def _mapped(sandbox: CommandSandbox) -> int:
    """Bytes of the model's weights. PyTorch maps them so that they count as a process's own, though they are the file's."""
    if sandbox.model_dir is None:
        return 0
    return sum(path.stat().st_size for path in sandbox.model_dir.glob("*.safetensors"))


def _limits(limits: Limits, mapped: int, *, alone: bool) -> dict[str, int]:
    """`alone`: no process outside counts as one of this sandbox's user."""
    held = {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_DATA": limits.memory_bytes + mapped,
        "RLIMIT_FSIZE": max(limits.workspace_bytes, limits.temporary_bytes),
        "RLIMIT_NOFILE": limits.files,
        "RLIMIT_CORE": 0,
    }
    return held | ({"RLIMIT_NPROC": limits.processes} if alone else {})


def _filter(stack: contextlib.ExitStack, *, tracing: bool, shared_network: bool) -> int:
    file = os.memfd_create("seccomp")
    stack.callback(os.close, file)
    os.write(file, seccomp.program(tracing=tracing, shared_network=shared_network))
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _environment(sandbox: CommandSandbox) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    passed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "OMP_NUM_THREADS", "TZ") if name in os.environ}
    return {**_ENVIRONMENT, **passed, "PATH": path, "HOME": sandbox.home, "TMPDIR": sandbox.temporary}


LONGEST_FOLDER = 80
"""Characters of a folder in which a socket's path stays within the 107 that the kernel takes."""


@contextlib.contextmanager
def socket_folder() -> Generator[Path]:
    """A folder for UNIX sockets, gone afterwards. A role's own TMPDIR lies deep in its run, often too deep for a socket."""
    usual = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="sartor-", dir=usual if len(usual) <= LONGEST_FOLDER else "/tmp") as folder:
        yield Path(folder)


@contextlib.contextmanager
def listening(path: Path) -> Generator[tuple[Path, int]]:
    """A listening UNIX socket at `path` (at most 107 characters) for those outside, and its descriptor for `into`."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        try:
            yield path, listener.fileno()
        finally:
            path.unlink(missing_ok=True)
