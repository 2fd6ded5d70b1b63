"""Processes under guard: started in a scrubbed environment, watched, and gone when they should be.

Every process of a run (roles, candidates, builds) is started here, below `guard`, which ends the whole tree when this
process closes the pipe or dies in any way. Memory is watched over the whole tree, since one process's limit says nothing
about its children.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from sartor_agents.run.guard import descendants
from sartor_agents.run.storage import storage_errors

GUARD = Path(__file__).with_name("guard.py")
DEVICES = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES")
"""What says which accelerators there are and where their libraries lie."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", *DEVICES)
"""What a process inherits; everything else (credentials above all) it is given explicitly or not at all."""

SANDBOX = "bwrap"
"""How the processes are called that a sandbox puts around a command (`run.sandbox`)."""

WATCH_SECONDS = 0.5
"""Between two looks at a tree's memory; a look costs well under a millisecond, so it does not disturb a measurement."""


def scrubbed_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A fresh environment with `home` as HOME and TMPDIR, so that nothing of the user's is read or written."""
    inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        "LANG": "C.UTF-8",
        **inherited,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",  # what a role or a build leaves in its folder is recorded whole
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


SHORT_WATCH_SECONDS = 0.1
"""The same where the number of processes is limited too: those multiply faster than memory fills."""

_LONGEST_POLL = 2**31 - 1
"""Milliseconds; no process is waited for that long (24 days)."""

LOG_BYTES = 64 << 20
LONGEST_LINE = 64 << 10


def _resident(tree: Sequence[psutil.Process]) -> int:
    total = 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _wait(process: "subprocess.Popen[bytes]", timeout: float | None) -> None:
    """As `Popen.wait`, which with a timeout looks every 50 ms; here the kernel tells at once, where it can.

    Raises `subprocess.TimeoutExpired`.
    """
    if timeout is None or not hasattr(os, "pidfd_open"):
        process.wait(timeout)
        return
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # it was waited for already, or the kernel is older than 5.3
        process.wait(timeout)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = poll.poll(min(timeout * 1000, _LONGEST_POLL))
    finally:
        os.close(descriptor)
    if not ended:
        raise subprocess.TimeoutExpired(process.args, timeout)
    # It has ended. With a timeout, of 0 say, this would fail while another thread looks whether it lives.
    process.wait()


@dataclass(frozen=True)
class Ended:
    """How a process ended. `code` is negative-free.

    `problem` is None, `TimedOut`, `MemoryExceeded`, `ProcessesExceeded`, what `look` said, or `Stopped`.
    """

    code: int
    problem: str | None
    seconds: float


