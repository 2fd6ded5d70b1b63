"""One call on its way: what has come of its answer so far, for everybody who waits for it.

A call goes on when its caller has gone (killed, or tired of waiting): it is paid for anyway, and whoever asks again under
the same name gets the answer. The last piece is held back until the answer is recorded, so that no caller has an answer that
a kill could make it pay for twice.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Head:
    """How the answer begins. `retry_after` in seconds, for errors that pass."""

    status: int
    content_type: str
    retry_after: float | None = None


class BrokenError(Exception):
    """The answer broke off half-way; the caller's connection is to be cut too, or it would take it for whole."""


@dataclass
class Flight:
    """Filled by one task, listened to by any number of others."""

    _head: Head | None = None
    _pieces: list[bytes] = field(default_factory=list[bytes])
    _held: bytes | None = None
    _ended: bool = False
    _broken: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    # --- who fills it -------------------------------------------------------------------------------------------------

    def begin(self, head: Head) -> None:
        self._head = head
        self._tell()

    def add(self, piece: bytes) -> None:
        if self._held is not None:
            self._pieces.append(self._held)
        self._held = piece
        self._tell()

    def end(self) -> None:
        """The answer is whole, and recorded if it is one to be recorded."""
        if self._held is not None:
            self._pieces.append(self._held)
        self._held, self._ended = None, True
        self._tell()

    def answer(self, head: Head, body: bytes) -> None:
        """All of it at once; not after `begin`."""
        self._head, self._held = head, body
        self.end()

    def break_off(self) -> None:
        self._held, self._ended, self._broken = None, True, True
        self._tell()

    @property
    def begun(self) -> bool:
        return self._head is not None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- who listens --------------------------------------------------------------------------------------------------

    async def head(self) -> Head:
        """Raises `BrokenError`."""
        while self._head is None:
            if self._ended:
                raise BrokenError
            await self._news.wait()
        return self._head

    async def pieces(self) -> AsyncGenerator[bytes]:
        """From the beginning, whenever one begins to listen. Raises `BrokenError`."""
        at = 0
        while True:
            while at < len(self._pieces):
                yield self._pieces[at]
                at += 1
            if self._broken:
                raise BrokenError
            if self._ended:
                return
            await self._news.wait()
