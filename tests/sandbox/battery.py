"""Running one attempt of the battery: inside the sandbox, outside of it, and inside with one protection removed."""

import contextlib
import json
import os
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from sartor_agents.checkpoints.chain import FILE_NAME
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.sandbox import command, seccomp
from sartor_agents.run.sandbox.command import CommandSandbox, Isolation
from sartor_agents.run.sandbox.limits import Limits

HERE = Path(__file__).parent
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A filter that lets every call through: one BPF instruction, return ALLOW."""


NEEDS_ROOT = frozenset({"open_kernel_settings", "open_kernel_log", "make_device", "write_system", "become_root"})
"""Outside, these work for the machine's root alone."""

OUTSIDE = (
    "read_home", "read_sealed", "read_sibling", "read_answer_key", "read_environment_of_others", "read_own_environment",
    "read_inherited_descriptor", "connect_to_host_socket", "signal_host_process", "see_host_process", "change_first_program",
    "write_planted", "write_packages", "write_system", "open_kernel_settings", "open_kernel_log", "make_device",
    "become_root",
)  # fmt: skip

NETWORK = ("metadata_address", "api_server", "other_network", "loopback_of_host", "name_service", "abstract_socket",
           "before_the_connection")  # fmt: skip
"""Run in a network namespace of their own (`network_world`)."""

SYSTEM_CALLS = {
    "new_user_namespace": ("seccomp", "--disable-userns"),
    "new_user_namespace_by_clone": ("seccomp", "--disable-userns"),
    "kernel_keys": ("seccomp",),
    "io_uring": ("seccomp",),
    "memory_of_sibling": ("seccomp",),
    "handles_instead_of_paths": ("seccomp",),
    "hypervisor_socket": ("seccomp",),
    "no_address_randomisation": ("seccomp",),
    "other_architecture": ("seccomp",),
}
"""The attempt and what has to be taken away for it to work."""


@dataclass(frozen=True)
class Seen:
    """What an attempt came to. `escaped`: it says that it got through."""

    escaped: bool
    text: str


@dataclass(frozen=True)
class Planted:
    """`facts` is what attempts are told; `secret` is an open descriptor."""

    facts: dict[str, Any]
    sandbox: CommandSandbox
    secret: int


@contextlib.contextmanager
def plant(root: Path) -> Iterator[Planted]:
    """A machine below `root` with things that a sandboxed command must not reach."""
    canary, token = secrets.token_hex(16), secrets.token_hex(8)
    run, sibling = RunLayout(root / "run"), RunLayout(root / "other-run")
    for layout in (run, sibling):
        layout.make()
        (layout.sealed / "key").write_text(canary)
    model = root / "model"
    for folder in (model, root / "home" / ".config", run.worktree(1) / "stack", root / "scratch"):
        folder.mkdir(parents=True)
    (root / "home" / ".config" / "token").write_text(canary)
    (model / "config.json").write_text("{}")
    (model / FILE_NAME).write_text(f'"{canary}"')
    (sibling.work / "stack.py").write_text(canary)
    (root / "grant").write_text(canary)
    name = f"victim-{token}"
    victim = subprocess.Popen(
        (sys.executable, "-c", "import time; time.sleep(600)", name), env={**os.environ, "SECRET": canary}
    )
    descriptor = os.open(run.sealed / "key", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    with socket.socket(socket.AF_UNIX) as listener:
        path = (
            Path("/tmp") / f"sartor-battery-{token}.sock"
        )  # not below `root`: a socket's path may have 107 characters
        listener.bind(str(path))
        listener.listen()
        facts = {
            "canary": canary, "token": token, "home_secret": str(root / "home/.config/token"), "run": str(run.root),
            "sealed_key": str(run.sealed / "key"), "sibling": str(sibling.work / "stack.py"), "model": str(model),
            "grant": str(root / "grant"), "answer": str(root / "answer.json"),
            "victim": victim.pid, "victim_name": name, "host_socket": str(path), "scratch": str(root / "scratch"),
        }  # fmt: skip
        box = CommandSandbox(
            run.worktree(1), root / "scratch", Limits(seconds=30, memory_bytes=1 << 30), model_dir=model
        )
        yield Planted(facts, box, descriptor)
        path.unlink()
    os.close(descriptor)
    victim.kill()
    victim.wait()


def inside(sandbox: CommandSandbox, name: str, world: dict[str, Any]) -> Seen:
    shown = replace(sandbox, readable={**sandbox.readable, "/battery": HERE})
    result = shown.run(("python", "/battery/attempts.py", name, json.dumps(world)), seconds=30)
    return seen(result.output)


def outside(name: str, world: dict[str, Any], *, pass_fds: Sequence[int] = (), **environment: str) -> Seen:
    done = subprocess.run(
        (sys.executable, str(HERE / "attempts.py"), name, json.dumps(world)),
        capture_output=True, text=True, timeout=60, check=False, pass_fds=pass_fds, env={**os.environ, **environment},
    )  # fmt: skip
    return seen(done.stdout + done.stderr)


def seen(output: str) -> Seen:
    lines = [line for line in output.splitlines() if line.startswith(("ESCAPED", "DENIED"))]
    return Seen(any(line.startswith("ESCAPED") for line in lines), "\n".join(lines) or output[-400:])


@contextlib.contextmanager
def without(*protections: str) -> Iterator[None]:
    """The sandbox without its seccomp filter (`seccomp`) or without some of bubblewrap's arguments."""
    with contextlib.ExitStack() as stack:
        made = command._bubblewrap  # pyright: ignore[reportPrivateUsage]
        dropped = [name for name in protections if name.startswith("--")]

        def fewer(*arguments: Any) -> list[str]:
            kept = made(*arguments)
            for name in dropped:
                kept.remove(name)
            return kept

        stack.enter_context(mock.patch.object(command, "_bubblewrap", fewer))
        if "seccomp" in protections:
            everything: Callable[..., bytes] = lambda **_: ALLOW_ALL  # noqa: E731
            stack.enter_context(mock.patch.object(seccomp, "program", everything))
        yield


def network_attempts(names: Sequence[str], isolation: Isolation = Isolation.BUBBLEWRAP) -> dict[str, list[str]]:
    """What each attempt came to, without and with the network, the answers' token replaced by the word TOKEN."""
    namespace = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")
    done = subprocess.run(
        (*namespace, sys.executable, str(HERE / "network_world.py"), isolation.value, *names),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    return {name: [text.replace(answer["token"], "TOKEN") for text in texts] for name, texts in answer["found"].items()}
