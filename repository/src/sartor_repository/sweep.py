"""Removes the repositories of runs that were deleted, some days later.

The first time that a run is seen to be gone is written beside its repositories; if it is seen again, that is forgotten. An
API server that cannot be asked says nothing about a run, and nothing is removed on the ground of it.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from sartor_repository.auth import UnavailableError
from sartor_repository.store import NEW, Store

log = logging.getLogger(__name__)

GONE = ".gone"
EVERY_SECONDS = 3600.0


async def sweep(
    store: Store, run_exists: Callable[[str, str], Awaitable[bool]], *, keep_seconds: float, now: float
) -> list[str]:
    """One look at every run; returns what was removed (`NAMESPACE/RUN`). `now` is Unix time. Raises `OSError`."""
    removed: list[str] = []
    for folder in store.runs():
        namespace, run = folder.parent.name, folder.name
        try:
            exists = await run_exists(namespace, run)
        except UnavailableError as error:
            log.warning("nothing is swept: %s", error)
            return removed
        marker = folder / GONE
        if exists:
            marker.unlink(missing_ok=True)
        elif not marker.exists():
            marker.write_text(str(now), encoding="ascii")
        elif _since(marker, now) + keep_seconds <= now:
            await asyncio.to_thread(_remove, folder)
            removed.append(f"{namespace}/{run}")
    return removed


def _since(marker: Path, now: float) -> float:
    """When a run was first seen to be gone; now, where the file does not say (it was not written whole)."""
    try:
        return float(marker.read_text(encoding="ascii"))
    except ValueError:
        marker.write_text(str(now), encoding="ascii")
        return now


def _remove(folder: Path) -> None:
    # Out of sight at once, under a name that the next start sweeps away if this is not the end of it.
    aside = Path(tempfile.mkdtemp(prefix=NEW, dir=folder.parent))
    folder.rename(aside / folder.name)
    shutil.rmtree(aside)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # the namespace's, if this was its last run


async def keep_sweeping(
    store: Store,
    run_exists: Callable[[str, str], Awaitable[bool]],
    *,
    keep_seconds: float,
    now: Callable[[], float],
    every_seconds: float = EVERY_SECONDS,
) -> None:
    """For as long as the service runs."""
    while True:
        try:
            for name in await sweep(store, run_exists, keep_seconds=keep_seconds, now=now()):
                log.warning("the repositories of run %s, which was deleted, are removed", name)
        except OSError as error:
            log.error("sweeping stopped until the next hour: %s", error)
        await asyncio.sleep(every_seconds)
