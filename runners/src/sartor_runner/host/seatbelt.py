"""A sandbox by macOS' `sandbox-exec` (Seatbelt): a profile that denies everything it does not name.

macOS has no mount namespaces: a process sees the host's paths, and what it was not given it cannot read. A volume therefore
cannot appear at any path: its `mountPath` must be the place where it is (the runner links it there when it lies below one
of the configured `mount_points`), which
`prepare` sees to before anything starts. There is no PID namespace either: processes
see, but may not signal, others, and the whole process group is killed at the end.
Language of the profile: Apple's TinyScheme dialect, as in the system's own `/System/Library/Sandbox/Profiles`.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sartor_runner.errors import ContainerError
from sartor_runner.host.sandbox import Launch, Sandbox

PROGRAM = "/usr/bin/sandbox-exec"
SYSTEM_READABLE = (
    "/usr/lib",
    "/usr/share",
    "/usr/bin",
    "/bin",
    "/System",
    "/Library/Apple",
    "/private/var/db/timezone",
)
SYSTEM_LITERALS = ("/", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/private/etc/localtime", "/etc")
SERVICES = (
    "com.apple.system.logger",
    "com.apple.system.notification_center",
    "com.apple.system.opendirectoryd.libinfo",
    "com.apple.trustd.agent",
    "com.apple.SecurityServer",
    "com.apple.CoreServices.coreservicesd",
    "com.apple.MTLCompilerService",
    "com.apple.cvmsServ",
)
PRIVATE = frozenset({"/tmp", "/var/tmp", "/dev/termination-log"})
"""Bind targets that Linux gives each container privately; here TMPDIR and the variables below say where they are."""
GPU_CLIENTS = ("AGXDeviceUserClient", "AGXSharedUserClient", "IOSurfaceRootUserClient", "IOAccelerator")


@dataclass(frozen=True)
class Seatbelt:
    """`program`: the path of sandbox-exec. `metal`: processes may use the GPU. `mount_points`: folders that links may be
    put into."""

    program: str = PROGRAM
    metal: bool = True
    mount_points: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "sandbox-exec"

    def prepare(self, sandbox: Sandbox) -> None:
        """Puts links where volumes are to appear. A link that shows another pod's volume is never replaced: two pods with
        a volume at the same path cannot run here at once."""
        for bind in sandbox.binds:
            if bind.source == bind.target or bind.target in PRIVATE or bind.target.startswith("/etc/"):
                continue
            if not any(PurePosixPath(bind.target).is_relative_to(point) for point in self.mount_points):
                raise ContainerError(
                    "CreateContainerError",
                    f"{bind.target}: on macOS a volume cannot be mounted at another path than its own; list a folder above "
                    "it under sandbox.mount_points in the node's configuration, which the runner may put links into",
                )
            _link(Path(bind.target), Path(bind.source))

    def launch(self, sandbox: Sandbox) -> Launch:
        profile = self.profile(sandbox)
        command = (self.program, "-p", profile, *sandbox.command)
        places = {bind.target: bind.source for bind in sandbox.binds if bind.target in PRIVATE}
        variables = dict(sandbox.variables)
        if "/tmp" in places:
            variables |= {"TMPDIR": places["/tmp"], "HOME": places["/tmp"]}
        if "/dev/termination-log" in places:
            variables["TERMINATION_LOG"] = places["/dev/termination-log"]
        return Launch(command, (), variables, (), bubblewrap=False, directory=sandbox.directory)

    def profile(self, sandbox: Sandbox) -> str:
        """The whole profile of one process."""
        readable = [bind.source for bind in sandbox.binds]
        writable = [bind.source for bind in sandbox.binds if bind.writable]
        rules = [
            "(version 1)",
            "(deny default)",
            "(allow process-fork)",
            "(allow signal (target same-sandbox))",
            "(allow process-info* (target same-sandbox))",
            "(allow sysctl-read)",
            _rule("file-read-metadata", ['(subpath "/")']),
            _rule("file-read*", [_literal(path) for path in SYSTEM_LITERALS] + [_subpath(p) for p in SYSTEM_READABLE]),
            _rule("process-exec*", [_subpath(path) for path in (*SYSTEM_READABLE, *readable)]),
            _rule("mach-lookup", [f"(global-name {_quoted(name)})" for name in SERVICES]),
            _rule("file-write-data", [_literal("/dev/null"), _literal("/dev/zero")]),
        ]
        if readable:
            rules.append(_rule("file-read*", [_subpath(path) for path in dict.fromkeys(readable)]))
        if writable:
            rules.append(_rule("file-write*", [_subpath(path) for path in dict.fromkeys(writable)]))
        if self.metal:
            rules.append(_rule("iokit-open", [f"(iokit-user-client-class {_quoted(name)})" for name in GPU_CLIENTS]))
        if not sandbox.private_network:
            rules += ["(allow network*)", "(allow system-socket)"]
        return "\n".join(rules) + "\n"


def _link(target: Path, source: Path) -> None:
    if target.is_symlink() and not target.exists():
        target.unlink()  # the volume of a pod that is gone
    if target.is_symlink() and target.readlink() == source:
        return
    if os.path.lexists(target):
        raise ContainerError(
            "CreateContainerError", f"{target} is taken: by another pod's volume, or by a file of this host"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def _rule(operation: str, filters: list[str]) -> str:
    return f"(allow {operation}\n  " + "\n  ".join(filters) + ")"


def _subpath(path: str) -> str:
    return f"(subpath {_quoted(path)})"


def _literal(path: str) -> str:
    return f"(literal {_quoted(path)})"


def _quoted(text: str) -> str:
    """A string of the profile language. Raises `ValueError` for a control character, which it has no escape for."""
    if any(ord(c) < 32 for c in text):
        raise ValueError(f"{text!r}: a path in a sandbox profile may have no control characters")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
