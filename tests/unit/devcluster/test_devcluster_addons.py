"""kube-proxy, nft and CoreDNS: where they are found, and why one is not."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor_devcluster.binaries import Binaries, Source, build, coredns, find_addons
from sartor_devcluster.binaries.addons import find_nft, find_proxy
from sartor_devcluster.binaries.coredns import find_coredns
from sartor_devcluster.errors import BinariesError

KERNEL = "6.1.0-31-amd64"
LOCAL = (Source.ASSETS, Source.PATH, Source.CACHE)


def program(path: Path, says: str) -> Path:
    """A program that does nothing but say something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '{says}\\n'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with an nft and a CoreDNS; no other place has any."""
    monkeypatch.setattr("sartor_devcluster.binaries.addons.ADMINISTRATORS", ())
    program(tmp_path / "bin" / "nft", "nftables v1.0.6 (Lester Gooch #5)")
    program(tmp_path / "bin" / "coredns", "CoreDNS-1.12.4\\nlinux/amd64, go1.25.1, ")
    return tmp_path / "bin"


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin", "SARTOR_CACHE": str(tmp_path / "cache")}


def kubernetes(folder: Path, source: Source = Source.CACHE, version: str = "1.36.2") -> Binaries:
    return Binaries(source, version, {"kube-apiserver": folder / "kube-apiserver"})


def test_everything_that_is_there_is_found(bin: Path, tmp_path: Path) -> None:
    proxy = program(tmp_path / "k" / "kube-proxy", "made together, so not asked")
    said: list[str] = []
    found = find_addons(
        kubernetes(tmp_path / "k"), environment=environment(tmp_path), sources=LOCAL, say=said.append, kernel=KERNEL
    )
    assert found.absent == {}
    assert found.paths == {"nft": bin / "nft", "kube-proxy": proxy, "coredns": bin / "coredns"}
    assert said == [f"CoreDNS from path ({bin})"]


def test_each_is_missing_for_itself_and_with_its_reason(bin: Path, tmp_path: Path) -> None:
    (bin / "nft").unlink()
    (bin / "coredns").unlink()
    place = environment(tmp_path) | {"PATH": str(bin)}
    found = find_addons(kubernetes(tmp_path / "k"), environment=place, sources=LOCAL, kernel=KERNEL)
    assert found.paths == {}
    assert found.absent == {
        "kube-proxy": "nft is missing; install the package nftables",
        "coredns": "no CoreDNS: none of the allowed sources has any",
    }


def test_what_is_to_be_left_out_is_not_looked_for(bin: Path, tmp_path: Path) -> None:
    found = find_addons(
        kubernetes(tmp_path / "k"),
        without=("kube-proxy", "coredns"),
        environment=environment(tmp_path),
        sources=[Source.BUILD],
    )
    assert (found.paths, set(found.absent.values())) == ({}, {"left out on request"})


class TestNft:
    def test_it_lies_where_only_administrators_look(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sartor_devcluster.binaries.addons.ADMINISTRATORS", (str(tmp_path / "sbin"),))
        path = program(tmp_path / "sbin" / "nft", "nftables v1.1.0 (Commodore Bullmoose)")
        assert find_nft({"PATH": "/nowhere"}, KERNEL) == path

    @pytest.mark.parametrize(
        ("says", "kernel", "sentence"),
        [
            ("nftables v0.9.8 (E.D.S.)", KERNEL, r"nft is 0.9.8, kube-proxy needs 1.0.1 or newer"),
            ("who knows", KERNEL, r"nft is without a version, kube-proxy needs 1.0.1"),
            ("nftables v1.0.6", "5.10.0-9-amd64", r"this Linux is 5.10.0-9-amd64, kube-proxy needs 5.13 or newer"),
        ],
    )
    def test_one_that_kube_proxy_would_not_take(
        self, bin: Path, tmp_path: Path, says: str, kernel: str, sentence: str
    ) -> None:
        program(bin / "nft", says)
        with pytest.raises(BinariesError, match=sentence):
            find_nft(environment(tmp_path), kernel)

    def test_newer_kernels(self, bin: Path, tmp_path: Path) -> None:
        for kernel in ("5.13.0", "6.0-rc1", "5.15.167.4-microsoft-standard-WSL2", "7.1.2"):
            assert find_nft(environment(tmp_path), kernel) == bin / "nft"


class TestProxy:
    def test_a_set_from_elsewhere_may_have_one_of_its_version(self, tmp_path: Path) -> None:
        beside = program(tmp_path / "assets" / "kube-proxy", "Kubernetes v1.35.4")
        assets = kubernetes(tmp_path / "assets", Source.ASSETS, "1.35.2")
        assert find_proxy(assets, {"PATH": "", "SARTOR_CACHE": str(tmp_path)}) == beside

    def test_or_one_is_on_path_or_in_our_own_build(self, tmp_path: Path) -> None:
        """The assets of controller tests have none."""
        assets = kubernetes(tmp_path / "assets", Source.ASSETS)
        built = program(build.folder(tmp_path / "cache") / "kube-proxy", "Kubernetes v1.36.2")
        place = environment(tmp_path)
        assert find_proxy(assets, place) == built
        on_path = program(tmp_path / "bin" / "kube-proxy", "Kubernetes v1.36.0")
        assert find_proxy(assets, place) == on_path

    def test_one_of_another_version_is_not_taken(self, tmp_path: Path) -> None:
        program(tmp_path / "bin" / "kube-proxy", "Kubernetes v1.34.1")
        with pytest.raises(BinariesError, match=r"no kube-proxy 1.36 beside \S+/assets/kube-apiserver or on PATH"):
            find_proxy(kubernetes(tmp_path / "assets", Source.PATH), environment(tmp_path))


class TestCoreDns:
    def find(self, tmp_path: Path, *sources: Source, **more: str) -> coredns.Found:
        cache = tmp_path / "cache"
        return find_coredns(cache, environment(tmp_path) | more, lambda _: None, sources=sources or LOCAL)

    def test_assets_win_over_path_and_path_over_the_cache(self, bin: Path, tmp_path: Path) -> None:
        cached = program(coredns.built_folder(tmp_path / "cache") / "coredns", "")
        assets = program(tmp_path / "assets" / "coredns", "CoreDNS-1.14.2")
        given = {"KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
        assert self.find(tmp_path, **given) == coredns.Found(assets, Source.ASSETS)
        assets.unlink()
        assert self.find(tmp_path, **given) == coredns.Found(bin / "coredns", Source.PATH)
        (bin / "coredns").unlink()
        assert self.find(tmp_path, **given) == coredns.Found(cached, Source.CACHE)
        official = program(coredns.downloaded_folder(tmp_path / "cache") / "coredns", "")
        assert self.find(tmp_path, **given) == coredns.Found(official, Source.CACHE)

    @pytest.mark.parametrize(
        ("says", "sentence"),
        [("CoreDNS-1.9.3", "coredns is 1.9.3, needed is 1.11 or newer"), ("?", "coredns does not tell its version")],
    )
    def test_one_that_is_too_old_is_passed_over_with_its_reason(
        self, bin: Path, tmp_path: Path, says: str, sentence: str
    ) -> None:
        program(bin / "coredns", says)
        with pytest.raises(BinariesError, match=sentence):
            self.find(tmp_path, Source.PATH)
        cached = program(coredns.built_folder(tmp_path / "cache") / "coredns", "")
        assert self.find(tmp_path).path == cached

    def test_it_is_built_once_and_says_before_what_that_costs(self, tmp_path: Path) -> None:
        go = tmp_path / "bin" / "go"
        go.parent.mkdir()
        go.write_text(
            '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 && exit\n[ "$1" = list ] && exit\n'
            'while [ "$1" != -o ]; do shift; done\necho "$CGO_ENABLED $GOFLAGS $GOWORK $PWD" > "$2"\n'
        )
        go.chmod(0o755)
        said: list[str] = []
        found = find_coredns(tmp_path / "cache", environment(tmp_path), said.append, sources=[Source.BUILD])
        assert found.path == coredns.built_folder(tmp_path / "cache") / "coredns"
        assert found.path.read_text() == f"0 -mod=readonly off {coredns.SOURCES}\n"
        assert said[0] == (f"building CoreDNS 1.15.0 with Go into {found.path.parent} ({coredns.COST})")
        assert "minute" in coredns.COST
        go.unlink()
        assert self.find(tmp_path, Source.CACHE).path == found.path

    def test_nothing_anywhere_names_every_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(coredns, "OFFICIAL", "http://127.0.0.1:9")
        with pytest.raises(
            BinariesError,
            match=r"no CoreDNS: cannot download http://127.0.0.1:9/v\S+sha256: .*; cannot build: Go is not",
        ):
            find_coredns(tmp_path, {"PATH": str(tmp_path)}, lambda _: None)
        assert not any(tmp_path.glob("*/")), "nothing half-made is left"

    def test_the_sources_name_the_version_that_is_announced(self) -> None:
        modules = (coredns.SOURCES / "go.mod").read_text()
        assert "github.com/coredns/coredns v" + ".".join(map(str, coredns.COREDNS)) in modules
        kubernetes = (build.SOURCES / "go.mod").read_text()
        version = next(
            line.split()[1] for line in kubernetes.splitlines() if line.strip().startswith("k8s.io/client-go ")
        )
        assert f"k8s.io/client-go {version}" in modules, "the same modules, so that Go compiles them once"


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A release server on 127.0.0.1: path to content."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("coredns")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"program"))
    version = ".".join(map(str, coredns.COREDNS))
    name = f"/v{version}/coredns_{version}_linux_amd64.tgz"
    files = {name: archive.getvalue()}
    files[f"{name}.sha256"] = f"{hashlib.sha256(archive.getvalue()).hexdigest()}  {name}\n".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(coredns, "OFFICIAL", f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_official_coredns_is_downloaded_once(release: dict[str, bytes], tmp_path: Path) -> None:
    for source in (Source.DOWNLOAD, Source.CACHE):
        found = find_coredns(tmp_path, {"PATH": ""}, lambda _: None, sources=[source])
        assert found.path.read_bytes() == b"program"
        assert found.path.stat().st_mode & 0o777 == 0o755
        release.clear()


def test_an_archive_that_was_not_published_is_not_used(release: dict[str, bytes], tmp_path: Path) -> None:
    name = next(path for path in release if path.endswith(".tgz"))
    release[name] += b"more"
    with pytest.raises(BinariesError, match=r"coredns_\S+ has SHA-256 \S+, its publisher says"):
        find_coredns(tmp_path, {"PATH": ""}, lambda _: None, sources=[Source.DOWNLOAD])
    assert not any(tmp_path.glob("*/"))
