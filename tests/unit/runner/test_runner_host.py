"""The machine's side with real processes in real sandboxes."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sartor_runner.config import Config, EnvironmentTable, load
from sartor_runner.core.backoff import Backoff
from sartor_runner.core.observed import Run
from sartor_runner.core.payload import File
from sartor_runner.core.pod import Container, ExecAction, HttpGet, TcpSocket, parse
from sartor_runner.errors import ConfigurationError, ContainerError, RunnerError, VolumeError
from sartor_runner.host import assemble, containers, cri_log, memory, volumes
from sartor_runner.host.addresses import Addresses
from sartor_runner.host.bubblewrap import Bubblewrap
from sartor_runner.host.containers import LogLimits
from sartor_runner.host.cri_log import LogOptions
from sartor_runner.host.directories import PodDirectory, remove_tree
from sartor_runner.host.images import Images, python_folders
from sartor_runner.host.probing import Prober
from sartor_runner.host.sandbox import Bind, Identity, Sandbox
from sartor_runner.host.seatbelt import Seatbelt
from sartor_runner.node.machine import is_real_root

from .simulation import pod

BWRAP = shutil.which("bwrap")
needs_bubblewrap = pytest.mark.skipif(BWRAP is None, reason="bubblewrap is not installed")
POD_USER = 217001


class Host:
    """Starts containers of one pod; ends all of them."""

    def __init__(self, root: Path, user: int | None) -> None:
        self.directory = PodDirectory(root, "uid-1")
        self.user = user
        self._images = Images({"python": EnvironmentTable(images=("test",), python=sys.prefix)})
        self._attempts = 0

    async def start(self, command: list[str], limits: LogLimits = LogLimits(1 << 20, 3), **container: Any) -> Path:
        found = parse(pod(containers=[{"command": command, **container}], hostname="box"))
        main, environment = found.containers[0], self._images.find("test")
        assert environment is not None and BWRAP is not None
        user = assemble.identity(main, environment, self.user)
        folder = containers.create(
            self.directory, main, self._attempts, environment.identity, Backoff(10, 5), user, "/"
        )
        self._attempts += 1
        place = assemble.Place(self.directory, self.user, "10.0.0.1", {})
        variables = {**environment.variables, "SECRET": "s3cret"}
        sandbox = assemble.sandbox(found, main, environment, place, folder, variables)
        await containers.start(folder, Bubblewrap(BWRAP).launch(sandbox), user, limits)
        return folder

    async def end(self, folder: Path) -> Run:
        over = asyncio.Event()
        containers.watch(folder, over.set)
        async with asyncio.timeout(20):
            await over.wait()
        return self.load(folder)

    async def says(self, folder: Path, line: bytes) -> None:
        """Returns once this line is in the log."""
        async with asyncio.timeout(20):
            while line not in b"".join(cri_log.lines(folder / "log", LogOptions())):
                await asyncio.sleep(0.02)

    def load(self, folder: Path) -> Run:
        run = containers.load(int(folder.name), folder)
        assert run is not None
        return run

    def close(self) -> None:
        for _, _, folder in self.directory.attempts():
            while containers.lives(folder):
                containers.kill(folder)


def play(root: Path, user: int | None, story: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
    host = Host(root, user)
    try:
        asyncio.run(story(host))
    finally:
        host.close()


@pytest.fixture(params=["other user", "own user"])
def user(request: pytest.FixtureRequest) -> int | None:
    """Sandboxes are built as an ordinary user of the pod's own where the runner is root, else as the runner's."""
    if request.param == "own user":
        return None
    if not is_real_root():
        pytest.skip("only root can become another user")
    return POD_USER


@needs_bubblewrap
def test_a_container_from_start_to_end(tmp_path: Path, user: int | None) -> None:
    async def story(host: Host) -> None:
        folder = await host.start(
            ["sh", "-c", "echo out; echo err >&2; echo -n bye > /dev/termination-log; sleep 2; exit 3"]
        )
        run = host.load(folder)
        assert run.running and run.backoff == Backoff(10, 5)
        run = await host.end(folder)
        assert (run.exit_code, run.reason, run.message) == (3, "", "bye")
        assert run.started_at is not None and run.finished_at is not None
        assert 1.9 < run.finished_at - run.started_at < 20
        assert b"".join(cri_log.lines(folder / "log", LogOptions(stream="stdout"))) == b"out\n"
        assert b"".join(cri_log.lines(folder / "log", LogOptions(stream="stderr"))) == b"err\n"

    play(tmp_path, user, story)


@needs_bubblewrap
def test_the_sandbox_hides_the_host(tmp_path: Path, user: int | None) -> None:
    (tmp_path / "secret").write_text("must not be seen")
    script = f"""