class GuardedProcess:
    """One process tree. Use as a context manager: leaving it kills what is left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        log: Path,
        memory_bytes: int | None = None,
        processes: int | None = None,
        look: Callable[[], str | None] | None = None,
        log_bytes: int = LOG_BYTES,
        pass_fds: Sequence[int] = (),
        on_line: Callable[[str], None] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> None:
        """Start `command`. Both its streams are appended to `log`, up to `log_bytes` of them.

        `on_line` sees each line, `on_output` every byte in pieces (both from a thread). `processes` is a limit for the tree
        with what a sandbox puts around the command. `look` is asked again and again; what it says ends the process, as its
        problem. `pass_fds` are open in it under the same numbers.
        """
        self.command = tuple(command)
        self.log = log
        self.peak_bytes = 0
        self._memory_bytes = memory_bytes
        self._processes = processes
        self._look = look
        self._log_left = log_bytes
        self._on_output = on_output
        self._problem: str | None = None
        self._started = time.monotonic()
        self._tail: deque[str] = deque(maxlen=40)
        self._ending = threading.Lock()
        reading, self._pipe = os.pipe()
        try:
            with storage_errors(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                self._log = log.open("ab")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(reading), *command],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(reading, *pass_fds),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)
        self._on_line = on_line
        self._listener_error: Exception | None = None
        self._reader = threading.Thread(target=self._read, name=f"log of {command[0]}", daemon=True)
        self._reader.start()
        self._watcher: threading.Thread | None = None
        if memory_bytes is not None or processes is not None or look is not None:
            self._watcher = threading.Thread(target=self._watch, name="memory watch", daemon=True)
            self._watcher.start()

    def _read(self) -> None:
        assert self._process.stdout is not None, "started with a pipe"
        with self._log, self._process.stdout as stream:
            # A process that never ends its line must not fill this one's memory.
            while raw := stream.readline(LONGEST_LINE):
                line = raw.decode(errors="replace").rstrip("\n")
                self._tail.append(line)
                self._write(raw)
                self._hear(raw, line)

    def _write(self, raw: bytes) -> None:
        """Into the log, which says where it was cut off. A full disk must not stop the process by a blocked pipe."""
        if self._log_left <= 0:
            return
        self._log_left -= len(raw)
        with contextlib.suppress(OSError):
            self._log.write(raw if self._log_left > 0 else b"[the log ends here: it has reached its size]\n")
            self._log.flush()

    def _hear(self, raw: bytes, line: str) -> None:
        """Pass a line on. A listener that fails ends the process; `wait` raises its error in the caller's thread."""
        try:
            if self._on_output is not None:
                self._on_output(raw)
            if self._on_line is not None:
                self._on_line(line)
        except Exception as error:  # noqa: BLE001 - raised again by `wait`
            self._on_line, self._on_output, self._listener_error = None, None, error
            self.kill()

    def _watch(self) -> None:
        while self._process.poll() is None:
            tree = self._tree()
            used = _resident(tree)
            self.peak_bytes = max(self.peak_bytes, used)
            over = None
            if self._memory_bytes is not None and used > self._memory_bytes:
                over = "MemoryExceeded"
            elif self._processes is not None and len(tree) > self._processes:
                over = "ProcessesExceeded"
            elif self._look is not None:
                over = self._look()
            if over is not None:
                self._problem = self._problem or over
                self.kill()
                return
            time.sleep(WATCH_SECONDS if self._processes is None else SHORT_WATCH_SECONDS)

    def memory(self) -> int:
        """Resident bytes of the whole tree now."""
        return _resident(self._tree())

    def _tree(self) -> list[psutil.Process]:
        """The command and everything below it, without the guard."""
        if not Path("/proc/self/task").is_dir():
            try:
                return psutil.Process(self._process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                return []
        found: list[psutil.Process] = []
        for pid in descendants(self._process.pid):
            try:
                found.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
        return found

    @property
    def pid(self) -> int:
        """The guard, root of the tree."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def problem(self) -> str | None:
        return self._problem

    def tail(self, lines: int = 8) -> str:
        """The last lines that it wrote."""
        return "\n".join(list(self._tail)[-lines:])

    def interrupt(self) -> None:
        """SIGTERM to the command (not to its children): it may end in its own time.

        A sandbox's own processes lie between the guard and the command; ended first, they would take it with them.
        """
        for process in self._tree():
            try:
                if process.name() == SANDBOX:
                    continue
                process.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess:
                continue
            return

    def wait(self, timeout: float | None) -> Ended:
        """Until it ends, or kill it after `timeout` seconds. Ended trees are gone whole."""
        try:
            _wait(self._process, timeout)
        except subprocess.TimeoutExpired:
            self._problem = self._problem or "TimedOut"
            self.kill()
        return self._ended()

    def stop(self, grace: float = 5.0) -> Ended:
        """Ask it to end, and kill what is left after `grace` seconds."""
        if self.alive:
            self._problem = self._problem or "Stopped"
            self.interrupt()
            try:
                _wait(self._process, grace)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._ended()

    def kill(self) -> None:
        """End the whole tree at once."""
        with self._ending:
            if self._pipe >= 0:
                os.close(self._pipe)
                self._pipe = -1
        self._process.wait()

    def _ended(self) -> Ended:
        self.kill()
        self._reader.join(5)
        if (error := self._listener_error) is not None:
            self._listener_error = None
            raise error
        return Ended(self._process.returncode, self._problem, time.monotonic() - self._started)

    def __enter__(self) -> "GuardedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._problem = self._problem or (None if not self.alive else "Stopped")
        self._ended()
