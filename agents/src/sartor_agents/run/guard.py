"""Runs one command so that nothing of it outlives whoever asked for it.

    python guard.py FD COMMAND [ARGUMENT…]

`FD` is the reading end of a pipe whose writing end the parent keeps open. When it is closed (the parent asked for the end,
or was killed in whatever way) the command and all its descendants are killed, also those that made a session of their own:
the guard is their subreaper, so none of them can get out of its sight. The exit code is the command's.

A death signal on the child alone (`PR_SET_PDEATHSIG`) is not enough: it does not reach grandchildren such as a compiler or
a worker process. Standard library only, imports nothing of Sartor: it starts in a few milliseconds under `python -I -S`.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CHILDREN = "/proc/thread-self/children"


def _prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux: the pipe and the process group still do most of the work


def descendants(pid: int) -> list[int]:
    """Pids below `pid`, parents before children; empty where there is no /proc."""
    if not os.path.exists(CHILDREN):  # noqa: PTH110 - see below
        return _by_parents(pid)
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib is not imported here, it costs start-up time
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:  # noqa: PTH123
                direct = [int(child) for child in file.read().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *descendants(child)]
    return found


def _by_parents(pid: int) -> list[int]:
    """The same for a kernel without CONFIG_PROC_CHILDREN: from the parent that every process names."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112, PTH208
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            below.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += below.get(one, ())
    return found[1:]


def _kill_all(group: int) -> None:
    """SIGKILL until nothing is left below this process; orphans come to us, so each pass sees those that are new."""
    for _ in range(1000):
        below = descendants(os.getpid())
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, 0 if below else os.WNOHANG)[0]:
                below = []
        except ChildProcessError:
            return


def main(arguments: list[str]) -> int:
    pipe, command = int(arguments[0]), arguments[1:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Signals of the terminal are the parent's business; it closes the pipe when the end has come.
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))

    child = os.fork()
    if child == 0:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        os.close(pipe)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)

    code = None
    while code is None and not terminated:
        ready, _, _ = select.select([pipe, ended], [], [])
        if pipe in ready and not os.read(pipe, 1):
            break
        if ended in ready:
            os.read(ended, 512)
            while code is None:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == child:
                    code = os.waitstatus_to_exitcode(status)
    _kill_all(child)
    if code is None:
        return 128 + signal.SIGKILL
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
