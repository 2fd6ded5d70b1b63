"""Progress of a role as JSON lines on standard error, one object a line, for the live view and the log."""

import json
import sys
import time
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Takes an event; must not block and must not raise."""

    def __call__(self, event: str, **fields: Any) -> None: ...


class JsonLines:
    """Writes `{"event": …, "t": seconds since start, …}` lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._origin = time.monotonic()

    def __call__(self, event: str, **fields: Any) -> None:
        line = {"event": event, "t": round(time.monotonic() - self._origin, 3), **fields}
        try:
            self._stream.write(json.dumps(line, default=str) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads any more; the response file is what counts


def silent(event: str, **fields: Any) -> None:
    """Progress that nobody wants."""
