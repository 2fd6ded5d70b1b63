"""Settings of the runner's own process."""

import asyncio
import ctypes
import os
import sys

M_ARENA_MAX = -8


def settle() -> None:
    """To be called once, before the event loop is made: children are waited for without a thread each (pidfd), and all
    threads share one heap, which otherwise grows by a piece per thread that is never given back."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        policy = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]
        policy.set_child_watcher(asyncio.PidfdChildWatcher())  # pyright: ignore[reportDeprecated]


def trim() -> None:
    """Gives memory back that is free (glibc keeps it otherwise)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
