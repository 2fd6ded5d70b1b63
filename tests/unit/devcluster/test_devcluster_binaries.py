"""Which Kubernetes binaries are taken, and why the others are not."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor_devcluster.binaries import COMPONENTS, Source, build, download, find_binaries, golang
from sartor_devcluster.binaries.find import cache_folder, in_folder
from sartor_devcluster.binaries.offer import missing, parse_version, refusal
from sartor_devcluster.binaries.store import making, stored
from sartor_devcluster.errors import BinariesError

GOOD = dict.fromkeys(COMPONENTS, (1, 36, 2)) | {"etcd": (3, 6, 8)}
PATHS = {name: Path("/opt/kubernetes", name) for name in COMPONENTS}
SAYS = {"etcd": "etcd Version: {}\\nGit SHA: 1e2f", "kubectl": "Client Version: v{}\\nKustomize Version: v5.8.1"}


def install(folder: Path, version: str = "1.36.2", etcd: str = "3.6.8", leave_out: tuple[str, ...] = ()) -> Path:
    """Programs that do nothing but tell a version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPONENTS:
        if name not in leave_out:
            words = SAYS.get(name, "Kubernetes v{}").format(etcd if name == "etcd" else version)
            (folder / name).write_text(f"#!/bin/sh\nprintf '{words}\\n'\n")
            (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Kubernetes v1.36.2", (1, 36, 2)),
        ("etcd Version: 3.6.8\nGit SHA: Not provided\nGo Version: go1.26.8", (3, 6, 8)),
        ("Client Version: v1.35.10\nKustomize Version: v5.7.1", (1, 35, 10)),
        ("Kubernetes v1.36.0-rc.1+k3s1", (1, 36, 0)),
        ("no version at all", None),
        ("", None),
    ],
)
def test_versions_are_read_from_what_programs_print(printed: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(printed) == version


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8\n", (1, 26, 8)), ("go1.27rc1", (1, 27, 0)), ("go1.26", (1, 26, 0)), ("devel", None)],
)
def test_go_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert golang.go_version(text) == version


def test_a_complete_set_of_one_minor_version_is_accepted() -> None:
    assert refusal("PATH", PATHS, GOOD) is None
    assert refusal("PATH", PATHS, GOOD | {"kubectl": (1, 36, 0)}) is None, "patch versions may differ"


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        ({"kube-scheduler": (1, 35, 0)}, "PATH mixes minor versions (kube-apiserver 1.36, kube-controller-manager 1.36, "
         "kube-scheduler 1.35, kubectl 1.36)"),
        ({"kubectl": (1, 20, 2)}, "PATH: kubectl is 1.20.2, needed is 1.34 or newer"),
        ({"etcd": (3, 4, 9)}, "PATH: etcd is 3.4.9, needed is 3.5 or newer"),
        ({"kube-apiserver": None}, "PATH: /opt/kubernetes/kube-apiserver does not tell its version"),
    ],
)  # fmt: skip
def test_a_refused_set_is_refused_with_a_sentence(
    versions: dict[str, tuple[int, int, int] | None], sentence: str
) -> None:
    assert refusal("PATH", PATHS, {**GOOD, **versions}) == sentence


def test_an_incomplete_set_names_what_it_lacks() -> None:
    some = {name: PATHS[name] for name in ("etcd", "kube-apiserver", "kubectl")}
    assert missing(some) == ["kube-controller-manager", "kube-scheduler"]
    assert refusal("here", some, {}) == "here lacks kube-controller-manager, kube-scheduler"


def test_assets_win_over_path_and_cache(tmp_path: Path) -> None:
    assets, path = install(tmp_path / "assets"), install(tmp_path / "bin", "1.35.1")
    install(build.folder(tmp_path / "cache"))
    environment = {"KUBEBUILDER_ASSETS": str(assets), "PATH": str(path), "SARTOR_CACHE": str(tmp_path / "cache")}
    said: list[str] = []
    found = find_binaries(environment=environment, say=said.append)
    assert (found.source, found.version, found["etcd"]) == (Source.ASSETS, "1.36.2", assets / "etcd")
    assert said == [f"Kubernetes 1.36.2 from $KUBEBUILDER_ASSETS ({assets})"]


def test_what_is_incomplete_or_too_old_is_passed_over_with_its_reason(tmp_path: Path) -> None:
    """The assets of controller tests have no scheduler, and a vendor's PATH has an old kubectl."""
    assets = install(tmp_path / "assets", leave_out=("kube-controller-manager", "kube-scheduler"))
    path = install(tmp_path / "bin", "1.20.0")
    cached = install(build.folder(tmp_path / "cache"))
    environment = {"KUBEBUILDER_ASSETS": str(assets), "PATH": str(path), "SARTOR_CACHE": str(tmp_path / "cache")}
    said: list[str] = []
    found = find_binaries(environment=environment, say=said.append)
    assert (found.source, found["kube-scheduler"]) == (Source.CACHE, cached / "kube-scheduler")
    assert said == [
        f"not from assets: $KUBEBUILDER_ASSETS ({assets}) lacks kube-controller-manager, kube-scheduler",
        "not from path: PATH: kube-apiserver is 1.20.0, needed is 1.34 or newer",
        f"Kubernetes 1.36.2 from cache ({cached})",
    ]


