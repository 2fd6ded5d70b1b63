"""CoreDNS, the cluster's DNS server: found, downloaded, or built with Go into the cache.

`coredns/` beside this package is CoreDNS with the few plugins that this needs, from upstream's modules and with the
Kubernetes modules of `kubernetes/`, so that both share what Go has downloaded and compiled. An official CoreDNS has more
plugins and serves as well.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_devcluster.binaries.build import hash_of
from sartor_devcluster.binaries.download import TOTAL_SECONDS, checked, deadline_in, first_word, get, member, store
from sartor_devcluster.binaries.golang import compile_program, find_go
from sartor_devcluster.binaries.offer import Source, parse_version, show
from sartor_devcluster.binaries.store import architecture, making, require_space
from sartor_devcluster.errors import BinariesError

COREDNS = (1, 15, 0)
"""What is downloaded or built."""

OLDEST_COREDNS = (1, 11)
"""Oldest of which a found program is used: it reads every option of our configuration."""

PROGRAM = "coredns"
SOURCES = Path(__file__).resolve().parents[1] / "coredns"
LINK_FLAGS = "-s -w"
NEEDED_BYTES = 2_000_000_000
DOWNLOAD_BYTES = 200_000_000
COST = "about 2 minutes on 2 free cores, 0.6 GB of Go's caches (1 GB without Kubernetes'), 54 MB in the end; once"
VERSION_SECONDS = 20.0
OFFICIAL = "https://github.com/coredns/coredns/releases/download"
"""Where the official releases lie; tests name a server of their own."""


@dataclass(frozen=True)
class Found:
    """A program that can be used, and where it came from."""

    path: Path
    source: Source


def built_folder(cache: Path) -> Path:
    """Where the build of the present sources is kept, made or not."""
    return cache / f"coredns-{show(COREDNS)}-{hash_of(SOURCES, LINK_FLAGS)}"


def downloaded_folder(cache: Path) -> Path:
    return cache / f"coredns-{show(COREDNS)}-official-{architecture()}"


def find_coredns(
    cache: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    *,
    sources: Iterable[Source] = tuple(Source),
) -> Found:
    """A usable CoreDNS from the first of `sources` that has one, in the order of `Source`.

    Idempotent and safe in several processes at once. Raises `BinariesError` with the reason of every source.
    """
    allowed = set(sources)
    reasons: list[str] = []
    for source in (s for s in Source if s in allowed):
        try:
            if (path := _from(source, cache, environment, say)) is not None:
                return Found(path, source)
        except BinariesError as error:
            reasons.append(str(error))
    raise BinariesError("no CoreDNS: " + "; ".join(reasons or ["none of the allowed sources has any"]))


def _from(source: Source, cache: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Path | None:
    match source:
        case Source.ASSETS:
            folder = environment.get("KUBEBUILDER_ASSETS")
            path = Path(folder, PROGRAM) if folder else None
            return _usable(path) if path is not None and os.access(path, os.X_OK) else None
        case Source.PATH:
            found = shutil.which(PROGRAM, path=environment.get("PATH", ""))
            return _usable(Path(found)) if found else None
        case Source.CACHE:
            places = (downloaded_folder(cache) / PROGRAM, built_folder(cache) / PROGRAM)
            return next((path for path in places if path.is_file()), None)
        case Source.DOWNLOAD:
            return _download(cache, say)
        case Source.BUILD:
            return _build(cache, environment, say)


def _usable(path: Path) -> Path:
    try:
        done = subprocess.run(
            [str(path), "-version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinariesError(f"{path} does not tell its version: {error}") from error
    version = parse_version(done.stdout)
    if version is None:
        raise BinariesError(f"{path} does not tell its version")
    if version[:2] < OLDEST_COREDNS:
        raise BinariesError(f"{path} is {show(version)}, needed is {show(OLDEST_COREDNS)} or newer")
    return path


def _download(cache: Path, say: Callable[[str], None]) -> Path:
    place = downloaded_folder(cache)
    with making(place, say) as scratch:
        if scratch is not None:
            require_space(cache, DOWNLOAD_BYTES, "a download of CoreDNS")
            deadline = deadline_in(TOTAL_SECONDS)
            archive = f"coredns_{show(COREDNS)}_linux_{architecture()}.tgz"
            url = f"{OFFICIAL}/v{show(COREDNS)}/{archive}"
            expected = first_word(get(f"{url}.sha256", deadline).decode(), f"{url}.sha256")
            say(f"downloading {url}")
            store(scratch / PROGRAM, member(checked(archive, get(url, deadline), expected), PROGRAM))
    return _whole(place)


def _build(cache: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Path:
    place = built_folder(cache)
    with making(place, say) as scratch:
        if scratch is not None:
            go = find_go(environment, SOURCES)
            require_space(cache, NEEDED_BYTES, "building CoreDNS")
            say(f"building CoreDNS {show(COREDNS)} with Go into {place} ({COST})")
            compile_program(
                go,
                SOURCES,
                scratch / PROGRAM,
                link_flags=LINK_FLAGS,
                environment=environment,
                say=say,
                advice="see that 2 GB of memory are free, then try again",
            )
    return _whole(place)


def _whole(place: Path) -> Path:
    path = place / PROGRAM
    if not path.is_file():
        raise BinariesError(f"{place} is damaged; remove the folder and try again")
    return path
