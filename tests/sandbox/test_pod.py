"""Commands in a pod, where no namespace can be had: the walls that need no right, and each attempt without them.

The pod's own walls (nothing mounted, no capability, a network policy) are not here; tests/cluster has them. What needs a
capability to be denied is left out for the machine's root.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import battery
import pytest
from battery import Planted, network_attempts
from test_escapes import survivors
from test_limits import FORKS, without_groups

from sartor_agents.run.sandbox import command, inside, walls
from sartor_agents.run.sandbox.command import CommandSandbox, Isolation
from sartor_agents.run.sandbox.limits import MIB, Limits
from sartor_agents.run.sandbox.walls import PORTS, DiskWatch, used_bytes
from sartor_api.search.agents import SandboxSettings

pytestmark = pytest.mark.skipif(inside.landlock_version() < 6, reason="this kernel's Landlock has no scopes")

FILES = ("read_home", "read_sealed", "read_sibling", "read_grant", "write_planted", "write_answer")
PROCESSES = ("signal_host_process", "read_inherited_descriptor", "change_first_program", "read_own_environment")
NETWORK = ("metadata_address", "api_server", "other_network", "loopback_of_host", "name_service", "abstract_socket",
           "before_the_connection")  # fmt: skip
SYSTEM_CALLS = ("new_user_namespace", "kernel_keys", "io_uring", "memory_of_sibling", "hypervisor_socket")


@pytest.fixture
def pod(planted: Planted) -> CommandSandbox:
    return replace(planted.sandbox, isolation=Isolation.POD)


@pytest.fixture(scope="module")
def network() -> Iterator[dict[str, list[str]]]:
    yield network_attempts(NETWORK, Isolation.POD)


@pytest.mark.parametrize("name", [*FILES, *PROCESSES])
def test_what_works_beside_the_walls_does_not_behind_them(
    planted: Planted, pod: CommandSandbox, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", planted.facts["canary"])
    found = battery.inside(pod, name, planted.facts)
    assert not found.escaped and found.text.startswith("DENIED"), found.text
    control = battery.outside(name, planted.facts, pass_fds=(planted.secret,))
    assert control.escaped, control.text


@pytest.mark.parametrize("name", NETWORK)
def test_nothing_of_the_network_answers(network: dict[str, list[str]], name: str) -> None:
    behind, beside = network[name]
    assert behind.startswith("DENIED") and beside == "ESCAPED TOKEN"


@pytest.mark.parametrize("name", SYSTEM_CALLS)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the attempts use the numbers of x86-64")
def test_the_filter_is_there_as_well(planted: Planted, pod: CommandSandbox, name: str) -> None:
    assert battery.inside(pod, name, planted.facts).text.startswith("DENIED")
    with battery.without("seccomp"):
        assert battery.inside(pod, name, planted.facts).escaped


def test_nothing_outlives_its_command(planted: Planted, pod: CommandSandbox) -> None:
    assert "left behind" in battery.inside(pod, "outlive", planted.facts).text
    assert not survivors(planted.facts["token"])


def test_a_server_of_its_own_can_be_tried(pod: CommandSandbox) -> None:
    (pod.worktree / "stack" / "page").write_text("from inside")
    script = (
        f"python -m http.server {PORTS[3]} --bind 127.0.0.1 >/dev/null 2>&1 & "
        "python -c 'import time, urllib.request as u\n"
        "for _ in range(100):\n"
        f'    try: print(u.urlopen("http://127.0.0.1:{PORTS[3]}/stack/page").read().decode()); break\n'
        "    except OSError: time.sleep(0.1)'"
    )
    assert pod.run(("/bin/sh", "-c", script)).output == "from inside\n"
    refused = pod.run(("python", "-m", "http.server", str(PORTS[-1] + 1), "--bind", "127.0.0.1"), seconds=10)
    assert "Permission denied" in refused.output


def test_programs_find_what_they_need(pod: CommandSandbox) -> None:
    """Locks between processes, temporary files, a compiler, pseudo-terminals."""
    script = (
        "import multiprocessing, os, pty, subprocess, tempfile\n"
        "multiprocessing.Lock(); pty.openpty()\n"
        "with tempfile.TemporaryDirectory() as place:\n"
        "    open(place + '/a.c', 'w').write('int main(void) { return 0; }')\n"
        "    subprocess.run(('cc', '-o', place + '/a', place + '/a.c'), check=True)\n"
        "    print(subprocess.run((place + '/a',)).returncode)\n"
    )
    assert pod.run(("python", "-c", script)).output == "0\n"


def test_what_a_command_writes_is_bounded(pod: CommandSandbox) -> None:
    limits = replace(pod.limits, workspace_bytes=8 * MIB, temporary_bytes=8 * MIB)
    script = "for n in $(seq 200); do head -c 1000000 /dev/zero > {}/$n; sleep 0.02; done; echo all there"
    for place in (".", "$TMPDIR", "$HOME"):
        result = replace(pod, limits=limits).run(("/bin/sh", "-c", script.format(place)))
        assert (result.problem, result.kept) == ("DiskExceeded", False) and "all there" not in result.output
    assert not pod.inside.exists(), "nothing of it is left on the pod's disk"
    small = replace(pod, limits=limits).run(("/bin/sh", "-c", "head -c 1000000 /dev/zero > stack/a; sleep 1"))
    assert (small.problem, small.kept) == (None, True)


def test_a_fork_bomb_ends_with_its_command(pod: CommandSandbox) -> None:
    """Where the kernel counts nothing, the parent does."""
    limits = replace(pod.limits, processes=40, seconds=20)
    with without_groups(), mock.patch.object(walls, "own_users", lambda: False):
        result = replace(pod, limits=limits).run(("python", "-c", FORKS.replace("WAIT", "5")))
    assert (result.problem, result.kept) == ("ProcessesExceeded", False)


@pytest.mark.parametrize(("own", "held"), [(True, 77), (False, None)])
def test_the_kernel_counts_a_users_processes_only_where_they_are_the_pods(own: bool, held: int | None) -> None:
    limits = command._limits(Limits(processes=77), 0, alone=own)  # pyright: ignore[reportPrivateUsage]
    assert limits.get("RLIMIT_NPROC") == held


def test_the_folder_of_the_agents_own_process_is_not_shown(
    pod: CommandSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` puts it onto the path for packages."""
    (tmp_path / "request.json").write_text("what the agent was asked")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "Permission denied" in pod.run(("cat", str(tmp_path / "request.json"))).output


