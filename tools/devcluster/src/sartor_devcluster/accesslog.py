"""The access log does not grow for ever: it is renamed, and Envoy is told to begin a new one.

Envoy opens its log again on SIGUSR1 and writes what it still holds into the old file before that, so no line is lost and
none is cut. It appends, so that somebody who truncates the file instead leaves no hole in it, but may lose lines.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

LIMIT = 64 << 20
"""Bytes of one file, about 90,000 requests. There are two at most."""

LOOK_SECONDS = 1.0


def previous(log: Path) -> Path:
    """Where the log before the present one lies."""
    return log.with_name(f"{log.name}.1")


class Rotation:
    """Lives in the supervisor's event loop. `serving` tells whether Envoy is up (told earlier, the signal would end it),
    `reopen` sends the signal and tells whether it was sent."""

    def __init__(
        self,
        log: Path,
        serving: Callable[[], Awaitable[bool]],
        reopen: Callable[[], bool],
        *,
        limit: int = LIMIT,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._log, self._serving, self._reopen = log, serving, reopen
        self._limit, self._look_seconds = limit, look_seconds

    async def keep(self) -> None:
        """For ever; ends by cancellation only."""
        while True:
            await asyncio.sleep(self._look_seconds)
            if _size(self._log) > self._limit:
                await self.rotate()

    async def rotate(self) -> bool:
        """False, and nothing happens, while Envoy does not serve."""
        if not await self._serving():
            return False
        with contextlib.suppress(FileNotFoundError):  # somebody has taken it away; a new one is needed all the same
            self._log.replace(previous(self._log))
        return self._reopen()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
