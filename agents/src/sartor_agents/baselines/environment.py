"""vLLM's own Python environments, in the user's cache folder, one a platform, keyed by the hash of its lock.

vLLM pins much of the Python world; in an environment of its own those pins bind nobody else. It is built in a temporary
folder beside its place and renamed when it is whole, under a file lock: a killed or doubled build leaves nothing half-done.

One that somebody else made, with a build of their own, is looked at once and remembered (`remember`).
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

NEEDED_BYTES = 8 << 30
"""What a build takes on disk: PyTorch's default build brings its CUDA libraries."""

Platform = Literal["cpu", "cuda"]
LOCK_NAMES: Mapping[Platform, str] = {"cpu": "vllm-cpu.txt", "cuda": "vllm-cuda.txt"}
SIZES: Mapping[Platform, str] = {"cpu": "about 6 GB, one to three minutes", "cuda": "about 12 GB, some minutes"}

LOOK_SECONDS = 300.0
_LOOK = """
import json, sys
from importlib.metadata import version
import torch
print(json.dumps({"vllm": version("vllm"), "torch": torch.__version__, "cuda": torch.version.cuda, "prefix": sys.prefix}))
"""


class BaselineEnvironmentError(Exception):
    """The environment cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class VllmEnvironment:
    python: Path
    version: str


def lock_file(platform: Platform = "cpu") -> Path:
    """The lock with hashes: beside this module in a wheel, in `requirements/` in a checkout."""
    here, name = Path(__file__).resolve(), LOCK_NAMES[platform]
    for path in (here.with_name(name), here.parents[4] / "requirements" / name):
        if path.is_file():
            return path
    raise BaselineEnvironmentError(f"{name} is missing; reinstall sartor-agents")


def folder(cache: Path, platform: Platform = "cpu") -> Path:
    """Where the environment of the present lock is kept below `cache`, made or not."""
    digest = hashlib.sha256(lock_file(platform).read_bytes()).hexdigest()[:12]
    return cache / f"vllm-{platform}-{digest}-py{sys.version_info.major}{sys.version_info.minor}"


def existing_environment(cache: Path, platform: Platform = "cpu") -> VllmEnvironment | None:
    """The environment if it was made or remembered, else None. Writes nothing.

    `$SARTOR_VLLM` names one that somebody else made (the image of the baseline): a Python prefix with vLLM in it.
    """
    if given := os.environ.get("SARTOR_VLLM"):
        return _read(Path(given))
    if (known := _remembered(cache, platform)) is not None:
        return known
    place = folder(cache, platform)
    return _read(place) if (place / "bin" / "python").exists() else None


def remember(cache: Path, platform: Platform, python: Path) -> VllmEnvironment:
    """Take the interpreter `python` and its vLLM as the environment of `platform` from now on; it counts before a made one.

    Raises `BaselineEnvironmentError` where it has no vLLM, or on `cuda` a PyTorch without CUDA.
    """
    if not os.access(python, os.X_OK):
        raise BaselineEnvironmentError(f"{python} is no interpreter; name the python of an environment with vLLM in it")
    try:
        done = subprocess.run(
            [str(python), "-c", _LOOK], capture_output=True, text=True, timeout=LOOK_SECONDS, check=False, cwd="/"
        )
        found = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise BaselineEnvironmentError(f"{python} cannot be asked for its vLLM: {error}") from error
    if found is None:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise BaselineEnvironmentError(
            f"{python} has no vLLM that can be used: {last}; install vLLM there (pip install vllm)"
        )
    if platform == "cuda" and found["cuda"] is None:
        raise BaselineEnvironmentError(
            f"{python} has PyTorch {found['torch']} without CUDA, and vLLM {found['vllm']} there computes on processors; "
            "install the builds for CUDA"
        )
    record = {"python": str(python.absolute()), **found}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = _record(cache, platform).with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        part.replace(_record(cache, platform))
    except OSError as error:
        raise BaselineEnvironmentError(
            f"{error.filename or cache}: {error.strerror or error}; check the folder or set SARTOR_CACHE to another one"
        ) from error
    return VllmEnvironment(python.absolute(), str(found["vllm"]))


def _record(cache: Path, platform: Platform) -> Path:
    return cache / f"vllm-{platform}.json"


def _remembered(cache: Path, platform: Platform) -> VllmEnvironment | None:
    """The environment that was named, as it is now. Raises `BaselineEnvironmentError` where it is gone."""
    path = _record(cache, platform)
    flag = "" if platform == "cpu" else f" --platform {platform}"
    hint = f"name another one with sartor baseline setup{flag} --python PATH, or remove {path} to have one made"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        python, prefix = Path(known["python"]), Path(known["prefix"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaselineEnvironmentError(f"{path} cannot be read ({error}); {hint}") from error
    version = _installed(prefix)
    if version is None or not os.access(python, os.X_OK):
        raise BaselineEnvironmentError(f"{python} has no vLLM any more; {hint}")
    return VllmEnvironment(python, version)


def ensure_environment(cache: Path, say: Callable[[str], None], platform: Platform = "cpu") -> VllmEnvironment:
    """Make the environment unless it is there. Idempotent, safe in two processes at once.

    Raises `BaselineEnvironmentError` where uv, the package index, the space or the permission is missing.
    """
    try:
        return _ensure(cache, folder(cache, platform), say, platform)
    except OSError as error:
        raise BaselineEnvironmentError(
            f"{error.filename or cache}: {error.strerror or error}; check the folder or set SARTOR_CACHE to another one"
        ) from error


def _ensure(cache: Path, place: Path, say: Callable[[str], None], platform: Platform) -> VllmEnvironment:
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{place.name}.lock", say):
        found = existing_environment(cache, platform)
        if found is not None:
            return found
        free, needed = shutil.disk_usage(cache).free, NEEDED_BYTES * (2 if platform == "cuda" else 1)
        if free < needed:
            raise BaselineEnvironmentError(
                f"{cache}: {free >> 30} GiB free, vLLM's environment needs {needed >> 30} GiB; "
                "make room or set SARTOR_CACHE"
            )
        say(f"making vLLM's environment in {place} ({SIZES[platform]})")
        scratch = cache / f"{place.name}.partial"
        shutil.rmtree(scratch, ignore_errors=True)
        _uv("venv", "--quiet", "--relocatable", "--python", sys.executable, str(scratch))
        _uv("pip", "install", "--quiet", "--no-deps", "--require-hashes", "--compile-bytecode",
            "--python", str(scratch / "bin" / "python"), "-r", str(lock_file(platform)))  # fmt: skip
        scratch.rename(place)
        return _read(place)


def _read(place: Path) -> VllmEnvironment:
    version = _installed(place)
    if version is None:
        raise BaselineEnvironmentError(f"{place} is damaged (no vLLM in it); remove the folder and try again")
    return VllmEnvironment(place / "bin" / "python", version)


def _installed(prefix: Path) -> str | None:
    """The version of vLLM below a Python prefix (a distribution may keep its packages in `dist-packages`)."""
    sites = [str(site) for kind in ("site", "dist") for site in prefix.glob(f"lib/python*/{kind}-packages")]
    found = {d.metadata["Name"]: d.version for d in distributions(path=sites)}
    return found.get("vllm-cpu") or found.get("vllm")


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
