"""Kubernetes built once, with Go, into the cache.

`kubernetes/` beside this package is a small program that imports the upstream components as ordinary modules and answers to
each of their names. The cache folder carries a hash of that program and of how it is linked, so another version is another
folder and nothing is ever rebuilt in place.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from sartor_devcluster.binaries.golang import compile_program, find_go
from sartor_devcluster.binaries.offer import COMPONENTS, KUBERNETES, Binaries, Source, show
from sartor_devcluster.binaries.store import architecture, making, require_space, stored
from sartor_devcluster.errors import BinariesError

SOURCES = Path(__file__).resolve().parents[1] / "kubernetes"
PROGRAM = "kubernetes"
NODE_AGENTS = ("kubelet", "kube-proxy")
"""In the program as well. A cluster of ours starts kube-proxy; the kubelet is for those who bring up a real node."""

NEEDED_BYTES = 5_000_000_000
COST = "about 4 minutes on 2 free cores, 0.9 GB of modules, 3.2 GB of build cache, 145 MB in the end; once"


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


def hash_of(sources: Path, flags: str) -> str:
    """Twelve hexadecimal digits over a Go program's sources, how it is linked, and the processor."""
    total = hashlib.sha256(f"{flags} {architecture()}".encode())
    for name in ("main.go", "go.mod", "go.sum"):
        if not (sources / name).is_file():  # no program of its own, only the modules that have it
            continue
        data = (sources / name).read_bytes()
        total.update(b"%s %d\n" % (name.encode(), len(data)))
        total.update(data)
    return total.hexdigest()[:12]


def key(sources: Path = SOURCES) -> str:
    """What tells this program from another version of it."""
    return hash_of(sources, link_flags())


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
            go = find_go(environment, SOURCES)
            require_space(cache, NEEDED_BYTES, "building Kubernetes")
            say(f"building Kubernetes {show(KUBERNETES)} with Go into {place} ({COST})")
            compile_program(
                go,
                SOURCES,
                scratch / PROGRAM,
                link_flags=link_flags(),
                environment=environment,
                say=say,
                advice="see that 4 GB of memory are free, then try again",
            )
            for name in (*COMPONENTS, *NODE_AGENTS):
                (scratch / name).symlink_to(PROGRAM)
    found = stored(place)
    if found is None:
        raise BinariesError(f"{place} is damaged; remove the folder and try again")
    return Binaries(Source.BUILD, found.version, found.paths)
