"""The volume and the process: killed at any moment, full, shared, or asked by clients that stall."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from repository_world import NAMESPACE, RUN, World, environment, serving

from sartor_repository.backend import Patience
from sartor_repository.policy import LIMITS, Vault
from sartor_repository.server import Certificate
from sartor_repository.store import Store, StoreError

STACK = {"stack/__main__.py": "print('hello')\n"}


# --- the volume -------------------------------------------------------------------------------------------------------


def test_a_run_is_made_whole_and_twice_is_once(tmp_path: Path) -> None:
    with Store(tmp_path / "volume") as store:
        assert not store.exists("a", "r")
        store.create("a", "r")
        marker = store.repository("a", "r", Vault.OPEN) / "marker"
        marker.touch()
        store.create("a", "r")
        assert marker.exists() and store.repository("a", "r", Vault.SEALED).is_dir()
        assert [p.name for p in (store.root / "a").iterdir()] == ["r"]


def test_one_service_per_volume(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(StoreError, match="in use by another git service"):
        Store(tmp_path, wait_seconds=0.0)
    Store(tmp_path, wait_seconds=0.0).close()


def test_a_git_process_of_a_service_that_was_killed_holds_the_volume(tmp_path: Path) -> None:
    store = Store(tmp_path)
    orphan = subprocess.Popen(["sleep", "60.5"], pass_fds=(store.lock,))
    try:
        store.close()
        with pytest.raises(StoreError, match="in use"):
            Store(tmp_path, wait_seconds=0.0)
        threading.Timer(0.3, orphan.kill).start()
        Store(tmp_path, wait_seconds=10.0).close()
    finally:
        orphan.kill()
        orphan.wait()


def test_what_killed_processes_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create("a", "r")
        repository = store.repository("a", "r", Vault.OPEN)
    left = [
        repository / "HEAD.lock",
        repository / "refs/heads/main.lock",
        repository / "objects/tmp_objdir-incoming-x/pack/p",
        repository / "objects/pack/tmp_pack_x",
        tmp_path / "a/.new-x/open.git/HEAD",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = {p for p in repository.rglob("*") if "lock" not in p.name and "tmp_" not in str(p)}
    with Store(tmp_path):
        assert not [path for path in left if path.exists()]
        assert set(repository.rglob("*")) == before
        assert [p.name for p in (tmp_path / "a").iterdir()] == ["r"]


def test_a_volume_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="mount a volume there"):
        Store(tmp_path / "file")


def test_the_environment_of_git_has_nothing_of_the_service_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_TOKEN", "secret")
    with Store(tmp_path) as store:
        values = store.git_environment(next(iter(LIMITS.values())))
    assert "secret" not in values.values() and values["GIT_CONFIG_GLOBAL"] == "/dev/null"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small volume")
def test_a_disk_that_runs_full_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(volume)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no mounts here: {mounted.stderr.decode().strip()}")
    try:
        from sartor_repository.service import Capacity

        # No reserve, as if others filled the volume after the check.
        plenty = Capacity(reserve_bytes=-(1 << 40))
        with serving(tmp_path, capacity=plenty) as world:
            tree = world.work("tree")
            first = world.commit(tree, dict(STACK))
            assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0
            world.commit(tree, {"stack/noise.bin": os.urandom(6 << 20)})
            done = world.push("implementer", tree, "HEAD:refs/heads/candidate/001")
            assert done.returncode != 0 and "No space left on device" in done.stderr, done.stderr
            assert world.ok("operator", "ls-remote", world.address(), "refs/heads/candidate/001").startswith(first)
            repository = world.root / NAMESPACE / RUN / "open.git"
            assert world.git(None, "fsck", "--full", at=repository).returncode == 0
            world.ok(None, "reset", "--quiet", "--hard", first, at=tree)
            world.commit(tree, {"stack/small.py": "x"})
            assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0
    finally:
        subprocess.run(["umount", str(volume)], check=True)


# --- clients that stall -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(world: World) -> Iterator[socket.socket]:
    host, port = world.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes within the socket's time limit, whatever it says before."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_header_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, patience=Patience(header=3.0)) as world, connected(world) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        assert ended(connection) and time.monotonic() - started < 15
        assert world.service is not None
        assert 'sartor_repository_cut_total{reason="header"} 1.0' in world.service.metrics.render().decode()
        world.ok("operator", "ls-remote", world.address())


def test_connections_beyond_the_limit_are_closed(tmp_path: Path) -> None:
    with (
        serving(tmp_path, most_connections=1, patience=Patience(header=5.0)) as world,
        connected(world) as first,
        connected(world) as second,
    ):
        assert ended(second)
        first.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(100).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come_is_not_waited_for_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, patience=Patience(idle=0.3, grace=2.0)) as world, connected(world) as connection:
        head = (
            f"POST /{NAMESPACE}/{RUN}/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer implementer\r\n"
            "Content-Type: application/x-git-receive-pack-request\r\nContent-Length: 100000\r\n\r\n00"
        )
        connection.sendall(head.encode())
        assert ended(connection)
        text = world.service.metrics.render().decode() if world.service else ""
        assert 'sartor_repository_cut_total{reason="idle"} 1.0' in text
        assert "sartor_repository_in_flight 0.0" in text
        world.ok("operator", "ls-remote", world.address())


def test_a_client_that_is_killed_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, patience=Patience(grace=2.0)) as world:
        tree = world.work("tree")
        world.commit(tree, STACK | {"stack/noise.bin": "x"})
        world.ok("operator", "ls-remote", world.address())
        with connected(world) as connection:
            head = (
                f"POST /{NAMESPACE}/{RUN}/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer implementer\r\n"
                "Content-Type: application/x-git-receive-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            connection.sendall(head.encode() + b"4\r\n00a0\r\n")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and world.service is not None:
            if 'cut_total{reason="gone"} 1.0' in world.service.metrics.render().decode():
                break
            time.sleep(0.05)
        objects = world.root / NAMESPACE / RUN / "open.git/objects"
        assert not [p for p in objects.rglob("*") if p.is_file()]
        assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0


# --- the process --------------------------------------------------------------------------------------------------------

SERVICE = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from repository_world import serving
with serving(Path({folder!r})) as world:
    print(world.url, flush=True)
    threading.Event().wait()
"""


