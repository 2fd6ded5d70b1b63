"""Readings of the reference by content: in memory for one judging, on disk for whoever judges the same set again.

An answer that is cut short is part of one that is known: the reading of a longer answer that begins alike is cut as well.
Files hold token ids of prompts' answers, no text and no prompts; a folder of the user's own (0700) keeps them.
"""

import hashlib
import json
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .reference_check import ReferenceCheck

CACHE_VERSION = 3
IN_MEMORY = 256
ON_DISK_BYTES = 512 << 20
"""When a folder holds more than this the oldest entries go."""

_Key = tuple[str, tuple[int, ...]]


class ReferenceCache:
    """`digest` names the weights; without a folder only memory is used."""

    def __init__(self, digest: str, folder: Path | None) -> None:
        self._digest = digest
        self._folder = folder
        self._known: OrderedDict[_Key, list[tuple[tuple[int, ...], ReferenceCheck]]] = OrderedDict()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_room(folder, ON_DISK_BYTES)

    def get(self, kind: str, prompt: Sequence[int], output: Sequence[int]) -> ReferenceCheck | None:
        """The reading of `output` after `prompt` under arithmetic `kind`, or None."""
        key, wanted = (kind, tuple(prompt)), tuple(output)
        for answer, check in self._known.get(key, ()):
            if answer[: len(wanted)] == wanted:
                self._known.move_to_end(key)
                return check.first(len(wanted))
        path = self._path(kind, prompt, output)
        found = _read(path) if path is not None else None
        if found is not None:
            self._remember(key, wanted, found)
        return found

    def put(self, kind: str, prompt: Sequence[int], output: Sequence[int], check: ReferenceCheck) -> None:
        self._remember((kind, tuple(prompt)), tuple(output), check)
        path = self._path(kind, prompt, output)
        if path is not None:
            _write(path, check)

    def _remember(self, key: _Key, output: tuple[int, ...], check: ReferenceCheck) -> None:
        self._known.setdefault(key, []).append((output, check))
        self._known.move_to_end(key)
        while len(self._known) > IN_MEMORY:
            self._known.popitem(last=False)

    def _path(self, kind: str, prompt: Sequence[int], output: Sequence[int]) -> Path | None:
        if self._folder is None:
            return None
        key = json.dumps([CACHE_VERSION, self._digest, kind, list(prompt), list(output)])
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.json"


def _read(path: Path) -> ReferenceCheck | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        flat = [tuple(content[field.name]) for field in fields(ReferenceCheck)[:5]]
        nested = [tuple(tuple(row) for row in content[field.name]) for field in fields(ReferenceCheck)[5:]]
        return ReferenceCheck(*flat, *nested)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: it is computed again


def _write(path: Path, result: ReferenceCheck) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as file:
        json.dump(asdict(result), file, separators=(",", ":"))
    Path(file.name).replace(path)


def _make_room(folder: Path, limit: int) -> None:
    entries = [(path, path.stat()) for path in folder.glob("*/*.json")]
    total = sum(status.st_size for _, status in entries)
    for path, status in sorted(entries, key=lambda entry: entry[1].st_mtime):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= status.st_size
