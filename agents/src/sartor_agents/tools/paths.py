"""Paths that a model writes: to what they lead, and that they lead nowhere else.

A model names files as a command in its sandbox sees them: relative to the workspace, or `/workspace/…`, `/model/…`,
`/skills/…`. Tools outside resolve the same names, one part after the other and never through a link.
"""

import contextlib
import os
import stat
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

WORKSPACE = "/workspace"
WRITABLE = "stack"
LONGEST_PATH = 1000
LONGEST_PART = 200


class PathError(Exception):
    """The model named something that is not there or not allowed; the message is for the model."""


@dataclass(frozen=True)
class View:
    """What a model may read: `worktree` under /workspace, and `readable` folders under their own names."""

    worktree: Path
    readable: Mapping[str, Path]

    def split(self, path: str) -> tuple[str, tuple[str, ...]]:
        """The name of the root and the parts below it. Raises `PathError`."""
        if len(path) > LONGEST_PATH or "\0" in path or any(ord(character) < 32 for character in path):
            raise PathError("the path is too long or holds control characters")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PathError("the path is not UTF-8") from None
        root, rest = WORKSPACE, path
        if path.startswith("/"):
            roots = (WORKSPACE, *self.readable)
            found = next((name for name in roots if path == name or path.startswith(name + "/")), None)
            if found is None:
                raise PathError(f"{path}: there is nothing to read there; paths begin with {', '.join(roots)}")
            root, rest = found, path[len(found) :]
        parts = tuple(part for part in rest.split("/") if part not in ("", "."))
        if ".." in parts:
            raise PathError(f"{path}: name files without `..`")
        if any(len(part.encode()) > LONGEST_PART for part in parts):
            raise PathError(f"{path}: a name in it is too long")
        return root, parts

    def folder(self, root: str) -> Path:
        return self.worktree if root == WORKSPACE else self.readable[root]

    def writable(self, path: str) -> tuple[str, ...]:
        """The parts below the worktree of a file that may be written. Raises `PathError`."""
        root, parts = self.split(path)
        if root != WORKSPACE or parts[:1] != (WRITABLE,):
            raise PathError(f"{path}: only files below {WRITABLE}/ may be written")
        if len(parts) < 2:
            raise PathError(f"{path}: name a file below {WRITABLE}/")
        return parts


@contextlib.contextmanager
def opened_folder(top: Path, parts: tuple[str, ...], *, create: bool = False) -> Generator[int]:
    """A descriptor of the folder `parts` below `top`, reached without following a link. Raises `PathError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # The top itself is the caller's, who may reach it through links.
    current = os.open(top, flags & ~os.O_NOFOLLOW)
    try:
        for part in parts:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            try:
                below = os.open(part, flags, dir_fd=current)
            except FileNotFoundError:
                raise PathError(f"{'/'.join(parts)}: there is no such folder") from None
            except (NotADirectoryError, OSError) as error:
                raise PathError(f"{'/'.join(parts)}: {part} is no folder ({error.strerror})") from None
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def read_file(top: Path, parts: tuple[str, ...], most: int) -> bytes:
    """The first `most` bytes of a plain file, and one more if there are more. Raises `PathError`."""
    name = "/".join(parts)
    if not parts:
        raise PathError("name a file")
    with opened_folder(top, parts[:-1]) as folder:
        try:
            handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            raise PathError(f"{name}: there is no such file") from None
        except OSError as error:
            raise PathError(f"{name}: cannot be read ({error.strerror}); links are not followed") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise PathError(f"{name}: is no plain file")
        with os.fdopen(handle, "rb") as file:
            return file.read(most + 1)


def write_file(top: Path, parts: tuple[str, ...], content: bytes) -> None:
    """Put a plain file in place, in one piece; an old one keeps its mode. Raises `PathError`, `OSError` for a full disk."""
    with opened_folder(top, parts[:-1], create=True) as folder:
        mode = 0o644
        try:
            old = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if not stat.S_ISREG(old.st_mode):
                raise PathError(f"{'/'.join(parts)}: is no plain file and cannot be written")
            mode = stat.S_IMODE(old.st_mode)
        temporary = f".{os.getpid()}.new"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise


def remove_file(top: Path, parts: tuple[str, ...]) -> None:
    """Raises `PathError`."""
    with opened_folder(top, parts[:-1]) as folder:
        try:
            os.unlink(parts[-1], dir_fd=folder)
        except OSError as error:
            raise PathError(f"{'/'.join(parts)}: cannot be removed ({error.strerror})") from None
