"""The order in which binaries are looked for: $KUBEBUILDER_ASSETS, PATH, cache, download, build.

What is there already wins over what must be fetched, and an official release over our own build of it. Each place that
was looked into and not used is named with its reason, so that nobody has to guess which Kubernetes a test ran on.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sartor_devcluster.binaries import build, download
from sartor_devcluster.binaries.offer import (
    COMPONENTS,
    Binaries,
    Source,
    Version,
    parse_version,
    refusal,
    show,
    version_command,
)
from sartor_devcluster.errors import BinariesError

Say = Callable[[str], None]

VERSION_SECONDS = 20.0
"""For a program to print its version: a cold 140 MB binary on a slow disk takes seconds."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """`$SARTOR_CACHE`, or `~/.cache/sartor`."""
    named = environment.get("SARTOR_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "sartor"


def find_binaries(
    *,
    environment: Mapping[str, str] = os.environ,
    sources: Iterable[Source] = tuple(Source),
    say: Say = lambda _: None,
) -> Binaries:
    """A usable set from the first of `sources` that has one; downloaded or built sets are left in the cache.

    Idempotent and safe in several processes at once. Raises `BinariesError` with the reason of every source.
    """
    cache = cache_folder(environment)
    allowed = set(sources)
    reasons: list[str] = []
    for source in (s for s in Source if s in allowed):
        try:
            found = _try(source, environment, cache, say)
        except BinariesError as error:
            reasons.append(str(error))
            say(f"not from {source}: {error}")
            continue
        if found is not None:
            say(f"Kubernetes {found.version} from {_describe(found)}")
            return found
    raise BinariesError(
        "no Kubernetes binaries: "
        + "; ".join(reasons or ["none of the allowed sources has any"])
        + "; install Go 1.26 or set KUBEBUILDER_ASSETS to a folder with "
        + ", ".join(COMPONENTS)
    )


def _describe(found: Binaries) -> str:
    folder = found["kube-apiserver"].parent
    return {Source.ASSETS: "$KUBEBUILDER_ASSETS", Source.PATH: "PATH"}.get(found.source, found.source) + f" ({folder})"


def _try(source: Source, environment: Mapping[str, str], cache: Path, say: Say) -> Binaries | None:
    match source:
        case Source.ASSETS:
            folder = environment.get("KUBEBUILDER_ASSETS")
            return _present(source, f"$KUBEBUILDER_ASSETS ({folder})", in_folder(Path(folder))) if folder else None
        case Source.PATH:
            paths = on_path(environment.get("PATH", ""))
            # Nobody who has only some vendor's kubectl means it as a cluster; that is not worth a word.
            return _present(source, "PATH", paths) if paths.keys() - {"kubectl"} else None
        case Source.CACHE:
            return download.cached(cache) or build.cached(cache)
        case Source.DOWNLOAD:
            return download.fetch(cache, say)
        case Source.BUILD:
            return build.build(cache, environment, say)


def in_folder(folder: Path) -> dict[str, Path]:
    """The components that lie in `folder` as executable files."""
    paths = {name: folder / name for name in COMPONENTS}
    return {name: path for name, path in paths.items() if path.is_file() and os.access(path, os.X_OK)}


def on_path(search: str) -> dict[str, Path]:
    """The components that a shell with this PATH would start."""
    found = {name: shutil.which(name, path=search) for name in COMPONENTS}
    return {name: Path(path) for name, path in found.items() if path}


def _present(source: Source, where: str, paths: Mapping[str, Path]) -> Binaries:
    versions = {name: version_of(name, path) for name, path in paths.items()} if len(paths) == len(COMPONENTS) else {}
    if (reason := refusal(where, paths, versions)) is not None:
        raise BinariesError(reason)
    version = versions["kube-apiserver"]
    assert version is not None, "refusal() refuses a set without versions"
    return Binaries(source, show(version), dict(paths))


def version_of(component: str, path: Path) -> Version | None:
    """What a program says that it is; None where it says nothing."""
    try:
        done = subprocess.run(
            version_command(component, path), capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout)
