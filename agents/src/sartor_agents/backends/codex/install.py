"""The Codex CLI in the version that this release was tested with.

Its JSON events and its configuration change from version to version, so another one is refused and not tried. It is looked
for in `$SARTOR_CODEX` (the program itself), in the cache folder, and on the PATH; `sartor codex setup` installs it with npm
into the cache folder, keyed by the version, in one step: a killed installation leaves nothing half-done.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.169.0"
PACKAGE = "@openai/codex"
NEEDED_BYTES = 1 << 30
_VERSION_SECONDS = 30.0
_INSTALL_SECONDS = 900.0


PROGRAM = "SARTOR_CODEX"
"""The variable that names the program; a step's process, which has no home of a user, is given it."""


class CodexMissingError(Exception):
    """No Codex CLI of the wanted version; the message says what was found and what to do. `unreachable`: npm could not
    reach its registry."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Codex:
    """`program` runs by itself (no Node.js); `folder` holds it with what it needs beside it."""

    program: Path
    version: str

    @property
    def folder(self) -> Path:
        return self.program.parent.parent


def find_codex(cache: Path, version: str = VERSION) -> Codex:
    """Raises `CodexMissingError`, naming every place that was looked at and what was wrong there."""
    seen: list[str] = []
    for place in _places(cache, version):
        if not place.is_file():
            continue
        found = version_of(place)
        if found == version:
            return Codex(place, version)
        seen.append(f"{place} is version {found or 'unknown'}")
    raise CodexMissingError(
        f"the Codex CLI {version} is not installed{' (' + '; '.join(seen) + ')' if seen else ''}; "
        "install it with: sartor codex setup"
    )


def ensure_codex(cache: Path, say: Callable[[str], None], version: str = VERSION) -> Codex:
    """Install it unless it is there. Idempotent, safe in two processes at once. Raises `CodexMissingError`."""
    try:
        return find_codex(cache, version)
    except CodexMissingError:
        npm = shutil.which("npm")
        if npm is None:
            raise CodexMissingError(
                f"npm is missing, which installs the Codex CLI; install Node.js, or set SARTOR_CODEX to codex {version}"
            ) from None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"codex-{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            place = cache / f"codex-{version}"
            if not _program(place).is_file():
                _install(npm, place, version, say)
    except OSError as error:
        raise CodexMissingError(
            f"{error.filename or cache}: {error.strerror or error}; check the folder or set SARTOR_CACHE to another one"
        ) from error
    return find_codex(cache, version)


def _install(npm: str, place: Path, version: str, say: Callable[[str], None]) -> None:
    if (free := shutil.disk_usage(place.parent).free) < NEEDED_BYTES:
        raise CodexMissingError(f"{place.parent}: {free >> 20} MiB free, the Codex CLI needs {NEEDED_BYTES >> 20} MiB")
    say(f"installing the Codex CLI {version} into {place} (about 400 MB)")
    scratch = place.with_name(place.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = (
        npm,
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(scratch),
        f"{PACKAGE}@{version}",
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise CodexMissingError(
            "npm did not end in 15 minutes; see that its registry can be reached", unreachable=True
        ) from None
    if done.returncode != 0 or not _program(scratch).is_file():
        words = " ".join((done.stderr or done.stdout).split())[-600:]
        unreachable = any(
            code in words for code in ("ENOTFOUND", "ETIMEDOUT", "ECONNREFUSED", "EAI_AGAIN", "ECONNRESET")
        )
        raise CodexMissingError(f"npm could not install {PACKAGE}@{version}: {words}", unreachable=unreachable)
    shutil.rmtree(place, ignore_errors=True)
    scratch.rename(place)


def version_of(program: Path) -> str | None:
    """What `--version` says; None where it does not run."""
    try:
        done = subprocess.run(
            (str(program), "--version"), capture_output=True, text=True, check=False, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return words[-1] if done.returncode == 0 and words else None


def _places(cache: Path, version: str) -> Iterator[Path]:
    if given := os.environ.get(PROGRAM):
        yield Path(given)
        return
    yield _program(cache / f"codex-{version}")
    if (found := shutil.which("codex")) is not None:
        yield _native(Path(found).resolve())


def _program(place: Path) -> Path:
    """The native program of this machine in an npm prefix."""
    return _vendor(place / "node_modules" / "@openai")


def _vendor(scope: Path) -> Path:
    arm = platform.machine() in ("aarch64", "arm64")
    system, triple = ("darwin", "apple-darwin") if sys.platform == "darwin" else ("linux", "unknown-linux-musl")
    package = f"codex-{system}-{'arm64' if arm else 'x64'}"
    return scope / package / "vendor" / f"{'aarch64' if arm else 'x86_64'}-{triple}" / "bin" / "codex"


def _native(found: Path) -> Path:
    """Of npm's starter script the program that it starts, which needs no Node.js."""
    if found.suffix != ".js":
        return found
    beside = _vendor(found.parents[2])
    return beside if beside.is_file() else _vendor(found.parents[1] / "node_modules" / "@openai")