cat {tmp_path}/secret; ls {tmp_path}
echo "pid $$$$ host $(cat /proc/sys/kernel/hostname)"
grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -s '\\t' ' '
ls /proc/self/fd | wc -l
touch /usr/x 2>/dev/null || echo no-usr; test -w /proc/sys/kernel/core_pattern || echo no-sys
python3 -c 'import sys; print(sys.prefix)'
unshare -Ur true 2>/dev/null && echo nested
ls -d /sys/devices/system/cpu; ls -A /sys/firmware | wc -l; touch /sys/firmware/x 2>/dev/null || echo no-firmware
echo $SECRET $HOST_VARIABLE
"""

    async def story(host: Host) -> None:
        os.environ["HOST_VARIABLE"] = "must not be seen"
        try:
            folder = await host.start(["sh", "-c", script])
        finally:
            del os.environ["HOST_VARIABLE"]
        await host.end(folder)
        log = b"".join(cri_log.lines(folder / "log", LogOptions())).decode()
        assert "must not be seen" not in log
        assert "pid 1 host box" in log
        assert log.count(" 0000000000000000") == 2 and "NoNewPrivs: 1" in log
        assert "\n4\n" in log, "standard streams and the listing's own: no descriptor of the supervisor"
        assert "no-usr" in log and "no-sys" in log
        assert "/sys/devices/system/cpu\n0\nno-firmware\n" in log, "engines look for cores there; firmware is masked"
        assert sys.prefix in log
        assert "s3cret\n" in log

    play(tmp_path, user, story)


@needs_bubblewrap
def test_variables_are_on_no_command_line_and_not_on_disk(tmp_path: Path, user: int | None) -> None:
    async def story(host: Host) -> None:
        folder = await host.start(["sleep", "30"])
        pid = containers.pid(folder)
        assert pid is not None
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for process in (pid, parent):
            assert b"s3cret" not in Path(f"/proc/{process}/cmdline").read_bytes()
        files = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert files and not any(b"s3cret" in p.read_bytes() for p in files)

    play(tmp_path, user, story)


@needs_bubblewrap
@pytest.mark.parametrize(
    ("command", "words"), [(["no-such-program"], "no-such-program"), (["/etc/hostname/x"], "/etc/hostname/x")]
)
def test_what_cannot_be_started_says_so(tmp_path: Path, user: int | None, command: list[str], words: str) -> None:
    async def story(host: Host) -> None:
        run = host.load(await host.start(command))
        assert (run.exit_code, run.reason, run.started_at) == (128, "StartError", None)
        assert words in run.message

    play(tmp_path, user, story)


@needs_bubblewrap
def test_signals_and_kills(tmp_path: Path, user: int | None) -> None:
    async def story(host: Host) -> None:
        folder = await host.start(["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"])
        await host.says(folder, b"ready\n")
        containers.send(folder, "signal SIGTERM")
        await asyncio.sleep(0.2)
        assert host.load(folder).running, "process 1 ignores what it has no handler for"
        containers.send(folder, "signal SIGUSR1")
        assert (await host.end(folder)).exit_code == 9
        folder = await host.start(["sh", "-c", "setsid sleep 60 & exec sleep 60"])
        containers.kill(folder, "OOMKilled")
        run = await host.end(folder)
        assert (run.exit_code, run.reason) == (137, "OOMKilled")
        containers.send(folder, "kill")  # harmless afterwards

    play(tmp_path, user, story)


@needs_bubblewrap
def test_exec_sees_what_the_container_sees(tmp_path: Path, user: int | None) -> None:
    async def story(host: Host) -> None:
        folder = await host.start(
            ["sh", "-c", "echo here > /tmp/file; echo written; exec sleep 60"], securityContext={"runAsUser": 1234}
        )
        await host.says(folder, b"written\n")
        code, output = await containers.execute(
            folder, ("sh", "-c", "cat /tmp/file; id -u; echo $SECRET; ls /proc | head -1"), 30
        )
        assert (code, output) == (0, "here\n1234\ns3cret\n1")
        assert (await containers.execute(folder, ("sh", "-c", "exit 4"), 30))[0] == 4
        assert (await containers.execute(folder, ("no-such-program",), 30))[0] == 127
        code, output = await containers.execute(folder, ("sleep", "10"), 0.3)
        assert code is None and "timed out after 0.3 s" in output
        status = await containers.execute(
            folder, ("grep", "-cE", "^(CapEff|CapPrm|CapBnd):\\s0+$", "/proc/self/status"), 30
        )
        assert status == (0, "3")
        assert host.load(folder).running
        containers.kill(folder)
        await host.end(folder)
        assert (await containers.execute(folder, ("true",), 5))[0] == 125

    play(tmp_path, user, story)


@needs_bubblewrap
def test_logs_rotate_and_long_lines_come_back_whole(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        long = "x" * 40000
        script = f"print('{long}'); [print(n) for n in range(3000)]; print('no end', end='')"
        folder = await host.start(["python3", "-c", script], LogLimits(bytes=50000, files=4))
        await host.end(folder)
        assert len(cri_log.files(folder / "log")) == 4
        text = b"".join(cri_log.lines(folder / "log", LogOptions())).decode().split("\n")
        numbers = [int(line) for line in text if line.isdigit()]
        assert numbers == list(range(numbers[0], 3000))
        assert text[-2:] == ["no end", ""]
        folder = await host.start(["python3", "-c", f"print('{long}')"])
        await host.end(folder)
        assert b"".join(cri_log.lines(folder / "log", LogOptions())).decode() == long + "\n"
        assert b"".join(cri_log.lines(folder / "log", LogOptions(tail=1))).decode() == long + "\n"

    play(tmp_path, None, story)


@needs_bubblewrap
def test_the_memory_of_a_tree_is_seen(tmp_path: Path) -> None:
    async def story(host: Host) -> None:
        fill = "x = bytearray(60 << 20); x[::4096] = b'x' * len(x[::4096])"
        fork = f"import os, time; {fill}; os.fork(); print('filled', flush=True); time.sleep(60)"
        folder = await host.start(["python3", "-c", fork])
        for _ in range(100):
            await asyncio.sleep(0.1)
            if b"".join(cri_log.lines(folder / "log", LogOptions())).count(b"filled") == 2:
                break
        pid = containers.pid(folder)
        assert pid is not None
        assert 60 << 20 < memory.used_bytes(pid) < 90 << 20, "pages that parent and child share count once"
        assert memory.over(pid, 50 << 20) and not memory.over(pid, 100 << 20)

    play(tmp_path, None, story)


def alive(pid: int | None) -> bool:
    """A zombie that nobody reaped yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_bubblewrap