def test_an_official_release_in_the_cache_wins_over_our_build(tmp_path: Path) -> None:
    install(build.folder(tmp_path))
    official = install(download.folder(tmp_path))
    found = find_binaries(environment={"PATH": "", "SARTOR_CACHE": str(tmp_path)})
    assert found["etcd"].parent == official


def test_a_lone_kubectl_on_path_is_not_worth_a_word(tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "1.20.0", leave_out=tuple(c for c in COMPONENTS if c != "kubectl"))
    install(build.folder(tmp_path / "cache"))
    said: list[str] = []
    find_binaries(environment={"PATH": str(path), "SARTOR_CACHE": str(tmp_path / "cache")}, say=said.append)
    assert len(said) == 1


def test_nothing_anywhere_says_what_to_do(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "SARTOR_CACHE": str(tmp_path / "cache")}
    sources = (Source.ASSETS, Source.PATH, Source.CACHE, Source.BUILD)
    with pytest.raises(BinariesError, match=r"Go is not installed \(needed: 1.26 or newer\); install Go 1.26 or set"):
        find_binaries(environment=environment, sources=sources)
    assert not any((tmp_path / "cache").glob("*/")), "nothing half-made is left"


def test_a_go_that_is_too_old_is_named(tmp_path: Path) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho go1.22.1\n")
    (tmp_path / "go").chmod(0o755)
    environment = {"PATH": str(tmp_path), "SARTOR_CACHE": str(tmp_path / "cache")}
    with pytest.raises(BinariesError, match=r"go is go1.22.1, needed is Go 1.26 or newer"):
        find_binaries(environment=environment, sources=[Source.BUILD])


def test_a_build_that_fails_says_what_the_compiler_said(tmp_path: Path) -> None:
    (tmp_path / "go").write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 && exit\necho "go: no such module"; exit 1\n'
    )
    (tmp_path / "go").chmod(0o755)
    said: list[str] = []
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "SARTOR_CACHE": str(tmp_path / "cache")}
    with pytest.raises(BinariesError, match="go list failed: go: no such module; see that the Go module proxy can be"):
        find_binaries(environment=environment, sources=[Source.BUILD], say=said.append)
    assert "about 4 minutes on 2 free cores, 0.9 GB of modules, 3.2 GB of build cache" in said[0]
    assert not any((tmp_path / "cache").glob("*/"))


def test_a_build_makes_one_program_with_many_names(tmp_path: Path) -> None:
    (tmp_path / "go").write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 && exit\n[ "$1" = list ] && exit\n'
        'while [ "$1" != -o ]; do shift; done\necho "$CGO_ENABLED $GOFLAGS $GOWORK" > "$2"\n'
    )
    (tmp_path / "go").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "SARTOR_CACHE": str(tmp_path / "cache")}
    found = find_binaries(environment=environment, sources=[Source.CACHE, Source.BUILD])
    assert found.source is Source.BUILD
    assert {found[name].resolve() for name in COMPONENTS} == {build.folder(tmp_path / "cache") / "kubernetes"}
    assert found["etcd"].read_text() == "0 -mod=readonly off\n"
    (tmp_path / "go").unlink()
    assert find_binaries(environment=environment, sources=[Source.CACHE, Source.BUILD]).source is Source.CACHE


def test_the_cache_key_follows_the_sources(tmp_path: Path) -> None:
    for name in ("main.go", "go.mod", "go.sum"):
        (tmp_path / name).write_bytes((build.SOURCES / name).read_bytes())
    assert build.key(tmp_path) == build.key()
    with (tmp_path / "main.go").open("a") as file:
        file.write("// changed\n")
    assert build.key(tmp_path) != build.key()


def test_the_sources_name_the_versions_that_are_announced() -> None:
    modules = (build.SOURCES / "go.mod").read_text()
    assert "k8s.io/kubernetes v1.36.2" in modules
    assert "go.etcd.io/etcd/server/v3 v3.6.8" in modules


