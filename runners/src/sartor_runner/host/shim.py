# pathlib is not imported here, it costs start-up time.
# ruff: noqa: PTH102, PTH104, PTH108, PTH112, PTH119, PTH123
"""Holds one attempt of one container: starts it, writes its log, and leaves its end on disk.

    python -I -S shim.py DIRECTORY < ORDER

The first process returns 0 once the container runs or has failed to start; the shim itself goes on in a session of its own,
so that the container outlives the runner. What it leaves in DIRECTORY:

- `alive`: a FIFO whose writing end it holds while it lives; a reader sees the end of file when it is gone.
- `control`: a FIFO of commands, one line each: `signal NAME`, `kill`.
- `started.json`, `exit.json`: `{"pid", "at"}` and `{"code", "at", "reason", "message"}`, written whole or not at all.
- `log`, `log.1`, …: the CRI's log format (`TIME STREAM TAG LINE`), rotated by size.

ORDER is JSON, see `Order` in `containers.py`; it comes by the standard input because it holds the container's variables,
which may be secret and belong neither into a command line nor onto the disk. Standard library only and nothing of Sartor:
it starts in some 20 ms and takes about 8 MB.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

CHUNK = 16384
"""A line longer than this is written in parts tagged P, the last one F, as the CRI does."""
EXECUTED_WITHIN = 2.0
OOM_SCORE = "500"
"""When the machine runs out of memory, pods go before the runner and its supervisors."""
DRAIN_SECONDS = 1.0
ERROR_BYTES = 2048
START_FAILED = 128
"""Exit code of a container whose process could not be started, as containerd reports it."""

CLONE_NEWNS = 0x00020000
F_SETPIPE_SZ, PIPE_BYTES = 1031, 1 << 20
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def write_whole(path: str, data: Mapping[str, Any]) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file)
    os.rename(temporary, path)


class Log:
    """One log file with rotation: at most `files` of at most `limit` bytes."""

    def __init__(self, path: str, limit: int, files: int) -> None:
        self.path, self.limit, self.files = path, limit, files
        self.partial = {"stdout": b"", "stderr": b""}
        self._open()

    def _open(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.file).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Takes bytes of a stream; whole lines go to the file at once, the rest waits for its end."""
        lines = (self.partial[stream] + data).split(b"\n")
        self.partial[stream] = lines.pop()
        for line in lines:
            while len(line) > CHUNK:
                self._line(stream, b"P", line[:CHUNK])
                line = line[CHUNK:]
            self._line(stream, b"F", line)
        while len(self.partial[stream]) > CHUNK:
            self._line(stream, b"P", self.partial[stream][:CHUNK])
            self.partial[stream] = self.partial[stream][CHUNK:]

    def finish(self) -> None:
        """What has no newline at the end is a line all the same."""
        for stream, rest in self.partial.items():
            if rest:
                self._line(stream, b"F", rest)
        self.partial = {"stdout": b"", "stderr": b""}

    def _line(self, stream: str, tag: bytes, text: bytes) -> None:
        now = time.time_ns()
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        line = b"%s.%09dZ %s %s %s\n" % (whole.encode(), now % 10**9, stream.encode(), tag, text)
        # A full disk costs lines of the log, not the container.
        with contextlib.suppress(OSError):
            if self.size and self.size + len(line) > self.limit:
                self._rotate()
            self.size += os.write(self.file, line)

    def _rotate(self) -> None:
        full = self.file
        for number in range(self.files - 1, 0, -1):
            old = self.path if number == 1 else f"{self.path}.{number - 1}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(old, f"{self.path}.{number}")
        if self.files == 1:
            os.unlink(self.path)
        self._open()  # where this fails, what is open already takes the lines
        os.close(full)


