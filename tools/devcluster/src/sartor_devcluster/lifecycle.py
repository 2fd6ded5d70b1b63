"""Starting and ending a cluster's processes, from the outside."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from sartor_devcluster import control
from sartor_devcluster.environment import scrubbed
from sartor_devcluster.errors import DevclusterError, NotRunningError, StateError
from sartor_devcluster.layout import Layout
from sartor_devcluster.state import ProcessId, read_state

POLL_SECONDS = 0.01
STATUS_SECONDS = 10.0
ANSWER_SECONDS = 5.0
END_SECONDS = 10.0

_started: dict[int, subprocess.Popen[bytes]] = {}
"""Supervisors that this process started, to be reaped when they end."""

_lifelines: dict[int, int] = {}
"""Our end of each one's pipe: closed by us when it is gone, or by the kernel when we are."""


@contextmanager
def locked(layout: Layout) -> Generator[None]:
    """One process at a time starts or ends a cluster; the others wait."""
    layout.folder.parent.mkdir(parents=True, exist_ok=True)
    with layout.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def alive(layout: Layout) -> bool:
    """Whether a supervisor serves this cluster."""
    try:
        control.ask(layout.control, "status", seconds=STATUS_SECONDS)
    except NotRunningError:
        return False
    return True


def launch(layout: Layout, *, lifeline: bool) -> subprocess.Popen[bytes]:
    """Start the supervisor, detached from our terminal. With `lifeline` it reads a pipe that only this process holds."""
    command = [sys.executable, "-m", "sartor_devcluster.supervisor", str(layout.folder)]
    reading: tuple[int, ...] = ()
    writing: int | None = None
    if lifeline:
        read_end, writing = os.pipe()
        reading = (read_end,)
        command += ["--lifeline", str(read_end)]
    try:
        with layout.supervisor_log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=layout.folder,
                env=scrubbed(os.environ, home=layout.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=reading,
            )
    finally:
        for handle in reading:
            os.close(handle)
    _started[process.pid] = process
    if writing is not None:
        _lifelines[process.pid] = writing
    return process


def end(layout: Layout) -> None:
    """End the cluster's processes: by asking the supervisor, else by SIGKILL to it and to process 1."""
    try:
        state = read_state(layout.state)
    except StateError:  # written by another version; its supervisor may still understand `down`
        state = None
    patience = END_SECONDS
    try:
        control.ask(layout.control, "down", seconds=ANSWER_SECONDS)
    except NotRunningError:  # it has ended the rest, or the kernel is about to
        pass
    except DevclusterError:  # it hangs
        patience = 0.0
    if state is not None:
        for process in (state.supervisor, state.init):
            if not _gone(process, patience):
                _kill(process)
        if (child := _started.pop(state.supervisor.pid, None)) is not None:
            child.wait()
        if (lifeline := _lifelines.pop(state.supervisor.pid, None)) is not None:
            os.close(lifeline)


def remove(layout: Layout, *, keep: bool) -> None:
    """End the cluster and remove its folder, unless `keep`. Idempotent; also for a folder that another version wrote."""
    with locked(layout):
        end(layout)
        if not keep:
            shutil.rmtree(layout.folder, ignore_errors=True)


def _gone(process: ProcessId, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _kill(process: ProcessId) -> None:
    """SIGKILL, never to a process that merely has the same number."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive():
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)
    _gone(process, END_SECONDS)
