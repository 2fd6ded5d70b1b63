"""The lines of a file that somebody else appends to, renames and truncates: each once, in order, none cut in two.

A line is given out when its newline is there. The place where one may go on later is a `Position`: the file, how far it was
read, and what stood just before, so that another file in its place (a truncated one that has grown again, a new one that got
the same inode) is never taken for it. What may have been lost is counted and never silent.

One look reads `LOOK_BYTES` at most and holds `LONGEST_LINE` bytes of an unfinished line at most, whatever the file holds.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOOK_BYTES = 4 << 20
LONGEST_LINE = 1 << 20
MARK_BYTES = 1024
"""Bytes before the position by which a file is known again: a whole line of a gateway, which has a time and an identity in
it. The ends of lines are alike."""

SETTLE_SECONDS = 1.0
"""A file that was renamed is read until nothing has come for so long: its writer notices a moment later, and may still hold
lines for it."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where to go on. `mark`: what lies in the file just before `offset`, hexadecimal."""

    device: int
    inode: int
    offset: int
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found. `more`: there is more already. The rest are incidents since the last look."""

    lines: tuple[bytes, ...] = ()
    """Without their newlines."""
    more: bool = False
    rotated: int = 0
    """Changes to a new file, the old one read to its end."""
    truncated: int = 0
    """Times that the file was cut off or replaced: what stood behind the position is lost."""
    broken: int = 0
    """Lines that were given up: longer than `LONGEST_LINE`, or without an end when their file ended."""
    gap: bool = False
    """The file to go on with is not there any more: an unknown number of lines is lost."""


class _File:
    """An open file, and what was read of it."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self.descriptor)
        self.identity = (found.st_dev, found.st_ino)
        self.offset = 0
        """Of what is read next; what is not given out yet is in `half`."""
        self.half = b""
        self.skipping = False
        self.mark = b""

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    @property
    def written(self) -> int:
        """When something was written to it last, in nanoseconds."""
        return os.fstat(self.descriptor).st_mtime_ns

    def is_as_it_was(self) -> bool:
        """Whether all that was read is still there."""
        if self.size < self.offset:
            return False
        return os.pread(self.descriptor, len(self.mark), self.offset - len(self.mark)) == self.mark

    def go_on_at(self, position: Position) -> bool:
        """Whether this is the file of `position`; then it goes on there."""
        mark = bytes.fromhex(position.mark)
        if self.identity != (position.device, position.inode) or self.size < position.offset:
            return False
        if os.pread(self.descriptor, len(mark), position.offset - len(mark)) != mark:
            return False
        self.offset, self.mark = position.offset, mark
        return True

    def begin_again(self) -> None:
        self.offset, self.half, self.skipping, self.mark = 0, b"", False, b""

    def read(self, limit: int) -> tuple[list[bytes], int, int]:
        """Lines that are whole, how many bytes were read, and how many lines were given up."""
        data = os.pread(self.descriptor, limit, self.offset)
        if not data:
            return [], 0, 0
        self.offset += len(data)
        self.mark = (self.mark + data)[-MARK_BYTES:]
        *lines, half = (self.half + data).split(b"\n")
        broken = 0
        if self.skipping and lines:
            lines, self.skipping = lines[1:], False
        kept = [line for line in lines if len(line) <= LONGEST_LINE]
        broken += len(lines) - len(kept)
        self.half = b"" if self.skipping else half
        if len(self.half) > LONGEST_LINE:
            self.half, self.skipping = b"", True
            broken += 1
        return kept, len(data), broken

    def position(self) -> Position:
        """Where the first line begins that was not given out. A line that is being skipped has been given up: behind it."""
        offset = self.offset - len(self.half)
        start = max(0, offset - MARK_BYTES)
        return Position(*self.identity, offset, os.pread(self.descriptor, offset - start, start).hex())

    def close(self) -> None:
        os.close(self.descriptor)


class Tail:
    """Follows the file at `path`. `previous` is where a renamed one lies, for who goes on after it was renamed.

    `clock` counts seconds and never goes back. With `position` it goes on there, without one it begins with what is in the
    file now, or behind that (`from_end`). Not safe in several threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        previous: Path | None = None,
        position: Position | None = None,
        from_end: bool = False,
    ) -> None:
        self._path, self._clock = path, clock
        self._previous = previous if previous is not None else path.with_name(f"{path.name}.1")
        self._wanted, self._from_end = position, from_end
        self._file: _File | None = None
        self._quiet_since: float | None = None

    def look(self, limit: int = LOOK_BYTES) -> Look:
        """What has come since the last look; `limit` bytes at most. A file that is not there yet is an empty one."""
        gap = False
        if self._file is None:
            self._file, gap = self._open()
            if self._file is None:
                return Look(gap=gap)
        truncated = 0
        if not self._file.is_as_it_was():
            self._file.begin_again()
            truncated = 1
        lines, count, broken = self._file.read(limit)
        rotated = 0
        if count:
            self._quiet_since = None
        elif self._is_replaced():
            now = self._clock()
            self._quiet_since = now if self._quiet_since is None else self._quiet_since
            if now - self._quiet_since >= SETTLE_SECONDS:
                broken += bool(self._file.half)
                self._change()
                rotated = 1
        return Look(tuple(lines), count == limit or rotated == 1, rotated, truncated, broken, gap)

    def position(self) -> Position | None:
        """Where to go on later, after the lines that were given out; None where there never was a file."""
        return self._wanted if self._file is None else self._file.position()

    def close(self) -> None:
        """Idempotent; another look opens the file again, from where it was."""
        if self._file is not None:
            self._wanted = self._file.position()
            self._file.close()
            self._file = None

    def _open(self) -> tuple[_File | None, bool]:
        """The file to read, and whether lines between the wanted position and its beginning may be lost."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            for path in (self._path, self._previous):
                file = _opened(path)
                if file is not None and file.go_on_at(wanted):
                    return file, False
                if file is not None:
                    file.close()
        file = _opened(self._path)
        if file is None:
            self._wanted = wanted
            return None, False
        if self._from_end and wanted is None:
            self._skip_to_end(file)
        self._from_end = False
        return file, wanted is not None

    def _skip_to_end(self, file: _File) -> None:
        """Behind the last whole line."""
        size = file.size
        start = max(0, size - LONGEST_LINE)
        end = os.pread(file.descriptor, size - start, start).rfind(b"\n")
        file.offset = start + end + 1 if end >= 0 else size
        file.skipping = end < 0 and size > 0
        first = max(0, file.offset - MARK_BYTES)
        file.mark = os.pread(file.descriptor, file.offset - first, first)

    def _is_replaced(self) -> bool:
        """Whether another file lies at the path now. None at all is a moment between two."""
        assert self._file is not None, "open"
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) != self._file.identity

    def _change(self) -> None:
        """To the next file: the one at `previous` where that was written after ours, which was then renamed twice."""
        assert self._file is not None, "open"
        ours, self._quiet_since = self._file, None
        between = _opened(self._previous)
        if between is not None and (between.identity == ours.identity or between.written <= ours.written):
            between.close()
            between = None
        ours.close()
        self._file = between if between is not None else _opened(self._path)


def _opened(path: Path) -> _File | None:
    try:
        return _File(path)
    except FileNotFoundError:
        return None