def stage(sources: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Makes every bind source reachable for a user who may not walk the path to it, in a mount namespace of our own.

    Only for the real root user: the sandbox is built as an ordinary one, who cannot enter, say, another user's home, though
    the configuration says that a folder in it is to be shown. Returns the arguments with the sources replaced.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{what}: {os.strerror(code)}")

    def mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
        check(libc.mount(source.encode(), target.encode(), kind, flags, data), f"cannot mount {source}")

    check(libc.unshare(CLONE_NEWNS), "cannot make a mount namespace")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    opened = {source: os.open(source, os.O_PATH) for source in sources}
    base = next(folder for folder in ("/mnt", "/media", "/srv", "/tmp") if os.path.isdir(folder))
    mount("tmpfs", base, b"tmpfs", 0, b"mode=755,size=1m")
    replaced: dict[str, str] = {}
    for number, (source, fd) in enumerate(opened.items()):
        target = f"{base}/{number}"
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{fd}", target, None, MS_BIND | MS_REC)
        replaced[source] = target
        os.close(fd)
    binding = {"--bind", "--ro-bind", "--dev-bind"}
    return [replaced.get(a, a) if i and arguments[i - 1] in binding else a for i, a in enumerate(arguments)]


def become(user: int, group: int) -> None:
    """The ordinary user that the sandbox is built as."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def launch(order: Mapping[str, Any], pipes: tuple[int, int], status: int | None) -> NoReturn:
    """The child: becomes the sandbox program. Never returns.

    With `status` that is Bubblewrap, which takes its order through a pipe; without it a program that takes it on the
    command line and hands its variables on (sandbox-exec).
    """
    out, err = pipes
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        os.umask(0o022)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(OOM_SCORE)
        command = list(order["command"])
        if status is None:
            os.chdir(order["directory"])
        else:
            arguments = order["arguments"]
            if order.get("user") is not None:
                arguments = stage(order["sources"], arguments)
                become(order["user"], order["group"])
            words = {"{args}": str(_argument_pipe(arguments)), "{status}": str(status)}
            os.set_inheritable(status, True)
            command = [words.get(word, word) for word in command]
        os.execve(command[0], command, order["environment"])
    except OSError as error:
        os.write(2, f"sartor-runner: {error.strerror or error}\n".encode())
    finally:
        os._exit(127)


def _argument_pipe(arguments: Sequence[str]) -> int:
    """A pipe that holds all arguments, so that none of them shows on a command line."""
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, PIPE_BYTES)  # nobody reads before the exec
    os.set_blocking(write, False)
    data = b"".join(a.encode() + b"\0" for a in arguments)
    if os.write(write, data) != len(data):
        raise OSError(errno.E2BIG, "the container's variables and mounts are larger than 1 MiB")
    os.close(write)
    os.set_inheritable(read, True)
    return read


class Container:
    """The running container as the shim sees it: `child` is the sandbox program, `pid` the container's own first process
    (seen from outside)."""

    def __init__(self, order: Mapping[str, Any], status: int | None) -> None:
        self.order, self.status, self.status_data = order, status, b""
        self.child = 0
        self.pid: int | None = None
        self.handle: int | None = None
        self.code: int | None = None
        self.executed = False

    def read_status(self) -> None:
        """Bubblewrap's JSON documents: the pid, and the exit code if the command was really executed."""
        if self.status is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.status, 4096):
                self.status_data += data
        *lines, self.status_data = self.status_data.split(b"\n")
        for line in lines:
            document = json.loads(line)
            if "child-pid" in document:
                pid = int(document["child-pid"])
                self.pid = pid
                if hasattr(os, "pidfd_open"):
                    with contextlib.suppress(ProcessLookupError):
                        self.handle = os.pidfd_open(pid)
            if "exit-code" in document:
                self.executed, self.code = True, document["exit-code"]

    def has_executed(self) -> bool:
        """Whether the sandbox is built and the command has taken over."""
        if self.status is None:
            return True
        if self.pid is None:
            return False
        try:
            with open(f"/proc/{self.pid}/comm", encoding="utf-8", errors="replace") as file:
                return file.read().strip() != os.path.basename(self.order["command"][0])[:15]
        except OSError:
            return False

    def send(self, number: int) -> None:
        """To the container's first process; SIGKILL takes all the others with it (PID namespace or process group)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.handle is not None:
                signal.pidfd_send_signal(self.handle, number)
            elif self.status is None:
                (os.killpg if number == signal.SIGKILL else os.kill)(self.child, number)
            elif number == signal.SIGKILL:
                os.kill(self.child, number)

    def reap(self) -> bool:
        """True once the sandbox program has ended; `code` is then set."""
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if pid == 0:
            return False
        self.read_status()
        code = os.waitstatus_to_exitcode(status)
        if self.status is None:
            self.executed = not (code == 71 or code == 127)
        if self.code is None:
            self.code = code if code >= 0 else 128 - code
            self.executed = self.executed or code < 0
        return True


def serve(directory: str, order: Mapping[str, Any], ready: Callable[[], None]) -> None:
    """Runs the container to its end. `ready` is closed once it runs or has failed to."""
    os.chdir(directory)
    os.open("alive", os.O_RDWR)  # held until this process ends
    control = os.open("control", os.O_RDWR | os.O_NONBLOCK)
    log = Log("log", order["log_bytes"], order["log_files"])
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    status = status_end = None
    if order["bubblewrap"]:
        status, status_end = os.pipe()
        os.set_blocking(status, False)
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    container = Container(order, status)
    began = time.time()
    container.child = os.fork()
    if container.child == 0:
        launch(order, (out_end, err_end), status_end)
    for end in (out_end, err_end, status_end):
        if end is not None:
            os.close(end)
    streams = {out: "stdout", err: "stderr"}
    errors, started, ended, drained, orders = b"", False, False, 0.0, b""
    while not ended or (streams and time.monotonic() < drained):
        waiting = [*streams, wake, control]
        readable, _, _ = select.select(waiting, [], [], 0.002 if not started else (0.05 if ended else None))
        for stream in [s for s in readable if s in streams]:
            data = os.read(stream, 65536)
            if not data:
                del streams[stream]
                continue
            if not started and streams[stream] == "stderr":
                errors = (errors + data)[:ERROR_BYTES]
            log.write(streams[stream], data)
        if wake in readable:
            os.read(wake, 512)
        container.read_status()
        if control in readable:
            orders += os.read(control, 4096)
            *lines, orders = orders.split(b"\n")
            for line in lines:
                obey(container, line.decode("ascii", "replace").split())
        if not ended and container.reap():
            ended, drained = True, time.monotonic() + DRAIN_SECONDS
            if container.status is None:
                container.send(signal.SIGKILL)
        late = time.time() - began > EXECUTED_WITHIN
        if not started and (
            container.executed or (not ended and (container.has_executed() or (container.pid and late)))
        ):
            started = True
            write_whole("started.json", {"pid": container.pid or container.child, "at": time.time()})
            ready()
    log.finish()
    failed = not container.executed
    message = errors.decode("utf-8", "replace").strip() if failed else ""
    write_whole(
        "exit.json",
        {
            "code": START_FAILED if failed else container.code,
            "at": time.time(),
            "reason": "StartError" if failed else "",
            "message": message,
        },
    )
    ready()


def obey(container: Container, words: Sequence[str]) -> None:
    """One line of the control FIFO; what it does not know it leaves alone, the FIFO is the runner's own."""
    if words[:1] == ["kill"]:
        container.send(signal.SIGKILL)
    elif words[:1] == ["signal"] and len(words) == 2:
        with contextlib.suppress(KeyError):
            container.send(signal.Signals[words[1]])


def main(directory: str) -> int:
    order = json.load(sys.stdin)
    waiting, said = os.pipe()
    if os.fork():
        os.close(said)
        os.read(waiting, 1)  # the end of file: running, failed, or the shim died
        return 0
    os.close(waiting)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    ends = [said]

    def ready() -> None:
        while ends:
            os.close(ends.pop())

    serve(directory, order, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
