"""Writing files so that a reader sees the old content or the new one, never half of it."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from sartor_agents.run.errors import StorageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn the operating system's refusals to write into `StorageError`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"no space left for {path}; everything that was recorded before is whole",
                "free some space and continue with: sartor run --resume --dir RUN",
            ) from error
        if error.errno in _DENIED:
            raise StorageError(f"{path} cannot be written: {error.strerror}", "check its owner and mode") from error
        raise


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write, flush to the disk, rename. Raises `StorageError`; on any error the old file is untouched."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
