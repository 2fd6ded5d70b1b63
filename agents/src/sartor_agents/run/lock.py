"""One process at a time per run.

The kernel's file lock, not a pid file: it goes away with the process however that ends, so it is never stale. The pid in
the file is for the message only.
"""

import contextlib
import fcntl
import os
from collections.abc import Generator

from sartor_agents.run.errors import RunLockedError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.storage import storage_errors


@contextlib.contextmanager
def run_lock(layout: RunLayout) -> Generator[None]:
    """Hold the run. Raises `RunLockedError` at once when somebody else holds it."""
    with storage_errors(layout.lock):
        layout.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise RunLockedError(
                f"{layout.root}: process {holder} is working on this run",
                "wait for it, stop it (kill -INT " + holder + "), or choose another --dir",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
