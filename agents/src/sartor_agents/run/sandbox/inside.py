"""The first program in a command's sandbox. Standard library only, imports nothing of Sartor: it is shown there alone.

    python -I -S inside.py CONFIGURATION COMMAND [ARGUMENT…]

It fills the workspace, opens the allowed ways out and in, runs the command with its limits and within its time, ends all
that the command left behind, and writes what is to be kept to a pipe. It runs with the command's own rights, so its parent
outside takes nothing on trust: limits hold without it, and what comes out of the pipe is checked there (`kept`).

`CONFIGURATION` is JSON: `source` (folder to fill the workspace from), `workspace`, `keep` (folder in the workspace, or
null), `seconds`, `limits` (names of RLIMIT_* and values), `kept` (file descriptor of the pipe, or null), `out` (port →
path of a UNIX socket outside), `into` (file descriptor of a listening UNIX socket → port), `folders` (to be made),
`alone` (whether the sandbox has a process namespace of its own), `walls` (null where others are around the sandbox).

`walls` are those that a process can put around itself without any right, as in a pod: `filter` (file descriptor of a
seccomp program), and for Landlock `read` and `write` (files and folders), `bind` and `connect` (TCP ports); nothing else
can then be opened, and no process outside be looked into or signalled. Where the kernel has no Landlock, the filter is all.

pathlib is not imported, as it would double the start-up time.

Exit code: the command's; 124 after its time was over.
"""

# ruff: noqa: PTH103, PTH118, PTH123, PTH208

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

