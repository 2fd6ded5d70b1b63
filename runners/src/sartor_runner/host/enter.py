# pathlib is not imported here, it costs start-up time.
# ruff: noqa: PTH116, PTH123
"""Runs a command inside a running container, for exec probes and preStop hooks.

    python -I -S enter.py PID < ORDER

ORDER is JSON: `{"command": […], "directory": "/", "user": 0, "group": 0}`. Joins the namespaces of the container's first
process, takes its variables, drops every capability, allows no new privileges and executes; the exit code is the command's
(126: not executable, 127: not found, 125: the container cannot be entered). Needs root, or to be the user who started the
container. Linux only. Standard library only and nothing of Sartor.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID = 0x10000000, 0x00020000, 0x20000000
OTHERS = (("ipc", 0x08000000), ("uts", 0x04000000), ("net", 0x40000000))
NS_GET_USERNS = 0xB701
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63
CANNOT_ENTER, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

_libc = ctypes.CDLL(None, use_errno=True)


def _join(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def enter(pid: int, user: int, group: int) -> None:
    """Joins the namespaces; afterwards the calling process is `user` and `group` of the container. Raises `OSError`.

    The mount namespace belongs to a user namespace that may be the parent of the one the container runs in (Bubblewrap
    makes two), so that one comes first.
    """
    # Read while /proc is still the host's.
    own = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in ("user", "mnt", "pid", "ipc", "uts", "net")}
    spaces = {n: os.open(f"/proc/{pid}/ns/{n}", os.O_RDONLY) for n in ("user", "mnt", "pid", "ipc", "uts", "net")}
    owner = fcntl.ioctl(spaces["mnt"], NS_GET_USERNS)
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # in a user namespace without groups
            os.setgroups([])
    current = own["user"]
    if _inode(owner) != current:
        _join(owner, CLONE_NEWUSER)
        current = _inode(owner)
    for name, kind in (("mnt", CLONE_NEWNS), ("pid", CLONE_NEWPID), *OTHERS):
        if _inode(spaces[name]) != own[name]:
            _join(spaces[name], kind)
    if _inode(spaces["user"]) != current:
        _join(spaces["user"], CLONE_NEWUSER)
    os.setresgid(group, group, group)
    for capability in range(LAST_CAPABILITY + 1):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresuid(user, user, user)


def confine() -> None:
    """No capability left, and none to be had. Raises `OSError`."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, empty) != 0 or _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _execute(command: list[str], directory: str, variables: dict[str, str]) -> NoReturn:
    try:
        confine()
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(variables)
        os.execvpe(command[0], command, variables)
    except FileNotFoundError:
        os.write(2, f"exec: {command[0]}: no such file or directory\n".encode())
        os._exit(NOT_FOUND)
    except OSError as error:
        os.write(2, f"exec: {command[0]}: {error.strerror}\n".encode())
        os._exit(NOT_EXECUTABLE)


def _attempt(what: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        os.write(2, f"exec: cannot {what}: {error.strerror}\n".encode())
        os._exit(CANNOT_ENTER)


def main(pid: int) -> int:
    order = json.load(sys.stdin)
    variables: dict[str, str] = {}

    def read_variables() -> None:
        with open(f"/proc/{pid}/environ", "rb") as file:
            for entry in file.read().split(b"\0"):
                name, equals, value = entry.partition(b"=")
                if equals:
                    variables[os.fsdecode(name)] = os.fsdecode(value)

    _attempt("read the container's variables", read_variables)
    _attempt("enter the container", lambda: enter(pid, order["user"], order["group"]))
    child = os.fork()  # joining a PID namespace holds for children only
    if child == 0:
        _execute(order["command"], order["directory"], variables)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
