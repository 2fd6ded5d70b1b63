"""Whether a set of binaries can be used: pure decisions over what was found.

A set is used whole or not at all. A scheduler of one minor version beside an API server of another mostly works, which is
worse than not at all in a cluster that exists to be trusted by tests.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

KUBERNETES = (1, 36, 2)
"""What is downloaded or built."""

ETCD = (3, 6, 8)
"""The etcd that goes with it (the one in Kubernetes' own go.mod)."""

OLDEST_KUBERNETES = (1, 34)
OLDEST_ETCD = (3, 5)
"""Oldest that upstream maintains beside `KUBERNETES`; found binaries below are not used."""

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
"""What a complete set consists of."""

Version = tuple[int, int, int]


class Source(StrEnum):
    """Where a set comes from, in the order in which they are tried."""

    ASSETS = "assets"  # $KUBEBUILDER_ASSETS
    PATH = "path"
    CACHE = "cache"
    DOWNLOAD = "download"
    BUILD = "build"


@dataclass(frozen=True)
class Binaries:
    """A complete, usable set."""

    source: Source
    version: str
    """Of Kubernetes, as `1.36.2`."""
    paths: Mapping[str, Path]

    def __getitem__(self, component: str) -> Path:
        return self.paths[component]


def parse_version(text: str) -> Version | None:
    """The first version in what a program printed: `Kubernetes v1.36.2`, `etcd Version: 3.6.8`; None if there is none."""
    found = re.search(r"\bv?(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def show(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def version_command(component: str, path: Path) -> list[str]:
    """What makes a component print its version."""
    return [str(path), "version", "--client"] if component == "kubectl" else [str(path), "--version"]


def missing(paths: Mapping[str, Path]) -> list[str]:
    return [name for name in COMPONENTS if name not in paths]


def refusal(where: str, paths: Mapping[str, Path], versions: Mapping[str, Version | None]) -> str | None:
    """Why a set found in `where` cannot be used, as a sentence; None if it can."""
    if absent := missing(paths):
        return f"{where} lacks {', '.join(absent)}"
    for name in COMPONENTS:
        version = versions.get(name)
        if version is None:
            return f"{where}: {paths[name]} does not tell its version"
        oldest = OLDEST_ETCD if name == "etcd" else OLDEST_KUBERNETES
        if version[:2] < oldest:
            return f"{where}: {name} is {show(version)}, needed is {show(oldest)} or newer"
    minors = {name: version[:2] for name, version in versions.items() if version and name != "etcd"}
    if len(set(minors.values())) > 1:
        seen = ", ".join(f"{name} {show(minor)}" for name, minor in sorted(minors.items()))
        return f"{where} mixes minor versions ({seen})"
    return None
