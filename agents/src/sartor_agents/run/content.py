"""What a candidate consists of: the files below `stack/`, and the hash that is their identity.

Gates pass a content hash, and only what has that hash is ever started, delivered or given traffic. Build output and
byte code are not content: they are made from it.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

MAX_FILES = 2_000
MAX_BYTES = 64 << 20
_DERIVED = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache"})


class ContentError(Exception):
    """The files cannot be a candidate. `reason` is a CamelCase constant; the message names the file."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_derived(path: PurePosixPath) -> bool:
    """Whether a path (relative to the worktree) is made by building or running the stack."""
    return path.parts[:2] == ("stack", "build") or not _DERIVED.isdisjoint(path.parts) or path.suffix == ".pyc"


def snapshot(worktree: Path) -> dict[str, bytes]:
    """The files of the candidate in `worktree` by POSIX path (`stack/app.py`), sorted.

    Raises `ContentError` for what no candidate may be: nothing at all, files outside `stack/`, links and special files,
    names that are not UTF-8, more than `MAX_FILES` files or `MAX_BYTES` bytes.
    """
    files: dict[str, bytes] = {}
    size = 0
    for folder, folders, names in os.walk(worktree, followlinks=False):
        for name in (*folders, *names):
            path = Path(folder) / name
            try:
                relative = PurePosixPath(path.relative_to(worktree).as_posix())
                str(relative).encode()
            except UnicodeEncodeError:
                raise ContentError("FileNameInvalid", f"the name {os.fsencode(name)!r} is not UTF-8") from None
            if is_derived(relative):
                continue
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise ContentError("LinkInStack", f"{relative} is a symbolic link; a stack holds plain files only")
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise ContentError("SpecialFileInStack", f"{relative} is not a plain file")
            if relative.parts[0] != "stack":
                raise ContentError("WroteOutsideStack", f"{relative} lies outside stack/, the only folder to write")
            size += path.stat().st_size
            if len(files) >= MAX_FILES or size > MAX_BYTES:
                raise ContentError(
                    "StackTooLarge", f"the stack has more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB"
                )
            files[str(relative)] = path.read_bytes()
        folders[:] = [f for f in folders if not is_derived(PurePosixPath((Path(folder) / f).relative_to(worktree)))]
    if "stack/__main__.py" not in files:
        raise ContentError("StackIncomplete", "stack/__main__.py is missing, so `python -m stack` cannot start")
    return dict(sorted(files.items()))


def content_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 (hexadecimal) over the sorted paths and contents, each with its length, so no two trees look the same."""
    total = hashlib.sha256()
    for path in sorted(files):
        name, data = path.encode(), files[path]
        total.update(b"%d:%s%d:" % (len(name), name, len(data)))
        total.update(data)
    return total.hexdigest()


def count_lines(files: Mapping[str, bytes]) -> int:
    """Lines of source in the stack."""
    return sum(data.count(b"\n") for path, data in files.items() if path.endswith((".py", ".cpp", ".h", ".c")))