def test_a_lost_supervisor_takes_the_container_with_it(tmp_path: Path, user: int | None) -> None:
    async def story(host: Host) -> None:
        folder = await host.start(["sleep", "60"])
        pid = containers.pid(folder)
        found = subprocess.run(["pgrep", "-f", f"shim.py {folder}"], capture_output=True, text=True, check=True)
        (shim,) = found.stdout.split()
        os.kill(int(shim), 9)
        run = await host.end(folder)
        assert (run.exit_code, run.reason) == (137, "ContainerStatusUnknown")
        for _ in range(50):
            if not alive(pid):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the container outlived its supervisor")

    play(tmp_path, user, story)


@needs_bubblewrap
def test_the_probes_of_a_server(tmp_path: Path) -> None:
    server = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "  def do_GET(s):\n"
        "    code = {'/ok': 200, '/moved': 302, '/away': 302}.get(s.path, 500)\n"
        "    code = 200 if s.path == '/header' and s.headers['X-Test'] == 'yes' else code\n"
        "    s.send_response(code)\n"
        "    to = {'/moved': '/bad', '/away': 'http://example.invalid/'}.get(s.path)\n"
        "    if to: s.send_header('Location', to)\n"
        "    s.end_headers()\n"
        "s = h.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()\n"
    )

    async def story(host: Host) -> None:
        folder = await host.start(["python3", "-c", server])
        text = ""
        while not text:
            await asyncio.sleep(0.05)
            text = b"".join(cri_log.lines(folder / "log", LogOptions(stream="stdout"))).decode()
        port, prober = int(text), Prober()
        raw = pod(containers=[{"ports": [{"name": "web", "containerPort": port}]}])
        main: Container = parse(raw).containers[0]

        async def passes(handler: Any) -> tuple[bool, str]:
            return await prober.send(handler, main, folder, "127.0.0.1", 2)

        assert (await passes(HttpGet("web", "/ok")))[0]
        assert await passes(HttpGet(port, "/bad")) == (False, "HTTP probe failed with statuscode: 500")
        assert (await passes(HttpGet(port, "/header", headers=(("X-Test", "yes"),))))[0]
        assert not (await passes(HttpGet(port, "/moved")))[0], "a redirect on the same host is followed"
        assert (await passes(HttpGet(port, "/away")))[0], "one to another host is success"
        assert (await passes(TcpSocket("web")))[0]
        assert not (await passes(TcpSocket(1)))[0]
        assert "no port named 'other'" in (await passes(TcpSocket("other")))[1]
        assert (await passes(ExecAction(("true",))))[0] and not (await passes(ExecAction(("false",))))[0]
        await prober.close()

    play(tmp_path, None, story)


