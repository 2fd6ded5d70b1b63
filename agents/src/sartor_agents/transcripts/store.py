"""Transcripts on disk: one append-only file for each step of a run, the oldest steps dropped when the run has too much.

A line that a crash cut half-way is left out when it is read, and dropped when the step goes on; everything before it is
whole.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sartor_agents.run.storage import storage_errors
from sartor_agents.text import legible
from sartor_agents.transcripts.events import EVENT, Answered, Asked, Entry, Failed, Repeated, TranscriptEvent
from sartor_agents.transcripts.redact import Redactor

Keep = Literal["full", "summary", "none"]
LONGEST_ENTRY = 64 << 10
"""Characters of one entry that are kept."""
LONGEST_NAME = 600
"""The same of names, which a model may choose as well."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class TranscriptStore:
    """Transcripts of the runs below `folder`, at most `maximum_bytes` for each run."""

    def __init__(self, folder: Path, *, keep: Keep = "full", maximum_bytes: int = 256 << 20, redact: Redactor) -> None:
        self._folder, self._keep, self._maximum, self._redact = folder, keep, maximum_bytes, redact

    def append(self, run: str, step: str, event: TranscriptEvent) -> None:
        """Write one event. Raises `StorageError` when the disk is full."""
        if self._keep == "none":
            return
        path = self.path(run, step)
        line = self._clean(event).model_dump_json(exclude_defaults=False).encode() + b"\n"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(path, len(line))
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "ab") as file:
                _drop_half_line(handle)
                file.write(line)

    def path(self, run: str, step: str) -> Path:
        """The file of a step such as `003/implement/1`."""
        return self.folder_of(self._folder, run) / f"{_name(step)}.jsonl"

    @staticmethod
    def folder_of(folder: Path, run: str) -> Path:
        """Where the files of a run lie below a store's `folder`."""
        return folder / _name(run)

    def _clean(self, event: TranscriptEvent) -> TranscriptEvent:
        match event:
            case Asked() | Answered() if self._keep == "summary":
                update: dict[str, object] = {"entries": ()}
            case Asked() | Answered():
                update = {"entries": tuple(map(self._entry, event.entries))}
            case Failed():
                update = {"message": self._redact(legible(event.message))}
            case Repeated():
                update = {}
        return event.model_copy(update={"call": self._name(event.call), **update})

    def _entry(self, entry: Entry) -> Entry:
        text = self._redact(legible(entry.text))
        gone = max(0, len(text) - LONGEST_ENTRY)
        return entry.model_copy(
            update={
                "text": text[:LONGEST_ENTRY],
                "cut": entry.cut + gone,
                "name": self._name(entry.name),
                "id": self._name(entry.id),
            }
        )

    def _name(self, text: str) -> str:
        return self._redact(legible(text))[:LONGEST_NAME]

    def _make_room(self, path: Path, more: int) -> None:
        """Drop the files of the oldest steps, then begin the step's own anew: what happens now is what is looked for."""
        files = sorted(path.parent.glob("*.jsonl"), key=lambda one: (one == path, one.stat().st_mtime_ns))
        sizes = {one: one.stat().st_size for one in files}
        total = sum(sizes.values()) + more
        for one in files:
            if total <= self._maximum:
                return
            one.unlink()
            total -= sizes[one]


def _drop_half_line(file: int) -> None:
    """What a full disk or a crash left of a line would spoil the next one."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.ftruncate(file, os.pread(file, size, 0).rfind(b"\n") + 1)


def read_transcript(path: Path) -> Iterator[TranscriptEvent]:
    """The events of one step, in order."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield EVENT.validate_json(line)
            except ValidationError:
                if line.endswith(b"\n"):
                    raise


def _name(text: str) -> str:
    return _UNSAFE.sub("-", text).strip(".-")[:120] or "unnamed"
