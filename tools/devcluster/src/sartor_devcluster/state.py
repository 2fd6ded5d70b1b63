"""The two files by which `up` and the supervisor know each other, and the identity of a process that outlives its number."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from sartor_devcluster.errors import StateError

FORMAT = 3


@dataclass(frozen=True)
class ProcessId:
    """A process, safe against reuse of its number: `start` is in clock ticks since boot (proc(5), stat field 22)."""

    pid: int
    start: int

    @staticmethod
    def of(pid: int, proc: Path = Path("/proc")) -> "ProcessId | None":
        """The process that has this number now, a zombie included; None if there is none."""
        try:
            text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return ProcessId(pid, start_of(text))

    def alive(self) -> bool:
        """Whether it is there and more than a zombie."""
        try:
            text = Path("/proc", str(self.pid), "stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return start_of(text) == self.start and status_of(text) not in "ZX"


def start_of(stat: str) -> int:
    """Field 22 of a stat line. The second field, the program's name, may itself hold blanks and brackets."""
    return int(stat.rpartition(")")[2].split()[19])


def status_of(stat: str) -> str:
    """Field 3: R, S, D, T, Z, …"""
    return stat.rpartition(")")[2].split()[0]


@dataclass(frozen=True)
class Settings:
    """What a cluster is asked to be."""

    binaries: Mapping[str, str]
    """Path of each component."""
    version: str
    source: str
    extra_arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Appended to a component's arguments, so they win over ours."""
    user_namespace: bool = False
    """Use a user namespace even as root."""
    bootstrap_token: str = ""
    without: tuple[str, ...] = ()
    """Components that it is asked to do without."""
    absent: Mapping[str, str] = field(default_factory=dict[str, str])
    """The reason of each component that it does without, as far as that was known before it started."""
    gateway: bool = False
    """Whether it is asked to have a Gateway."""

    def same_cluster(self, other: "Settings") -> bool:
        """Whether a running cluster with `other` settings is what is asked for; its binaries may be older."""
        return (self.extra_arguments, self.user_namespace, sorted(self.without), self.gateway) == (
            other.extra_arguments,
            other.user_namespace,
            sorted(other.without),
            other.gateway,
        )


@dataclass(frozen=True)
class State:
    """What a started cluster is."""

    supervisor: ProcessId
    init: ProcessId
    """Process 1 of the cluster's PID namespace: when it ends, the kernel ends everything in there."""
    port: int
    """Of 127.0.0.1, forwarded to the API server."""
    user_namespace: bool
    started: float
    """Unix time in seconds."""


def write_settings(path: Path, settings: Settings) -> None:
    _write(path, asdict(settings))


def read_settings(path: Path) -> Settings:
    """Raises `StateError` for a file that is not ours; `FileNotFoundError` where there is none."""
    content = _read(path)
    try:
        extra = cast(dict[str, list[str]], content["extra_arguments"])
        return Settings(
            binaries={str(k): str(v) for k, v in content["binaries"].items()},
            version=str(content["version"]),
            source=str(content["source"]),
            extra_arguments={name: tuple(arguments) for name, arguments in extra.items()},
            user_namespace=bool(content["user_namespace"]),
            bootstrap_token=str(content["bootstrap_token"]),
            without=tuple(map(str, content["without"])),
            absent={str(name): str(reason) for name, reason in content["absent"].items()},
            gateway=bool(content["gateway"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error


def write_state(path: Path, state: State) -> None:
    _write(path, asdict(state))


def read_state(path: Path) -> State | None:
    """The state, or None where the cluster was never started. Raises `StateError` for a file that is not ours."""
    try:
        content = _read(path)
    except FileNotFoundError:
        return None
    try:
        return State(
            supervisor=ProcessId(**content["supervisor"]),
            init=ProcessId(**content["init"]),
            port=int(content["port"]),
            user_namespace=bool(content["user_namespace"]),
            started=float(content["started"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a file."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps({"format": FORMAT, **content}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or cast(dict[str, Any], content).get("format") != FORMAT:
        raise _damaged(path, f"it is not of format {FORMAT}")
    return cast(dict[str, Any], content)


def _damaged(path: Path, reason: object) -> StateError:
    return StateError(
        f"{path} cannot be read as this version's ({reason}); end the cluster with `sartor-devcluster down --name "
        f"{path.parent.name}` and start it again"
    )
