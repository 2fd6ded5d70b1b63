"""The parts of a bubblewrap sandbox that candidates and commands share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

ANSWER_KEY = "chain.json"
"""`checkpoints.chain.FILE_NAME`, which is not imported: with it comes NumPy, into every process of a role."""

HOME_BYTES = 256 << 20
"""What may be written into a home, and into shared memory: both are memory, so they are bounded."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = (
    "/etc/alternatives", "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/ssl/certs",
)  # fmt: skip
NETWORK_SETTINGS = ("/etc/hosts", "/etc/resolv.conf")
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
"""Below /proc, writable for the machine's root: read-only, so that not even a run of root's can change the machine."""
_PROBE_SECONDS = 20.0


@cache
def sandbox_program() -> str | None:
    """The `bwrap` that can make a sandbox here; None where it is missing or namespaces are not allowed."""
    program = shutil.which("bwrap")
    if program is None or not sys.platform.startswith("linux"):
        return None
    command = (program, *namespaces("probe"), *system(), "--proc", "/proc", "--dev", "/dev", "--", "/bin/true")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return program if done.returncode == 0 else None


def namespaces(hostname: str) -> tuple[str, ...]:
    return (
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--hostname", hostname),
    )


def system(settings: Sequence[str] = (*SETTINGS, *NETWORK_SETTINGS)) -> list[str]:
    """The system's programs and libraries, and of its settings only those named."""
    arguments: list[str] = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in settings:
        arguments += ["--ro-bind-try", name, name]
    return arguments


def python() -> Iterable[str]:
    """This interpreter, its standard library and its packages, where they lie outside the system's folders."""
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    for place in sorted({*places, *(p.resolve() for p in places)}):
        if not place.is_relative_to("/usr"):
            yield from ("--ro-bind", str(place), str(place))


def libraries(nodes: Sequence[Path] | None, environment: Mapping[str, str] = os.environ) -> Iterable[str]:
    """Where a driver's libraries lie outside the system's folders, by the variables that name them; nothing for who sees no
    device (`nodes` as in `kernel`).

    A folder without any is not shown: it may be one that holds everything else.
    """
    if nodes is not None and not nodes:
        return
    named = [Path(name) for name in environment.get("LD_LIBRARY_PATH", "").split(":") if name.startswith("/")]
    found = [place for place in named if next(place.glob("*.so*"), None) is not None]
    toolkit = Path(environment.get("CUDA_HOME", "/usr"))
    if (toolkit / "bin" / "nvcc").exists():
        found.append(toolkit)
    for place in dict.fromkeys(found):
        if not any(place.is_relative_to(known) for known in _SYSTEM):
            yield from ("--ro-bind-try", str(place), str(place))


def kernel(shared_bytes: int = HOME_BYTES, nodes: Sequence[Path] | None = None) -> Iterable[str]:
    """/proc of the own namespace and the devices: of NVIDIA's those `nodes` (None: all of the machine). Bubblewrap's /dev is
    memory without a bound, so nothing may be put there but into /dev/shm."""
    yield from ("--proc", "/proc", "--dev", "/dev")
    for name in _KERNEL_SETTINGS:
        yield from ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")
    for device in sorted(Path("/dev").glob("nvidia*")) if nodes is None else nodes:
        yield from ("--dev-bind-try", str(device), str(device))
    yield from ("--perms", "1777", "--size", str(shared_bytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev")


def model(folder: Path, shown_at: Path | None = None) -> Iterable[str]:
    """The checkpoint, with what its links lead to (a hub's cache keeps weights beside the folder).

    The `chain.json` of a made checkpoint holds the answers, so it is sealed data and shown empty.
    """
    shown = shown_at or folder
    yield from ("--ro-bind", str(folder), str(shown))
    for path in sorted(folder.iterdir()):
        if not path.is_symlink():
            continue
        target = os.path.realpath(path)
        # Relative links are followed where the folder is shown, absolute ones where they point to.
        place = path.readlink()
        seen = os.path.normpath(shown / place) if not place.is_absolute() else target
        yield from ("--ro-bind-try", target, seen)
    if (folder / ANSWER_KEY).exists():
        # A device, so that nothing is read from it; bound otherwise it could not be opened at all.
        yield from ("--dev-bind", os.devnull, str(shown / ANSWER_KEY))