def log_of(path: Path, *entries: str) -> Path:
    lines = [f"2026-01-01T00:00:{n:02}.000000001Z {entry}\n" for n, entry in enumerate(entries)]
    path.write_text("".join(lines))
    return path


def test_logs_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    log_of(tmp_path / "log.1", "stdout F a", "stderr F b")
    log = log_of(tmp_path / "log", "stdout P par", "stdout F tial", "stdout F end")
    read = lambda **options: b"".join(cri_log.lines(log, LogOptions(**options))).decode()  # noqa: E731
    assert read() == "a\nb\npartial\nend\n"
    assert read(tail=2) == "partial\nend\n"
    assert read(stream="stderr") == "b\n"
    assert read(since=1767225601.5) == "end\n"
    assert read(tail=1, timestamps=True) == "2026-01-01T00:00:02.000000001Z end\n"


def test_a_followed_log_crosses_a_rotation(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", "stdout F one")
    over = False

    async def story() -> list[bytes]:
        nonlocal over
        seen: list[bytes] = []

        async def read() -> None:
            async for line in cri_log.follow(log, LogOptions(), lambda: over):
                seen.append(line)  # noqa: PERF401 - what was seen counts also if the rest never comes

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.15)
        log.rename(tmp_path / "log.1")
        log_of(log, "stdout F two")
        await asyncio.sleep(0.3)
        with log.open("a") as file:
            file.write("2026-01-01T00:00:09Z stdout F three\n")
        over = True
        await asyncio.wait_for(reading, 5)
        return seen

    assert asyncio.run(story()) == [b"one\n", b"two\n", b"three\n"]


def test_volumes_change_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    assert volumes.write_files(folder, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o400)}, None)
    assert (folder / "a").is_symlink() and (folder / "a").read_text() == "1"
    assert (folder / "d" / "b").stat().st_mode & 0o777 == 0o400
    first = (folder / "..data").readlink()
    assert not volumes.write_files(folder, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o400)}, None), "nothing to do"
    assert volumes.write_files(folder, {"a": File(b"3", 0o644)}, None)
    assert (folder / "a").read_text() == "3" and not (folder / "d").exists()
    assert (folder / "..data").readlink() != first and not (folder / first).exists()


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "..data", ""])
def test_no_file_of_a_volume_lies_outside_of_it(tmp_path: Path, path: str) -> None:
    with pytest.raises(VolumeError, match="is not a path inside the volume"):
        volumes.write_files(tmp_path / "v", {path: File(b"", 0o644)}, None)


