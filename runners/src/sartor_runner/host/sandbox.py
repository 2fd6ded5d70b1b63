"""What a sandboxed process is given, independent of the program that makes the sandbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host, shown at `target`. `device`: device nodes in it work."""

    source: str
    target: str
    writable: bool = False
    device: bool = False


@dataclass(frozen=True)
class Identity:
    """`user`, `group`: as the process sees them. `host_user`: the ordinary user of the host who makes the sandbox, when the
    runner is the real root and can become another; None: the runner's own user does."""

    user: int
    group: int
    host_user: int | None = None


@dataclass(frozen=True)
class Sandbox:
    """Everything about one container's process.

    `root`: the empty folder that becomes its `/`. `binds` in the order of mounting: a later one may lie inside an earlier.
    """

    root: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    directory: str
    binds: tuple[Bind, ...]
    links: Mapping[str, str]
    hostname: str
    identity: Identity
    read_only_root: bool
    private_network: bool = False


@dataclass(frozen=True)
class Launch:
    """How the shim starts it: `command` with the placeholders `{args}` and `{status}` (file descriptors), `arguments` to be
    passed through the first, `environment` and `directory` of the sandbox program itself, `sources` to be made reachable."""

    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    sources: tuple[str, ...]
    bubblewrap: bool
    directory: str = "/"


class SandboxProgram(Protocol):
    """Bubblewrap, sandbox-exec."""

    @property
    def name(self) -> str: ...

    def prepare(self, sandbox: Sandbox) -> None:
        """What has to be done on the host first. Raises `ContainerError` for what this program cannot do."""
        ...

    def launch(self, sandbox: Sandbox) -> Launch: ...