def test_the_cache_folder() -> None:
    assert cache_folder({"SARTOR_CACHE": "/somewhere"}) == Path("/somewhere")
    assert cache_folder({}) == Path.home() / ".cache" / "sartor"


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "thing"
    with pytest.raises(ZeroDivisionError), making(place, print) as scratch:
        assert scratch is not None
        (scratch / "half").touch()
        raise ZeroDivisionError
    assert not place.exists()
    (tmp_path / "cache" / "thing.partial" / "left").mkdir(parents=True)  # by a process that was killed
    with making(place, print) as scratch:
        assert scratch is not None
        assert list(scratch.iterdir()) == []
        (scratch / "whole").touch()
    assert [path.name for path in place.iterdir()] == ["whole"]
    with making(place, print) as scratch:
        assert scratch is None, "it is there already"


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    place, made, said = tmp_path / "thing", [], []
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with making(place, said.append) as scratch:
            entered.set()
            go_on.wait(10)
            made.append(scratch is not None)

    def late() -> None:
        with making(place, lambda words: (said.append(words), go_on.set())[0]) as scratch:
            made.append(scratch is not None)

    first, second = threading.Thread(target=slow), threading.Thread(target=late)
    first.start()
    assert entered.wait(10)
    second.start()
    first.join(10)
    second.join(10)
    assert made == [True, False]
    assert said == [f"another process is making {place}; waiting for it"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BinariesError, match=r"file/x: Not a directory; check the folder or set SARTOR_CACHE to another one"
    ):
        find_binaries(environment={"PATH": "", "SARTOR_CACHE": str(tmp_path / "file" / "x")}, sources=[Source.BUILD])


def test_executable_files_only(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "etcd").chmod(0o644)
    assert "etcd" not in in_folder(tmp_path)
    assert len(in_folder(tmp_path)) == len(COMPONENTS) - 1


class Release:
    """A release server on 127.0.0.1: what lies under `files` is served."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        release = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                release.asked.append(self.path)
                body = release.files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        base = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.origin = download.Origin(f"{base}/k", f"{base}/e")


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    made = Release()
    for name in (*COMPONENTS, "kube-proxy"):
        if name != "etcd":
            program = f"program {name}".encode()
            made.files[f"/k/v1.36.2/bin/linux/amd64/{name}"] = program
            made.files[f"/k/v1.36.2/bin/linux/amd64/{name}.sha256"] = hashlib.sha256(program).hexdigest().encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as files:
        member = tarfile.TarInfo("etcd-v3.6.8-linux-amd64/etcd")
        member.size = 4
        files.addfile(member, io.BytesIO(b"etcd"))
    name = "etcd-v3.6.8-linux-amd64.tar.gz"
    made.files[f"/e/v3.6.8/{name}"] = archive.getvalue()
    made.files["/e/v3.6.8/SHA256SUMS"] = f"{hashlib.sha256(archive.getvalue()).hexdigest()}  {name}\n".encode()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_release_is_downloaded_once(release: Release, tmp_path: Path) -> None:
    found = download.fetch(tmp_path, lambda _: None, release.origin)
    assert (found.source, found.version) == (Source.DOWNLOAD, "1.36.2")
    assert found["kube-scheduler"].read_bytes() == b"program kube-scheduler"
    assert found["etcd"].read_bytes() == b"etcd"
    assert found["etcd"].stat().st_mode & 0o777 == 0o755
    release.asked.clear()
    again = download.fetch(tmp_path, lambda _: None, release.origin)
    assert again.paths == found.paths
    assert release.asked == []
    assert download.cached(tmp_path) == stored(download.folder(tmp_path))


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/k/v1.36.2/bin/linux/amd64/kubectl", b"other", "has SHA-256 d9298a10d1b07358…, its publisher says "),
        ("/k/v1.36.2/bin/linux/amd64/kubectl.sha256", b"<html>", "holds no SHA-256; a proxy may have answered"),
        ("/e/v3.6.8/SHA256SUMS", b"", "the list of sums does not name etcd-v3.6.8-linux-amd64.tar.gz"),
        ("/e/v3.6.8/etcd-v3.6.8-linux-amd64.tar.gz", b"half", "etcd-v3.6.8-linux-amd64.tar.gz has SHA-256"),
    ],
)
def test_what_was_not_published_is_not_used(
    release: Release, tmp_path: Path, path: str, body: bytes, sentence: str
) -> None:
    release.files[path] = body
    with pytest.raises(BinariesError, match=sentence):
        download.fetch(tmp_path, lambda _: None, release.origin)
    assert download.cached(tmp_path) is None
    assert not any(tmp_path.glob("*/"))


def test_a_missing_release_is_named(release: Release, tmp_path: Path) -> None:
    release.files.clear()
    with pytest.raises(BinariesError, match=r"cannot download http://127.0.0.1:\d+/k/v1.36.2/\S+sha256: Not Found"):
        download.fetch(tmp_path, lambda _: None, release.origin)


def test_without_the_network_the_next_source_is_tried(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = release.server.server_address[1]
    monkeypatch.setattr(download, "OFFICIAL", download.Origin(f"http://127.0.0.1:{port}/none", "unused"))
    environment = {"PATH": "", "SARTOR_CACHE": str(tmp_path)}
    with pytest.raises(BinariesError, match=r"cannot download .*; cannot build: Go is not installed"):
        find_binaries(environment=environment)
