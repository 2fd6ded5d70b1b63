"""What the core sees of the machine, and what it may ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sartor_runner.core.backoff import Backoff
from sartor_runner.core.pod import Json
from sartor_runner.core.probes import Kind, ProbeState

OOM_KILLED = "OOMKilled"
START_ERROR = "StartError"
STATUS_UNKNOWN = "ContainerStatusUnknown"


@dataclass(frozen=True)
class Run:
    """One attempt of one container. Not started yet: no `started_at`; ended: `exit_code` and `finished_at` are there.

    `reason` is set where the end has a cause of its own (`OOMKilled`, `StartError`, `ContainerStatusUnknown`).
    `stop_by`: it is being stopped and will be killed at that time.
    """

    attempt: int
    container_id: str
    image_id: str
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    stop_by: float | None = None
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def ended(self) -> bool:
        return self.exit_code is not None

    @property
    def running(self) -> bool:
        return self.started_at is not None and self.exit_code is None


@dataclass(frozen=True)
class Failure:
    """A container could not be created: what its waiting state shows, and since when."""

    reason: str
    message: str
    at: float


@dataclass(frozen=True)
class Verdict:
    """The node's decision that the pod ends (`Evicted`, `Terminated`, `OutOfcpu`, …)."""

    reason: str
    message: str


Setup: TypeAlias = Literal["absent", "pending", "ready", "removing", "removed"]


@dataclass(frozen=True)
class Observed:
    """Everything that `sync` may look at besides the pod.

    `setup` is the state of the pod's directory, volumes and address; `runs` hold the attempts that are still known, oldest
    first; `starting` names containers whose start is under way; `images` gives the image identity of each container
    whose image this node can run, `image_errors` the sentence for each that it cannot; `verdict` is why the node ends the
    pod; `gone`: the API no longer has the pod; `status` is the status last agreed upon with the API.
    """

    setup: Setup = "absent"
    setup_failed_at: float | None = None
    setup_retry_at: float = 0.0
    addresses: tuple[str, ...] = ()
    host_address: str = ""
    runs: Mapping[str, tuple[Run, ...]] = field(default_factory=dict[str, tuple[Run, ...]])
    starting: frozenset[str] = frozenset()
    failures: Mapping[str, Failure] = field(default_factory=dict[str, Failure])
    image_errors: Mapping[str, str] = field(default_factory=dict[str, str])
    images_since: float = 0.0
    probes: Mapping[tuple[str, Kind], ProbeState] = field(default_factory=dict[tuple[str, Kind], ProbeState])
    refresh_at: float | None = None
    verdict: Verdict | None = None
    gone: bool = False
    deleting: bool = False
    status: Json = field(default_factory=dict[str, object])

    def latest(self, name: str) -> Run | None:
        runs = self.runs.get(name)
        return runs[-1] if runs else None

    def any_running(self) -> bool:
        return bool(self.starting) or any(not run.ended for runs in self.runs.values() for run in runs)


@dataclass(frozen=True)
class SetUp:
    """Give the pod its directory, volumes and address."""


@dataclass(frozen=True)
class TearDown:
    """Take volumes and address away; logs stay."""


@dataclass(frozen=True)
class Start:
    """Start this attempt; `backoff` is kept with it."""

    container: str
    attempt: int
    backoff: Backoff


@dataclass(frozen=True)
class Stop:
    """Stop the newest attempt: preStop hook, stop signal, and SIGKILL at `by`. A later one with an earlier `by` wins."""

    container: str
    attempt: int
    by: float
    message: str


@dataclass(frozen=True)
class Forget:
    """Remove what is left of an old attempt (its log too)."""

    container: str
    attempt: int


@dataclass(frozen=True)
class RunProbe:
    container: str
    attempt: int
    kind: Kind


@dataclass(frozen=True)
class Refresh:
    """Bring config maps, secrets, downward files and tokens up to date."""


@dataclass(frozen=True)
class Delete:
    """Nothing of the pod runs any more: let the API object go (grace 0, by UID)."""


@dataclass(frozen=True)
class Discard:
    """The API object is gone and nothing runs: remove what is on disk and end the worker."""


Action: TypeAlias = SetUp | TearDown | Start | Stop | Forget | RunProbe | Refresh | Delete | Discard


@dataclass(frozen=True)
class Decision:
    """`status` is the whole status that the pod should have; `wake` when to decide again without any event (None: never)."""

    actions: tuple[Action, ...]
    status: Json
    wake: float | None
