"""The namespaces and the process whose end is everybody's end, without a cluster in them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor_devcluster.environment import scrubbed
from sartor_devcluster.errors import IsolationError
from sartor_devcluster.lifecycle import _gone, _kill  # pyright: ignore[reportPrivateUsage]
from sartor_devcluster.namespace import enter_command, proxy_refusal, require_tools
from sartor_devcluster.state import ProcessId

PARENT = """
import os, subprocess, sys, time
from sartor_devcluster import namespace
user = namespace.isolate(user_namespace=sys.argv[1] == "user")
init, pipe = namespace.start_init()
namespace.configure_loopback()
namespace.route_services(namespace.Services.UNPROXIED)
child = subprocess.Popen(["sleep", "600"])
# Forks away from its session and its parent, as daemons do.
subprocess.run([sys.executable, "-c", '''
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.wait()
'''], check=True)
time.sleep(0.2)
print(os.getpid(), init, child.pid, flush=True)
os.wait(), os.wait()
time.sleep(600)
"""


@pytest.fixture(params=["root", "user"])
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that isolated itself, and the numbers of itself, process 1, a child, and a daemon of the child's."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("not root")
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=scrubbed(os.environ, home=tmp_path),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        pytest.skip(f"no namespaces here: {process.stderr.read().splitlines()[-1]}")
    numbers = [int(word) for word in line.split()]
    numbers.append(_daemon(numbers))
    yield process, numbers
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def _daemon(numbers: list[int]) -> int:
    """The `sleep` that process 1 has inherited."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == numbers[1]:
                return int(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError("the daemon is not process 1's child")


@pytest.mark.parametrize("victim", [0, 1], ids=["supervisor", "process 1"])
def test_sigkill_leaves_nothing(parent: tuple[subprocess.Popen[str], list[int]], victim: int) -> None:
    process, numbers = parent
    known = [ProcessId.of(number) for number in numbers]
    assert all(one is not None and one.alive() for one in known)
    os.kill(numbers[victim], signal.SIGKILL)
    if victim == 0:
        process.wait(5)
    deadline = time.monotonic() + 5
    others = [one for one in known[1:] if one is not None]
    while any(one.alive() for one in others) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.pid for one in others if one.alive()] == []


def test_a_stopped_process_1_dies_with_the_supervisor_too(parent: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, numbers = parent
    init = ProcessId.of(numbers[1])
    assert init is not None
    os.kill(init.pid, signal.SIGSTOP)
    process.kill()
    process.wait(5)
    assert _gone(init, 5)


def test_addresses_are_the_namespaces_own(parent: tuple[subprocess.Popen[str], list[int]]) -> None:
    """A process inside may bind any node or pod address; the host sees nothing of it."""
    process, _ = parent
    user = Path(f"/proc/{process.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    program = (
        "import socket; [socket.create_server((a, 443)).close() for a in ('10.240.0.1', '10.244.3.7', '10.96.0.1')]"
    )
    inside = enter_command(process.pid, [sys.executable, "-c", program], user_namespace=user)
    assert subprocess.run(inside, capture_output=True, text=True, check=False).stderr == ""
    outside = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Cannot assign requested address" in outside.stderr


def test_a_process_with_the_same_number_is_spared() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        known = ProcessId.of(process.pid)
        assert known is not None
        _kill(ProcessId(known.pid, known.start - 1))
        assert known.alive()
        _kill(known)
        assert not known.alive()


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(IsolationError, match="ip is missing; install the package iproute2"):
        require_tools()


def test_why_kube_proxy_cannot_work_here_is_said(tmp_path: Path) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\ncat > /dev/null\necho '/dev/stdin:1:1-5: Error: Operation not supported' >&2\nexit 1\n")
    nft.chmod(0o755)
    reason = proxy_refusal(str(nft))
    assert reason is not None
    assert "this kernel takes no rules from nft (1:1-5: Error: Operation not supported); load its modules" in reason
    nft.write_text('#!/bin/sh\ngrep -q "delete table" && exit 0\nexit 1\n')
    assert proxy_refusal(str(nft)) is None
    assert "cannot be run" in str(proxy_refusal(str(tmp_path / "none")))


def test_service_addresses_are_nobodys_until_there_are_rules(parent: tuple[subprocess.Popen[str], list[int]]) -> None:
    """A server on 0.0.0.0 does not answer for a Service while kube-proxy starts; afterwards rules stand in between."""
    process, _ = parent
    user = Path(f"/proc/{process.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    program = """
import socket
from sartor_devcluster import namespace
def ask(address):
    try:
        with socket.create_connection((address, 4711), timeout=0.3) as connection:
            return connection.getsockname()[0]
    except OSError as error:
        return type(error).__name__ if isinstance(error, TimeoutError) else error.strerror
server = socket.create_server(("0.0.0.0", 4711))
print(ask("10.96.3.4"), ask("10.96.0.1"), sep=", ")
namespace.route_services(namespace.Services.STARTING)
print(ask("10.96.3.4"))
namespace.route_services(namespace.Services.PROXIED)
print(ask("10.96.3.4"))
"""
    inside = enter_command(process.pid, [sys.executable, "-c", program], user_namespace=user)
    done = subprocess.run(inside, capture_output=True, text=True, check=False, env=scrubbed(os.environ, home=Path("/")))
    assert done.stdout == "Network is unreachable, 10.96.0.1\nTimeoutError\n10.240.0.1\n", done.stderr
