"""A provider with trouble: faults first, or between, then what another program says."""

from collections.abc import Sequence
from threading import Lock

from scripted_provider.wire import Cut, Fault, Program, Raw, Seen, Stall, Status, Turn

TROUBLE: tuple[Fault, ...] = (
    Status(429, "Rate limit reached.", retry_after="0", error_code="rate_limit_exceeded"),
    Status(500, "The server had an error while processing your request."),
    Status(503, "<html><body>upstream connect error</body></html>", content_type="text/html"),
    Stall(60, after=2),
    Stall(60, after=-1),
    Cut(Turn(text="I was going to say something " * 20), after=5),
    Cut(Turn(text="and this time to the end " * 20), after=7, abrupt=False),
    Raw(b"event: nonsense\ndata: {not json\n\n"),
)
"""One of each kind."""


class Before:
    """The faults one after the other, each once, before each answer of `program`; with `every` False before the first."""

    def __init__(self, program: Program, faults: Sequence[Fault] = TROUBLE, *, every: bool = False) -> None:
        self._program, self._faults, self._every = program, tuple(faults), every
        self._told = 0
        self._lock = Lock()

    def __call__(self, seen: Seen) -> Turn | Fault:
        with self._lock:
            told = self._told
            self._told += 1
        if told < len(self._faults):
            return self._faults[told]
        if self._every:
            self._told = 0
        return self._program(seen)


def dead(seen: Seen) -> Fault:
    """Never recovers."""
    return Status(503, "The engine is currently overloaded.", retry_after="1")
