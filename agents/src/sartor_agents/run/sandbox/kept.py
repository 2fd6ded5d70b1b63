"""Files out of a sandbox: read from its pipe, checked one by one, and put in the place of those before.

What is read was written by a program that an agent controls. A file gets into a fresh folder under its checked name or not
at all; links and special files do not exist on this way; sizes and numbers are bounded before anything is stored.
"""

import contextlib
import json
import os
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from sartor_agents.run.storage import storage_errors

LONGEST_LINE = 16 << 10
MOST_FILES = 10_000
MOST_REFUSED = 20
_CHUNK = 1 << 20
_LONGEST_PART = 200
"""Bytes of one part of a path; file systems end at 255."""


@dataclass(frozen=True)
class Kept:
    """`folder` holds the kept files. `complete` is False when the sandbox ended before it had sent all, or sent too much;
    then `folder` must not be used. `refused` names what was left out, with the reason."""

    folder: Path
    files: int
    complete: bool
    refused: tuple[str, ...]


def unpack(stream: BinaryIO, folder: Path, *, below: str, most_bytes: int) -> Kept:
    """Read the pipe to its end into the fresh `folder`. Only paths below `below` are taken. Raises `StorageError`."""
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / below).mkdir(parents=True)
    refused: list[str] = []
    files, left, complete = 0, most_bytes, False
    while (entry := _entry(stream)) is not None:
        if entry.get("end") is True:
            complete = True
            break
        name, size = entry.get("path"), entry.get("size")
        if "refused" in entry:
            refused.append(f"{_shown(name)}: {_shown(entry['refused'])}")
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left or files >= MOST_FILES:
            refused.append(f"{_shown(name)}: too large, or one too many")
            break
        target, problem = _target(name, below)
        file = None
        if target is not None:
            file = _open(folder / target, executable=entry.get("executable") is True)
            problem = "its name is that of a folder" if file is None else ""
        left, files = left - size, files + (file is not None)
        if problem:
            refused.append(f"{_shown(name)}: {problem}")
        if not _store(stream, size, file, folder):
            break
    _drain(stream)
    return Kept(folder, files, complete, tuple(refused[:MOST_REFUSED]))


def put_in_place(new: Path, old: Path) -> None:
    """`new` becomes `old`; there is no moment at which half of it is there. Raises `StorageError`."""
    aside = old.with_name(f".{old.name}.before")
    with storage_errors(old):
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists():
            old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside, ignore_errors=True)


def _entry(stream: BinaryIO) -> dict[str, Any] | None:
    line = stream.readline(LONGEST_LINE + 1)
    if not line.endswith(b"\n") or len(line) > LONGEST_LINE:
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], content) if isinstance(content, dict) else None


def _target(name: object, below: str) -> tuple[PurePosixPath | None, str]:
    """The checked path, or None and why not."""
    if not isinstance(name, str) or not name or len(name) > 1000:
        return None, "no usable name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return None, "its name is not UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return None, "its name holds control characters"
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != (below,) or len(path.parts) < 2:
        return None, f"it lies outside {below}/"
    if any(len(part.encode()) > _LONGEST_PART for part in path.parts):
        return None, "its name is too long"
    return path, ""


def _open(target: Path, *, executable: bool) -> BinaryIO | None:
    """The file to write; None where a file and a folder would have the same name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            return os.fdopen(os.open(target, flags, 0o755 if executable else 0o644), "wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return None


def _store(stream: BinaryIO, size: int, file: BinaryIO | None, folder: Path) -> bool:
    """Take `size` bytes from the stream into `file` (None: nowhere) and close it; whether they all came."""
    with file or contextlib.nullcontext():
        while size:
            data = stream.read(min(size, _CHUNK))
            if not data:
                return False
            size -= len(data)
            if file is not None:
                with storage_errors(folder):
                    file.write(data)
    return True


def _drain(stream: BinaryIO) -> None:
    """Whoever writes shall not wait for ever; it is killed when its time is over."""
    while stream.read(_CHUNK):
        continue


def _shown(text: object) -> str:
    return ascii(text)[:200]
