"""The official release, downloaded once into the cache.

Kubernetes publishes each program with its SHA-256, etcd an archive with a list of sums. The sums come from the same place as
the programs: they show that a transfer was whole, not who made it.
"""

import hashlib
import http.client
import io
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sartor_devcluster.binaries.offer import COMPONENTS, ETCD, KUBERNETES, Binaries, Source, show
from sartor_devcluster.binaries.store import architecture, making, require_space, stored
from sartor_devcluster.components import KUBE_PROXY
from sartor_devcluster.errors import BinariesError

CONNECT_SECONDS = 5.0
"""For the first answer and between two pieces: a machine without the network must go on to the next source soon."""

TOTAL_SECONDS = 900.0
NEEDED_BYTES = 700_000_000
_PIECE = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where the official releases lie; tests name a server of their own."""

    kubernetes: str = "https://dl.k8s.io"
    etcd: str = "https://github.com/etcd-io/etcd/releases/download"


OFFICIAL = Origin()


def folder(cache: Path) -> Path:
    return cache / f"kubernetes-{show(KUBERNETES)}-official-{architecture()}"


def cached(cache: Path) -> Binaries | None:
    return stored(folder(cache))


def fetch(cache: Path, say: Callable[[str], None], origin: Origin | None = None) -> Binaries:
    """Download unless it is there. Raises `BinariesError` where it cannot be reached or a sum is wrong."""
    origin = origin or OFFICIAL
    place, arch = folder(cache), architecture()
    with making(place, say) as scratch:
        if scratch is not None:
            require_space(cache, NEEDED_BYTES, "a download of Kubernetes")
            deadline = deadline_in(TOTAL_SECONDS)
            for name in (*COMPONENTS, KUBE_PROXY):
                if name != "etcd":
                    base = f"{origin.kubernetes}/v{show(KUBERNETES)}/bin/linux/{arch}/{name}"
                    expected = first_word(get(f"{base}.sha256", deadline).decode(), f"{base}.sha256")
                    say(f"downloading {base}")
                    store(scratch / name, checked(base, get(base, deadline), expected))
            release = f"{origin.etcd}/v{show(ETCD)}"
            archive = f"etcd-v{show(ETCD)}-linux-{arch}.tar.gz"
            sums = get(f"{release}/SHA256SUMS", deadline).decode()
            say(f"downloading {release}/{archive}")
            data = checked(archive, get(f"{release}/{archive}", deadline), sum_of(archive, sums))
            store(scratch / "etcd", member(data, f"{archive.removesuffix('.tar.gz')}/etcd"))
    found = stored(place)
    if found is None:
        raise BinariesError(f"{place} is damaged; remove the folder and try again")
    return Binaries(Source.DOWNLOAD, found.version, found.paths)


def first_word(text: str, where: str) -> str:
    """The sum in a `.sha256` file, which may name the file behind it."""
    words = text.split()
    if not words or len(words[0]) != 64:
        raise BinariesError(f"{where} holds no SHA-256; a proxy may have answered instead, see what it returns")
    return words[0]


def sum_of(name: str, sums: str) -> str:
    """The sum of file `name` in a `SHA256SUMS` list."""
    for line in sums.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*") == name:
            return words[0]
    raise BinariesError(f"the list of sums does not name {name}; the release is not what it was expected to be")


def member(archive: bytes, name: str) -> bytes:
    """The contents of file `name` in a gzipped tar archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            found = files.extractfile(name)
            if found is None:
                raise KeyError(name)
            return found.read()
    except (tarfile.TarError, KeyError, OSError) as error:
        raise BinariesError(f"the archive has no readable {name}: {error}") from error


def checked(what: str, data: bytes, expected: str) -> bytes:
    """The data, if it has the SHA-256 that its publisher says. Raises `BinariesError`."""
    if (seen := hashlib.sha256(data).hexdigest()) != expected:
        raise BinariesError(
            f"{what} has SHA-256 {seen[:16]}…, its publisher says {expected[:16]}…; not used, try again"
        )
    return data


def deadline_in(seconds: float) -> float:
    """For `get`."""
    return time.monotonic() + seconds


def get(url: str, deadline: float) -> bytes:
    """What lies at the address. Raises `BinariesError` where nothing answers, or not all of it has come by `deadline`."""
    pieces: list[bytes] = []
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
            while piece := answer.read(_PIECE):
                pieces.append(piece)
                if time.monotonic() > deadline:
                    raise BinariesError(f"the download did not end within {TOTAL_SECONDS:.0f} s ({url})")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise BinariesError(f"cannot download {url}: {reason}") from error
    return b"".join(pieces)


def store(path: Path, data: bytes) -> None:
    """Write a program."""
    path.write_bytes(data)
    path.chmod(0o755)