PR_SET_DUMPABLE = 4
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""Numbers of the calls, the same on every architecture (landlock(7))."""
LANDLOCK_VERSION = 1
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE, IOCTL_DEVICE = 1, 2, 4, 8, 1 << 13, 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
TIMED_OUT = 124
CHUNK = 1 << 16

Connect = Callable[[], socket.socket]


def main(arguments: list[str]) -> int:
    configuration, command = json.loads(arguments[0]), arguments[1:]
    # The command has the same user: without this it could change what this program does.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for folder in configuration["folders"]:
        os.makedirs(folder, exist_ok=True)
    if configuration["source"] is not None:
        fill(configuration["source"], configuration["workspace"])
    ways: list[tuple[socket.socket, Connect]] = []
    for port, path in configuration["out"].items():
        ways.append((socket.create_server(("127.0.0.1", int(port)), backlog=64), partial(connect_unix, path)))
    for number, port in configuration["into"].items():
        ways.append((socket.socket(fileno=int(number)), partial(connect_port, port)))
    code = run(command, configuration, ways)
    if configuration["kept"] is not None:
        with os.fdopen(configuration["kept"], "wb") as pipe:
            keep(pipe, configuration["workspace"], configuration["keep"])
    return code


def fill(source: str, workspace: str) -> None:
    """Copy the folder; links and special files stay behind, as no stack may have any."""
    for folder, _, names in os.walk(source):
        target = os.path.join(workspace, os.path.relpath(folder, source))
        os.makedirs(target, exist_ok=True)
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                shutil.copy(path, os.path.join(target, name))


def run(command: list[str], configuration: dict[str, Any], ways: "list[tuple[socket.socket, Connect]]") -> int:
    """Run the command to its end or that of its time; afterwards nothing is left but this program."""
    walls = configuration["walls"]
    program = b"" if walls is None else os.pread(walls["filter"], 1 << 20, 0)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.closerange(3, 1 + max(int(number) for number in os.listdir("/proc/self/fd")))
            os.chdir(configuration["workspace"])
            for name, value in configuration["limits"].items():
                kind = getattr(resource, name)
                hard = resource.getrlimit(kind)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(kind, (value, value))
            if walls is not None:
                wall_in(walls, program)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    for listener, connect in ways:  # threads only now: a process with threads had better not fork
        forward(listener, connect)
    status = wait(child, time.monotonic() + configuration["seconds"])
    end_all(alone=configuration["alone"])
    if status is None:
        return TIMED_OUT
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def landlock_version() -> int:
    """What the kernel has of Landlock; 0 for nothing."""
    return max(0, int(ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)))


def wall_in(walls: dict[str, Any], program: bytes) -> None:
    """This process, and all that it becomes, behind the walls for good. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc, libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = landlock_version()
    if version:
        landlock(libc, walls, version)
    rules = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(rules))
    check(libc, libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def landlock(libc: ctypes.CDLL, walls: dict[str, Any], version: int) -> None:
    """Only what is listed, as far as this version of the kernel's Landlock knows it."""
    every = (1 << 13) - 1
    every |= REFER if version >= 2 else 0
    every |= TRUNCATE if version >= 3 else 0
    every |= IOCTL_DEVICE if version >= 5 else 0
    attributes = struct.pack("=QQQ", every, BIND_TCP | CONNECT_TCP, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = check(libc, libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock")
    for places, rights in ((walls["read"], EXECUTE | READ_FILE | READ_DIR), (walls["write"], every)):
        for place in places:
            try:
                handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights & every
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                allowed &= OF_FILES
            rule = struct.pack("=Qi", allowed, handle)
            check(libc, libc.syscall(LANDLOCK_ADD_RULE, rules, RULE_PATH_BENEATH, rule, 0), place)
            os.close(handle)
    if version >= 4:
        for ports, right in ((walls["bind"], BIND_TCP), (walls["connect"], CONNECT_TCP)):
            for port in ports:
                rule = struct.pack("=QQ", right, port)
                check(libc, libc.syscall(LANDLOCK_ADD_RULE, rules, RULE_NET_PORT, rule, 0), f"port {port}")
    check(libc, libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0), "landlock")
    os.close(rules)


def check(libc: ctypes.CDLL, result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"the walls around the command: {what}: {os.strerror(code)}")
    return result


def wait(child: int, over: float) -> "int | None":
    """The child's status; None when the time is over first. Other processes of the sandbox are ended later."""
    pause = 0.001
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() > over:
            return None
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)


def end_all(*, alone: bool) -> None:
    """SIGKILL to what the command left behind, until nothing is left. `alone`: this sandbox has processes of its own."""
    for _ in range(400):
        below = descendants(os.getpid())
        if alone:
            try:
                os.kill(-1, signal.SIGKILL)  # all but this program and the sandbox's init
            except OSError:
                below = []
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            if not below:
                return
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    """Pids below `pid`. Orphans count: `main` made this program the one that they are given to."""
    if not os.path.exists("/proc/thread-self/children"):  # noqa: PTH110 - a kernel without CONFIG_PROC_CHILDREN
        return by_parents(pid)
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                direct = [int(child) for child in file.read().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *descendants(child)]
    return found


def by_parents(pid: int) -> list[int]:
    """The same from the parent that every process names."""
    below: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += below.get(one, ())
    return found[1:]


def keep(pipe: BinaryIO, workspace: str, folder: str) -> None:
    """Write every plain file below `folder` as a line of JSON (path, size, executable) and its bytes; then an end line."""
    top = os.path.join(workspace, folder)
    for parent, folders, names in os.walk(top):
        for name in sorted((*folders, *names)):
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            relative = os.path.relpath(path, workspace)
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                line(pipe, {"path": relative, "refused": "it is no plain file"})
                continue
            try:
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    line(pipe, {"path": relative, "size": size, "executable": bool(mode & 0o100)})
                    shutil.copyfileobj(file, pipe, CHUNK)
            except OSError as error:
                line(pipe, {"path": relative, "refused": error.strerror})
        folders.sort()
    line(pipe, {"end": True})


def line(pipe: BinaryIO, content: dict[str, Any]) -> None:
    pipe.write(json.dumps(content).encode() + b"\n")


def connect_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def connect_port(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def forward(listener: socket.socket, connect: Connect) -> None:
    """Accept in a thread; each connection is carried on by two more."""

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = connect()
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(source, target), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other until the first ends its sending."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
