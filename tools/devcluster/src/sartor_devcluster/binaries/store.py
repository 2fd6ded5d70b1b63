"""Folders of the cache: made whole or not at all, by one process at a time."""

import fcntl
import platform
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from sartor_devcluster.binaries.offer import COMPONENTS, KUBERNETES, Binaries, Source, show
from sartor_devcluster.errors import BinariesError

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def architecture() -> str:
    """Go's name for this machine's processor. Raises `BinariesError` where upstream releases none for it."""
    machine = platform.machine().lower()
    if machine not in ARCHITECTURES:
        raise BinariesError(f"no Kubernetes for the processor {machine}; use an amd64 or arm64 machine")
    return ARCHITECTURES[machine]


def stored(folder: Path) -> Binaries | None:
    """The set in a folder of the cache. Its name says what is in it, so no program is asked for its version."""
    paths = {name: folder / name for name in COMPONENTS}
    return Binaries(Source.CACHE, show(KUBERNETES), paths) if all(p.is_file() for p in paths.values()) else None


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises `BinariesError` unless `needed` bytes are free where `folder` lies (its nearest existing parent)."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BinariesError(
            f"{place} has {free / 1e9:.1f} GB free, {purpose} needs {needed / 1e9:.1f} GB; make room or set SARTOR_CACHE"
        )


@contextmanager
def making(folder: Path, say: Callable[[str], None]) -> Generator[Path | None]:
    """A scratch folder that becomes `folder` when the block ends well; None when another process has just made it.

    One process at a time: others wait for the lock. A killed process leaves a scratch folder that the next one removes.
    Raises `BinariesError` where the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another process is making {folder}; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                yield None
                return
            scratch = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise BinariesError(
            f"{error.filename or folder}: {error.strerror or error}; check the folder or set SARTOR_CACHE to another one"
        ) from error
