"""Reads container logs in the CRI's format, as the kubelet serves them.

A line is `TIME STREAM TAG TEXT`; parts tagged P belong to the line that follows. Rotated files are read too, oldest first.
Specification: k8s.io/cri-client/pkg/logs.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from sartor_runner.core.times import seconds

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class LogOptions:
    """What `kubectl logs` asks for. `since`: seconds since the epoch."""

    follow: bool = False
    tail: int | None = None
    since: float | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = "All"


def files(log: Path) -> list[Path]:
    """The log and what was rotated away, oldest first."""
    rotated = sorted(
        (p for p in log.parent.glob(f"{log.name}.*") if p.suffix[1:].isdigit()), key=lambda p: -int(p.suffix[1:])
    )
    return [*rotated, *([log] if log.exists() else [])]


def render(line: bytes, options: LogOptions) -> bytes | None:
    """One entry of the file as it is shown; None when it is not to be shown. A malformed one is shown as it is."""
    fields = line.rstrip(b"\n").split(b" ", 3)
    if len(fields) != 4:
        return line
    time, stream, tag, text = fields
    if options.stream != "All" and stream.decode().lower() != options.stream.lower():
        return None
    if options.since is not None:
        try:
            if seconds(time.decode()) < options.since:
                return None
        except ValueError:
            return line
    end = b"" if tag.startswith(b"P") else b"\n"
    return (time + b" " if options.timestamps else b"") + text + end


def lines(log: Path, options: LogOptions) -> Iterator[bytes]:
    """What is there now."""
    shown = (out for path in files(log) for line in _entries(path) if (out := render(line, options)) is not None)
    if options.tail is None:
        yield from shown
    elif options.tail > 0:
        whole: deque[bytes] = deque(maxlen=options.tail)
        part = b""
        for entry in shown:
            part += entry
            if part.endswith(b"\n"):
                whole.append(part)
                part = b""
        if part:
            whole.append(part)
        yield from whole


async def follow(log: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What is there and what comes, until the container has `ended` and everything is read."""
    handle = _open(log)
    position = handle.seek(0, os.SEEK_END) if handle else 0
    position -= len(_unfinished(log, position))
    for line in lines(log, options):
        yield line
    rest = b""
    try:
        while True:
            over = ended()
            if handle is None:
                handle, position = _open(log), 0
            while handle is not None:
                handle.seek(position)
                data = handle.read(1 << 16)
                position += len(data)
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    if (out := render(line + b"\n", options)) is not None:
                        yield out
                if not data:
                    if _rotated(log, handle.fileno()):
                        handle.close()
                        handle, position, rest = _open(log), 0, b""
                        continue
                    break
            if over:
                return
            await asyncio.sleep(POLL_SECONDS)
    finally:
        if handle is not None:
            handle.close()


def tail_text(log: Path, *, maximum_bytes: int, maximum_lines: int) -> str:
    """The end of the log as plain text, within both limits."""
    text = b"".join(lines(log, LogOptions(tail=maximum_lines)))
    return text[-maximum_bytes:].decode("utf-8", "replace")


def _entries(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
    except FileNotFoundError:
        return  # rotated away between the listing and now


def _unfinished(log: Path, size: int) -> bytes:
    """The last entry of the file if it is only partly written."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, size - (1 << 16)))
            return file.read(min(size, 1 << 16)).rpartition(b"\n")[2]
    except FileNotFoundError:
        return b""


def _open(log: Path) -> BufferedReader | None:
    try:
        return log.open("rb")
    except FileNotFoundError:
        return None


def _rotated(log: Path, handle: int) -> bool:
    try:
        return log.stat().st_ino != os.fstat(handle).st_ino
    except FileNotFoundError:
        return True
