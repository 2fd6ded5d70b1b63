"""Kubernetes built once, with Go, into the cache.

`kubernetes/` beside this package is a small program that imports the upstream components as ordinary modules and answers to
each of their names. The cache folder carries a hash of that program and of how it is linked, so another version is another
folder and nothing is ever rebuilt in place.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sartor_devcluster.binaries.offer import (
    COMPONENTS,
    KUBERNETES,
    Binaries,
    Source,
    Version,
    parse_version,
    show,
)
from sartor_devcluster.binaries.store import architecture, making, require_space, stored
from sartor_devcluster.errors import BinariesError

SOURCES = Path(__file__).resolve().parents[1] / "kubernetes"
PROGRAM = "kubernetes"
NODE_AGENTS = ("kubelet", "kube-proxy")
"""In the program as well, for those who bring up a real node; a cluster of ours does not start them."""

OLDEST_GO = (1, 26)
NEEDED_BYTES = 5_000_000_000
COST = "about 4 minutes on 2 free cores, 0.9 GB of modules, 3.2 GB of build cache, 145 MB in the end; once"
MODULE_SECONDS, BUILD_SECONDS = 900.0, 3600.0

_PR_SET_PDEATHSIG = 1


def link_flags() -> str:
    """What makes `/version` tell the upstream version; without it, it says v0.0.0-master."""
    package = "k8s.io/component-base/version"
    values = {
        "gitVersion": f"v{show(KUBERNETES)}",
        "gitMajor": str(KUBERNETES[0]),
        "gitMinor": str(KUBERNETES[1]),
        "gitTreeState": "clean",
    }
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in values.items())])


def key(sources: Path = SOURCES) -> str:
    """Twelve hexadecimal digits over the sources, the flags and the processor."""
    total = hashlib.sha256(f"{link_flags()} {architecture()}".encode())
    for name in ("main.go", "go.mod", "go.sum"):
        data = (sources / name).read_bytes()
        total.update(b"%s %d\n" % (name.encode(), len(data)))
        total.update(data)
    return total.hexdigest()[:12]


def folder(cache: Path) -> Path:
    """Where the build of the present sources is kept below `cache`, made or not."""
    return cache / f"kubernetes-{show(KUBERNETES)}-{key()}"


def cached(cache: Path) -> Binaries | None:
    return stored(folder(cache))


def build(cache: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Binaries:
    """Build unless it is built. Raises `BinariesError` where Go, its module proxy, space or permission is missing."""
    place = folder(cache)
    with making(place, say) as scratch:
        if scratch is not None:
            go = _go(environment)
            require_space(cache, NEEDED_BYTES, "building Kubernetes")
            say(f"building Kubernetes {show(KUBERNETES)} with Go into {place} ({COST})")
            begun = time.monotonic()
            settings = {**environment, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
            # Listing what is compiled downloads just the modules of that.
            dependencies = [go, "list", "-deps", "-f={{.Name}}", "."]
            _run(dependencies, settings, MODULE_SECONDS, "see that the Go module proxy can be reached")
            say(f"modules are there after {time.monotonic() - begun:.0f} s; compiling")
            output = ["-trimpath", "-buildvcs=false", "-ldflags", link_flags(), "-o", str(scratch / PROGRAM)]
            _run(
                [go, "build", *output, "."], settings, BUILD_SECONDS, "see that 4 GB of memory are free, then try again"
            )
            for name in (*COMPONENTS, *NODE_AGENTS):
                (scratch / name).symlink_to(PROGRAM)
            say(f"built in {time.monotonic() - begun:.0f} s")
    found = stored(place)
    if found is None:
        raise BinariesError(f"{place} is damaged; remove the folder and try again")
    return Binaries(Source.BUILD, found.version, found.paths)


def _go(environment: Mapping[str, str]) -> str:
    go = shutil.which("go", path=environment.get("PATH"))
    if go is None:
        raise BinariesError(f"cannot build: Go is not installed (needed: {show(OLDEST_GO)} or newer)")
    done = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, env=dict(environment), cwd=SOURCES, check=False
    )
    version = go_version(done.stdout)
    if version is None or version[:2] < OLDEST_GO:
        seen = done.stdout.strip() or done.stderr.strip().splitlines()[-1:] or "no version"
        raise BinariesError(f"cannot build: {go} is {seen}, needed is Go {show(OLDEST_GO)} or newer")
    return go


def go_version(text: str) -> Version | None:
    """`go1.26.8`, `go1.27rc1` or `go1.26-custom` as numbers."""
    text = text.strip().removeprefix("go")
    digits = text.split("rc")[0].split("beta")[0].split("-")[0].split(" ")[0]
    return parse_version(digits if digits.count(".") == 2 else f"{digits}.0")


def _run(command: list[str], environment: Mapping[str, str], seconds: float, advice: str) -> None:
    """Run a Go command in the sources' folder; it is killed with us, and after `seconds`."""
    libc = ctypes.CDLL(None)
    with subprocess.Popen(
        command,
        cwd=SOURCES,
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
