"""What a cluster has beside its control plane where the machine allows: the service proxy, the DNS server, and on request a
Gateway and Prometheus.

A cluster comes up without what is missing; each absence has its reason, a sentence that says what to do.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sartor_devcluster.binaries import build
from sartor_devcluster.binaries.contour import find_contour
from sartor_devcluster.binaries.coredns import find_coredns
from sartor_devcluster.binaries.find import cache_folder, version_of
from sartor_devcluster.binaries.gateway import find_envoy, find_prometheus
from sartor_devcluster.binaries.offer import Binaries, Source, parse_version, show
from sartor_devcluster.components import CONTOUR, COREDNS, ENVOY, KUBE_PROXY, PROMETHEUS
from sartor_devcluster.errors import BinariesError

NFT = "nft"
ON_REQUEST = "left out on request"

OLDEST_NFT = (1, 0, 1)
OLDEST_LINUX = (5, 13)
"""What kube-proxy itself asks for in its nftables mode (pkg/proxy/nftables/supported.go)."""

ADMINISTRATORS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where `nft` lies; not on the PATH of an ordinary user of every distribution."""

NFT_SECONDS = 10.0


@dataclass(frozen=True)
class Addons:
    """`paths`: programs by name (`nft` too, which kube-proxy runs); `absent`: the reason of each that is not there."""

    paths: Mapping[str, Path] = field(default_factory=dict[str, Path])
    absent: Mapping[str, str] = field(default_factory=dict[str, str])


def find_addons(
    kubernetes: Binaries,
    *,
    without: Collection[str] = (),
    gateway: bool = False,
    environment: Mapping[str, str] = os.environ,
    sources: Iterable[Source] = tuple(Source),
    say: Callable[[str], None] = lambda _: None,
    kernel: str | None = None,
) -> Addons:
    """Everything that can be had for this set of binaries but what is to be left out. CoreDNS may be downloaded or built.

    With `gateway` those of the Gateway, too; Contour may be built. `kernel` is the release of Linux (default: this
    machine's).
    """
    paths: dict[str, Path] = {}
    absent = dict.fromkeys(without, ON_REQUEST)
    if KUBE_PROXY not in absent:
        try:
            paths[NFT] = find_nft(environment, kernel or os.uname().release)
            paths[KUBE_PROXY] = find_proxy(kubernetes, environment)
        except BinariesError as error:
            absent[KUBE_PROXY] = str(error)
    if COREDNS not in absent:
        try:
            found = find_coredns(cache_folder(environment), environment, say, sources=sources)
            paths[COREDNS] = found.path
            say(f"CoreDNS from {found.source} ({found.path.parent})")
        except BinariesError as error:
            absent[COREDNS] = str(error)
    if gateway:
        _find_gateway(paths, absent, environment, sources, say)
    return Addons(paths, absent)


def _find_gateway(
    paths: dict[str, Path],
    absent: dict[str, str],
    environment: Mapping[str, str],
    sources: Iterable[Source],
    say: Callable[[str], None],
) -> None:
    """Contour and Envoy both or neither: without the other one each would only wait."""
    try:
        if PROMETHEUS not in absent:
            paths[PROMETHEUS] = find_prometheus(environment)
            say(f"Prometheus from {paths[PROMETHEUS]}")
    except BinariesError as error:
        absent[PROMETHEUS] = str(error)
    try:
        for name in (CONTOUR, ENVOY):
            if name in absent:
                raise BinariesError(f"{name} is {absent[name]}")
        envoy = find_envoy(environment)  # before Contour, which may have to be built
        found = find_contour(cache_folder(environment), environment, say, sources=sources)
    except BinariesError as error:
        absent.update(dict.fromkeys((CONTOUR, ENVOY), str(error)))
        return
    paths[CONTOUR], paths[ENVOY] = found.path, envoy
    say(f"Contour from {found.source} ({found.path.parent}), Envoy from {envoy}")


def find_nft(environment: Mapping[str, str], kernel: str) -> Path:
    """The `nft` that kube-proxy will run. Raises `BinariesError` where there is none or it is too old for kube-proxy."""
    release = re.match(r"(\d+)\.(\d+)", kernel)
    if release is not None and (int(release[1]), int(release[2])) < OLDEST_LINUX:
        raise BinariesError(f"this Linux is {kernel}, kube-proxy needs {show(OLDEST_LINUX)} or newer")
    search = os.pathsep.join([environment.get("PATH", ""), *ADMINISTRATORS])
    path = shutil.which(NFT, path=search)
    if path is None:
        raise BinariesError("nft is missing; install the package nftables")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=NFT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinariesError(f"{path} does not tell its version: {error}") from error
    version = parse_version(done.stdout)
    if version is None or version < OLDEST_NFT:
        seen = show(version) if version else "without a version"
        raise BinariesError(f"{path} is {seen}, kube-proxy needs {show(OLDEST_NFT)} or newer")
    return Path(path)


def find_proxy(kubernetes: Binaries, environment: Mapping[str, str]) -> Path:
    """kube-proxy of the same minor version: beside the API server, on PATH, or in our own build if that is there.

    Raises `BinariesError` where there is none.
    """
    minor = (parse_version(kubernetes.version) or (0, 0, 0))[:2]
    beside = kubernetes["kube-apiserver"].parent / KUBE_PROXY
    if kubernetes.source in (Source.CACHE, Source.DOWNLOAD, Source.BUILD) and beside.is_file():
        return beside  # made together
    on_path = shutil.which(KUBE_PROXY, path=environment.get("PATH", ""))
    built = build.folder(cache_folder(environment)) / KUBE_PROXY
    for path in (beside, *([Path(on_path)] if on_path else []), built):
        if os.access(path, os.X_OK) and (version := version_of(KUBE_PROXY, path)) and version[:2] == minor:
            return path
    raise BinariesError(
        f"no kube-proxy {show(minor)} beside {kubernetes['kube-apiserver']} or on PATH; put one there, or unset "
        "KUBEBUILDER_ASSETS so that a set with it is taken"
    )
