"""Go, as far as this package uses it: found, asked for its version, run so that nothing is left of it when we end."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sartor_devcluster.binaries.offer import Version, parse_version, show
from sartor_devcluster.errors import BinariesError

OLDEST_GO = (1, 26)
MODULE_SECONDS, BUILD_SECONDS = 900.0, 3600.0

_PR_SET_PDEATHSIG = 1


def find_go(environment: Mapping[str, str], folder: Path) -> str:
    """The Go of `environment`'s PATH as it is in `folder`. Raises `BinariesError` for none, or one that is too old."""
    go = shutil.which("go", path=environment.get("PATH"))
    if go is None:
        raise BinariesError(f"cannot build: Go is not installed (needed: {show(OLDEST_GO)} or newer)")
    done = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, env=dict(environment), cwd=folder, check=False
    )
    version = go_version(done.stdout)
    if version is None or version[:2] < OLDEST_GO:
        said = done.stdout.strip() or (done.stderr.strip().splitlines() or ["without a version"])[-1]
        raise BinariesError(f"cannot build: {go} is {said}, needed is Go {show(OLDEST_GO)} or newer")
    return go


def go_version(text: str) -> Version | None:
    """`go1.26.8`, `go1.27rc1` or `go1.26-custom` as numbers."""
    text = text.strip().removeprefix("go")
    digits = text.split("rc")[0].split("beta")[0].split("-")[0].split(" ")[0]
    return parse_version(digits if digits.count(".") == 2 else f"{digits}.0")


def compile_program(
    go: str,
    sources: Path,
    output: Path,
    *,
    link_flags: str,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    advice: str,
    package: str = ".",
) -> None:
    """Fetch the modules of the program in `sources` and compile it to `output`. `advice`: what a failed compilation may
    lack. `package`: a program of one of the modules, where `sources` has none of its own. Raises `BinariesError` with what
    Go said."""
    begun = time.monotonic()
    settings = _settings(environment)
    # Listing what is compiled downloads just the modules of that.
    dependencies = [go, "list", "-deps", "-f={{.Name}}", package]
    _run(dependencies, sources, settings, MODULE_SECONDS, "see that the Go module proxy can be reached")
    say(f"modules are there after {time.monotonic() - begun:.0f} s; compiling")
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", link_flags, "-o", str(output)]
    _run([go, "build", *flags, package], sources, settings, BUILD_SECONDS, advice)
    say(f"built in {time.monotonic() - begun:.0f} s")


def module_folder(go: str, sources: Path, module: str, environment: Mapping[str, str]) -> Path:
    """Where the files of a module lie that the program in `sources` is built of. Raises `BinariesError`."""
    listing = [go, "list", "-m", "-f={{.Dir}}", module]
    said = _run(listing, sources, _settings(environment), MODULE_SECONDS, "see that the Go module proxy can be reached")
    folder = Path((said.strip().splitlines() or [""])[-1])
    if not folder.is_absolute() or not folder.is_dir():
        raise BinariesError(f"the module {module} is not in Go's module cache; run go mod download, then try again")
    return folder


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}


def _run(command: list[str], folder: Path, environment: Mapping[str, str], seconds: float, advice: str) -> str:
    """Run a Go command in `folder` and return what it said; it is killed with us, and after `seconds`."""
    libc = ctypes.CDLL(None)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # takes no lock
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # the compilers that go started, too
            if isinstance(error, subprocess.TimeoutExpired):
                raise BinariesError(f"go {command[1]} did not end within {seconds:.0f} s; {advice}") from error
            raise
    if process.returncode != 0:
        words = " ".join(line for line in output.strip().splitlines() if "downloading" not in line)[-600:]
        raise BinariesError(f"go {command[1]} failed: {words}; {advice}")
    return output
