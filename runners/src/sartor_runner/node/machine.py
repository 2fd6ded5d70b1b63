"""What every pod worker of this node shares."""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor_runner.api.client import ApiClient, Object
from sartor_runner.config import Config
from sartor_runner.core.downward import Placement
from sartor_runner.core.refusals import Allowed
from sartor_runner.errors import ConfigurationError, RunnerError
from sartor_runner.host.addresses import Addresses
from sartor_runner.host.bubblewrap import Bubblewrap
from sartor_runner.host.containers import LogLimits
from sartor_runner.host.directories import PodDirectory, pod_uids
from sartor_runner.host.images import Images
from sartor_runner.host.probing import Prober
from sartor_runner.host.sandbox import SandboxProgram
from sartor_runner.host.seatbelt import PROGRAM, Seatbelt
from sartor_runner.node.events import Events
from sartor_runner.node.sources import SourceCache

ALL_USERS = 4294967295


@dataclass
class Users:
    """Ordinary user ids for pods, one each; none when the runner cannot become another user.

    A single id is shared by all pods, as on a node where every pod says the same `runAsUser`: what one pod left in a shared
    folder, another one may change.
    """

    first: int
    count: int
    enabled: bool
    taken: set[int] = field(default_factory=set[int])

    def take(self) -> int | None:
        """Raises `RunnerError` when all are taken."""
        if not self.enabled:
            return None
        if self.count == 1:
            return self.first
        for user in range(self.first, self.first + self.count):
            if user not in self.taken:
                self.taken.add(user)
                return user
        raise RunnerError(f"all {self.count} user ids for pods are taken; widen sandbox.pod_users")

    def give_back(self, user: int | None) -> None:
        if user is not None:
            self.taken.discard(user)


@dataclass
class Machine:
    """The node's own things, made once. `starts` bounds how many containers start at the same time."""

    config: Config
    root: Path
    images: Images
    program: SandboxProgram
    prober: Prober
    client: ApiClient
    events: Events
    sources: SourceCache
    users: Users
    addresses: Addresses | None
    address: str
    clock: Callable[[], float]
    starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2 * (os.cpu_count() or 1)))
    services: Callable[[], Sequence[Object]] = tuple
    allocatable: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        return self.config.node.name

    @property
    def allowed(self) -> Allowed:
        """The configured folders, by their names and by what these lead to."""
        table = self.config.host_paths
        readable, writable = (
            tuple(dict.fromkeys(name for path in paths for name in (path, str(Path(path).resolve()))))
            for paths in (table.readable, table.writable)
        )
        return Allowed(readable, writable)

    @property
    def log_limits(self) -> LogLimits:
        return LogLimits(self.config.logs.bytes, self.config.logs.files)

    def api_server(self) -> tuple[str, int] | None:
        """What `KUBERNETES_SERVICE_HOST` says in pods; None: what the service says."""
        if self.config.node.api_server_variables == "service":
            return None
        return self.client.credentials.host_and_port

    def placement(self, addresses: tuple[str, ...]) -> Placement:
        return Placement(self.name, addresses, self.address, self.allocatable)

    def take_address(self) -> str:
        """Raises `RunnerError` when there is none left."""
        return self.address if self.addresses is None else self.addresses.take()

    def give_back_address(self, address: str) -> None:
        if self.addresses is not None:
            self.addresses.give_back(address)


def sandbox_program(config: Config) -> SandboxProgram:
    """Bubblewrap on Linux, sandbox-exec on macOS. Raises `ConfigurationError` where there is neither."""
    if sys.platform == "darwin":
        table = config.sandbox
        return Seatbelt(table.program or PROGRAM, table.metal, table.mount_points)
    found = config.sandbox.program or shutil.which("bwrap")
    if found is None or not Path(found).is_file():
        raise ConfigurationError(
            "bubblewrap (bwrap) is not installed, and without it no pod can be kept to itself: install the package "
            "`bubblewrap`, or name the program by sandbox.program"
        )
    return Bubblewrap(found)


def is_real_root() -> bool:
    """Whether this process can become any user: root, and not only root of a user namespace of one's own."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return False
    fields = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    return fields[:1] == ["0"] and int(fields[2]) == ALL_USERS


def taken_before(root: Path) -> tuple[set[str], set[int]]:
    """Addresses and users that pods of an earlier runner still hold."""
    known = [PodDirectory(root, uid).read() for uid in pod_uids(root)]
    return {k["address"] for k in known if k.get("address")}, {k["user"] for k in known if k.get("user") is not None}