def test_killed_at_any_moment_of_a_push_the_branch_is_at_the_old_or_the_new_commit(tmp_path: Path) -> None:
    tree: Path | None = None
    commits: list[str] = []
    for number, moment in enumerate((0.05, 0.15, 0.25, 0.4)):
        program = SERVICE.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            world = World(tmp_path / "volume", tmp_path, url=process.stdout.readline().strip())
            if tree is None:
                tree = world.work("tree")
            world.ok(None, "remote", "set-url", "origin", world.address(), at=tree)
            commits.append(world.commit(tree, {"stack/__main__.py": os.urandom(1 << 20)}))
            push = subprocess.Popen(
                ["git", "push", "--quiet", "origin", "HEAD:refs/heads/candidate/001"],
                cwd=tree,
                env=environment("implementer"),
                stderr=subprocess.DEVNULL,
            )
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            push.wait(30)
        finally:
            process.kill()
            process.wait()
        with serving(tmp_path) as world:
            tip = world.ok("operator", "ls-remote", world.address(), "refs/heads/candidate/001").partition("\t")[0]
            assert tip in ("", *commits[: number + 1])
            repository = world.root / NAMESPACE / RUN / "open.git"
            assert world.git(None, "fsck", "--full", at=repository).returncode == 0
            world.ok(None, "remote", "set-url", "origin", world.address(), at=tree)
            assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tls-certificate", "x"], "given together"),
        (["--kubeconfig", "/nonexistent/kubeconfig"], "pass --kubeconfig FILE"),
        (["--tls-certificate", "/nonexistent/a", "--tls-key", "/nonexistent/b"], "No such file"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "sartor_repository", "serve", "--root", str(tmp_path), "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


def test_a_renewed_certificate_is_taken_and_a_half_written_one_is_not(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, "first")
    certificate = Certificate(*files)
    assert not certificate.renew()
    make_certificate(tmp_path, "second")
    os.utime(files[0], (2e9, 2e9))
    assert certificate.renew() and not certificate.renew()
    files[0].write_text("half")
    os.utime(files[0], (2.1e9, 2.1e9))
    assert not certificate.renew()
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_git_speaks_tls_with_it(tmp_path: Path) -> None:
    certificate = Certificate(*make_certificate(tmp_path, "127.0.0.1"))
    with serving(tmp_path, tls=certificate.context) as world:
        trusting = ("-c", f"http.sslCAInfo={tmp_path / 'tls.crt'}")
        assert world.url.startswith("https://")
        world.ok("operator", *trusting, "ls-remote", world.address())
        assert world.git("operator", "ls-remote", world.address()).returncode != 0, "an unknown authority is refused"
