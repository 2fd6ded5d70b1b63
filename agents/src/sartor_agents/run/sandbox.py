"""The sandbox of a candidate on this machine: bubblewrap, so that agent-written code sees what it needs and no more.

Inside are the system's programs, this Python with its packages, the model and the stack itself, all read-only; a home that
is empty at every start and gone at its end; process and IPC namespaces of its own; no capabilities. Outside stay the run's
folder (sealed seeds, samples, other candidates), the user's home, the processes of judge, evaluator and baseline. The
`chain.json` of a made checkpoint holds the answers, so it is sealed data and shown empty.

The network is the machine's: the stack has to reach the baseline and be reached. What a candidate does over it shows at the
baseline's own counter, and what work it does shows in its CPU time (`measurement.contention`).

Pods have their own isolation; this is for runs without a cluster.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sartor_agents.checkpoints.chain import FILE_NAME as ANSWER_KEY

HOME_BYTES = 256 << 20
"""What a stack may write into its home: memory, so it is bounded."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    "/etc/alternatives", "/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/resolv.conf", "/etc/ssl/certs",
)  # fmt: skip
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
"""Below /proc, writable for the machine's root: read-only, so that not even a run of root's can change the machine."""
_PROBE_SECONDS = 20.0


@cache
def sandbox_program() -> str | None:
    """The `bwrap` that can make a sandbox here; None where it is missing or namespaces are not allowed."""
    program = shutil.which("bwrap")
    if program is None or not sys.platform.startswith("linux"):
        return None
    command = (program, *_namespaces(), *_system(), "--proc", "/proc", "--dev", "/dev", "--", "/bin/true")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return program if done.returncode == 0 else None


def confined(
    command: Sequence[str],
    *,
    program: str,
    folder: Path,
    home: Path,
    model_dir: Path | None = None,
    writable: Path | None = None,
) -> tuple[str, ...]:
    """`command` in the sandbox made by `program`, in `folder` (the checkout).

    `home` becomes an empty folder in memory. `writable` is a folder inside `folder` that may be written (a build's output).
    """
    # A private /tmp comes first: what is bound may lie below the machine's.
    arguments = [*_namespaces(), *_system(), "--size", str(HOME_BYTES), "--tmpfs", "/tmp", *_python()]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for name in _KERNEL_SETTINGS:
        arguments += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    arguments += ["--ro-bind", "/sys", "/sys", "--tmpfs", "/sys/firmware"]
    for device in sorted(Path("/dev").glob("nvidia*")):
        arguments += ["--dev-bind-try", str(device), str(device)]
    if model_dir is not None:
        arguments += _model(model_dir)
    arguments += ["--ro-bind", str(folder), str(folder)]
    if writable is not None:
        arguments += ["--bind", str(writable), str(writable)]
    arguments += ["--size", str(HOME_BYTES), "--tmpfs", str(home)]
    arguments += ["--remount-ro", "/", "--chdir", str(folder)]
    return (program, *arguments, "--", *command)


def _namespaces() -> tuple[str, ...]:
    return (
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", "candidate"),
    )


def _system() -> list[str]:
    arguments: list[str] = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in _SETTINGS:
        arguments += ["--ro-bind-try", name, name]
    return arguments


def _python() -> Iterable[str]:
    """This interpreter, its standard library and its packages, where they lie outside the system's folders."""
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    for place in sorted({*places, *(p.resolve() for p in places)}):
        if not place.is_relative_to("/usr"):
            yield from ("--ro-bind", str(place), str(place))


def _model(folder: Path) -> Iterable[str]:
    """The checkpoint, with what its links lead to (a hub's cache keeps weights beside the folder)."""
    yield from ("--ro-bind", str(folder), str(folder))
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            target = os.path.realpath(path)
            yield from ("--ro-bind-try", target, target)
    if (folder / ANSWER_KEY).exists():
        # A device, so that nothing is read from it; bound otherwise it could not be opened at all.
        yield from ("--dev-bind", os.devnull, str(folder / ANSWER_KEY))