def test_a_host_path_is_what_it_says_and_leads_nowhere_else(tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.mkdir()
    (listed / "out").symlink_to("/etc")
    (listed / "in").symlink_to("models")

    def path(name: str, kind: str = "") -> Path:
        volume = {"name": "v", "hostPath": {"path": str(listed / name), "type": kind}}
        return volumes.host_path(volume, lambda real: Path(real).is_relative_to(listed))

    assert path("models", "DirectoryOrCreate") == listed / "models"
    assert path("in", "Directory") == listed / "models"
    with pytest.raises(VolumeError, match="is a link to /etc, which the node's configuration does not list"):
        path("out", "Directory")
    with pytest.raises(VolumeError, match="is not there"):
        path("none")
    with pytest.raises(VolumeError, match="is no file"):
        path("models", "File")


def test_trees_are_removed_whatever_their_modes(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (tmp_path / "tree" / "link").symlink_to(tmp_path)
    inner.chmod(0)
    inner.parent.chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists() and tmp_path.exists()
    remove_tree(tmp_path / "tree")


def test_addresses_are_not_used_again_at_once() -> None:
    pool = Addresses("10.244.0.0/29", taken=["10.244.0.3"])
    first = [pool.take() for _ in range(3)]
    assert first == ["10.244.0.2", "10.244.0.4", "10.244.0.5"]
    pool.give_back("10.244.0.2")
    assert [pool.take(), pool.take()] == ["10.244.0.6", "10.244.0.2"]
    with pytest.raises(RunnerError, match=r"all 5 pod addresses of 10.244.0.0/29 are taken"):
        pool.take()


def test_a_range_that_is_not_this_machine_s_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"ip route add local 203.0.113.0/24 dev lo"):
        Addresses("203.0.113.0/24").check()
    Addresses("127.1.0.0/24").check()


def test_images_are_found_by_pattern(tmp_path: Path) -> None:
    tables = {
        "a": EnvironmentTable(images=("*/agents:1.*",), system=False),
        "b": EnvironmentTable(images=("*/agents:*", "plain"), system=False, path=("/x",), environment={"K": "v"}),
    }
    images = Images(tables)
    name = lambda image: found.name if (found := images.find(image)) else None  # noqa: E731
    assert (name("r.example/agents:1.2"), name("r.example/agents:2"), name("plain"), name("other")) == (
        "a",
        "b",
        "b",
        None,
    )
    assert "patterns that are there: */agents:*, */agents:1.*, plain" in images.missing("other")
    assert images.environments[1].variables == {"PATH": "/x", "K": "v"}
    again = Images({"b": tables["b"]}).environments[0]
    assert again.identity == images.environments[1].identity != images.environments[0].identity
    with pytest.raises(ConfigurationError, match="/no/such/place is not there"):
        Images({"c": EnvironmentTable(images=("c",), binds=("/no/such/place",))})


def test_every_hop_of_an_interpreter_is_shown(tmp_path: Path) -> None:
    for prefix in ("real", "middle", "venv"):
        (tmp_path / prefix / "bin").mkdir(parents=True)
    (tmp_path / "real/bin/python3.11").touch()
    (tmp_path / "middle/bin/python3").symlink_to("../../real/bin/python3.11")
    (tmp_path / "venv/bin/python3").symlink_to(tmp_path / "middle/bin/python3")
    assert python_folders(tmp_path / "venv") == [tmp_path / "venv", tmp_path / "middle", tmp_path / "real"]
    with pytest.raises(ConfigurationError, match="there is no bin/python3 in it"):
        python_folders(tmp_path)


def test_who_a_container_runs_as() -> None:
    environment = Images({"a": EnvironmentTable(images=("test",), user=1000, group=1001, system=False)}).environments[0]

    def who(**security: Any) -> Identity:
        return assemble.identity(parse(pod(containers=[{"securityContext": security}])).containers[0], environment, 7)

    assert who() == Identity(1000, 1001, 7)
    assert who(runAsUser=5, runAsGroup=6) == Identity(5, 6, 7)
    assert who(runAsNonRoot=True).user == 1000
    with pytest.raises(ContainerError, match="non-root"):
        who(runAsNonRoot=True, runAsUser=0)


def test_commands() -> None:
    table = EnvironmentTable(images=("test",), entrypoint=("python3",), command=("-m", "app"), system=False)
    environment = Images({"a": table}).environments[0]

    def words(**container: Any) -> tuple[str, ...]:
        return assemble.command(parse(pod(containers=[container])).containers[0], environment, {"A": "x"})

    assert words() == ("python3", "-m", "app")
    assert words(args=["$(A)", "$$(A)"]) == ("python3", "x", "$(A)")
    assert words(command=["sh"]) == ("sh",)
    assert words(command=["sh"], args=["-c"]) == ("sh", "-c")
    bare = Images({"a": EnvironmentTable(images=("test",), system=False)}).environments[0]
    with pytest.raises(ContainerError, match="no command specified"):
        assemble.command(parse(pod()).containers[0], bare, {})


MAC = Sandbox(
    root="/var/state",
    command=("python3", "-m", "stack"),
    variables={"A": "b"},
    directory="/",
    binds=(
        Bind('/opt/with "quotes"', '/opt/with "quotes"'),
        Bind("/var/state/tmp", "/tmp", writable=True),
        Bind("/var/state/log", "/dev/termination-log", writable=True),
    ),
    links={},
    hostname="mac",
    identity=Identity(0, 0),
    read_only_root=False,
)


def test_a_profile_denies_what_it_does_not_name() -> None:
    profile = Seatbelt().profile(MAC)
    assert profile.startswith("(version 1)\n(deny default)\n")
    assert '(subpath "/opt/with \\"quotes\\"")' in profile
    writes = profile[profile.index("(allow file-write*") :].partition(")\n(allow")[0]
    assert "/var/state/tmp" in writes and "/opt" not in writes
    assert "/Users" not in profile
    assert profile.count("(") == profile.count(")")
    assert "iokit-open" in profile and "iokit-open" not in Seatbelt(metal=False).profile(MAC)
    assert "(allow network*)" in profile


def test_sandbox_exec_gets_the_profile_and_places_for_private_files() -> None:
    launch = Seatbelt("/usr/bin/sandbox-exec").launch(MAC)
    assert launch.command[:2] == ("/usr/bin/sandbox-exec", "-p") and launch.command[3:] == ("python3", "-m", "stack")
    assert (
        launch.environment["TMPDIR"] == "/var/state/tmp" and launch.environment["TERMINATION_LOG"] == "/var/state/log"
    )
    assert not launch.bubblewrap


def test_a_profile_takes_no_control_characters() -> None:
    odd = Sandbox(**{**MAC.__dict__, "binds": (Bind("/a\nb", "/a\nb"),)})
    with pytest.raises(ValueError, match="control characters"):
        Seatbelt().profile(odd)


def test_links_stand_in_for_mounts_where_there_are_none(tmp_path: Path) -> None:
    point, volume, other = tmp_path / "mnt", tmp_path / "volume", tmp_path / "other"
    volume.mkdir()
    other.mkdir()

    def mounts(source: Path, target: Path) -> Sandbox:
        return Sandbox(**{**MAC.__dict__, "binds": (Bind(str(source), str(target)),)})

    program = Seatbelt(mount_points=(str(point),))
    program.prepare(mounts(volume, point / "data"))
    program.prepare(mounts(volume, point / "data"))
    assert (point / "data").readlink() == volume
    with pytest.raises(ContainerError, match="is taken"):
        program.prepare(mounts(other, point / "data"))
    volume.rmdir()
    program.prepare(mounts(other, point / "data"))
    assert (point / "data").readlink() == other
    with pytest.raises(ContainerError, match="cannot be mounted at another path than its own"):
        program.prepare(mounts(other, tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "node: Field required"),
        ('[node]\nname = "a"\nplatform = "tpu"', "node.platform"),
        ('[node]\nname = "A b"\nplatform = "cpu"', "node.name"),
        ('[node]\nname = "a"\nplatform = "cpu"\nx = 1', "node.x: Extra inputs are not permitted"),
        ('[node]\nname = "a"\nplatform = "cpu"\ntaints = ["a"]', "write a taint as KEY=VALUE:EFFECT"),
        ('[node]\nname = "a"\nplatform = "cpu"\npod_addresses = "10.0.0.1/8"', "has host bits set"),
        ("[node", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runner.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_short_configuration_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "runner.toml"
    path.write_text('[node]\nname = "mac-1"\nplatform = "metal"\n')
    config: Config = load(path)
    assert config.node.taint_objects() == [{"key": "sartor.dev/runner", "value": "true", "effect": "NoSchedule"}]
    assert config.sandbox.users() == 65536
