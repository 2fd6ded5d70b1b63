"""A command's sandbox on macOS: the profile for `sandbox-exec` (Seatbelt), which denies everything that it does not name.

macOS has neither mount nor network nor process namespaces: a command sees the machine's paths, may read what is named here,
and reaches no address but the ports of the allowed ways on this machine. Its writable folder is on the disk, so the limits
of memory, disk and processes that `command` has on Linux are left to a watching parent there.
Language: Apple's TinyScheme dialect, as in /System/Library/Sandbox/Profiles. Profiles of candidates and pods of a Mac that
is a node are the runner's (`sartor_runner.host.seatbelt`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

PROGRAM = "/usr/bin/sandbox-exec"
_SYSTEM = ("/usr/lib", "/usr/share", "/usr/bin", "/bin", "/System", "/Library/Apple", "/Library/Developer/CommandLineTools",
           "/private/var/db/timezone")  # fmt: skip
_FILES = ("/", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/private/etc/localtime", "/etc")
_SERVICES = ("com.apple.system.logger", "com.apple.system.opendirectoryd.libinfo", "com.apple.MTLCompilerService")
_GPU = ("AGXDeviceUserClient", "AGXSharedUserClient", "IOSurfaceRootUserClient", "IOAccelerator")


def profile(
    *, readable: Iterable[Path], writable: Iterable[Path], ports: Sequence[int] = (), metal: bool = False
) -> str:
    """The profile of one command. `ports`: those of 127.0.0.1 that it may connect to. Paths must be resolved: Seatbelt
    compares what the kernel sees. Raises `ValueError` for a path that the language cannot hold."""
    read, write = [*map(str, readable)], [*map(str, writable)]
    rules = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow process-info* (target same-sandbox))",
        "(allow sysctl-read)",
        _allow("file-read-metadata", ['(subpath "/")']),
        _allow(
            "file-read*", [_literal(path) for path in _FILES] + [_subpath(path) for path in (*_SYSTEM, *read, *write)]
        ),
        _allow("process-exec*", [_subpath(path) for path in (*_SYSTEM, *read, *write)]),
        _allow("file-write*", [_literal("/dev/null"), *(_subpath(path) for path in write)]),
    ]
    if metal:
        rules.append(_allow("mach-lookup", [f"(global-name {_quoted(name)})" for name in _SERVICES]))
        rules.append(_allow("iokit-open", [f"(iokit-user-client-class {_quoted(name)})" for name in _GPU]))
    if ports:
        rules.append(_allow("network-outbound", [f'(remote tcp "localhost:{port}")' for port in ports]))
    return "\n".join(rules) + "\n"


def confined(command: Sequence[str], text: str) -> tuple[str, ...]:
    """`command` under the profile `text`."""
    return (PROGRAM, "-p", text, *command)


def _allow(operation: str, filters: Sequence[str]) -> str:
    return f"(allow {operation}\n  " + "\n  ".join(filters) + ")"


def _subpath(path: str) -> str:
    return f"(subpath {_quoted(path)})"


def _literal(path: str) -> str:
    return f"(literal {_quoted(path)})"


def _quoted(text: str) -> str:
    """A string of the profile language, which has no escape for control characters."""
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"{text!r}: a path in a sandbox profile may have no control characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