def test_the_disk_is_looked_at_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a").write_bytes(bytes(300_000))
    (tmp_path / "link").symlink_to("/usr")
    assert 300_000 <= used_bytes(tmp_path) < 400_000 and used_bytes(tmp_path / "gone") == 0
    watch = DiskWatch(tmp_path, 100_000)
    assert watch.over(10.0) and not watch.over(10.1) and watch.over(10.6)


def test_limits_are_those_of_the_profile() -> None:
    given = SandboxSettings(
        cpus=3.0, memory_bytes=2048 * MIB, disk_bytes=8192 * MIB, processes=99, command_seconds=33.0
    )
    here, pod = Limits.of(given, pod=False), Limits.of(given, pod=True)
    for one in (here, pod):
        assert (one.seconds, one.processes, one.cpus) == (33.0, 99, 3.0)
    assert here.memory_bytes == 2048 * MIB and pod.memory_bytes == 1536 * MIB, "the agent is in the pod's memory too"
    assert (here.workspace_bytes, here.temporary_bytes) == (512 * MIB, 1024 * MIB), (
        "in memory: no more for a larger disk"
    )
    assert (pod.workspace_bytes, pod.temporary_bytes) == (2048 * MIB, 2048 * MIB)
    assert Limits.of(None, pod=True) == Limits()
