"""What surrounds a window, read right before and right after it, and what of it makes the window no measurement.

A disturbance voids the pair of windows that it fell into; the pair is repeated and its reason is kept. Nothing that happens
around a window is ever recorded as a slow server. Readings cost milliseconds and fall outside of the load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from . import accelerators as devices
from . import clocks, contention, environment
from .accelerators import Accelerators, AcceleratorState, NoAccelerators
from .contention import Contention
from .foreign_traffic import ForeignTraffic
from .messages import Reason
from .policy import MeasurementPolicy

_HELD_BACK = 0.05  # share of a window in which the container's CPU limit may hold the load generator back


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment."""

    clocks: clocks.Clocks
    cpu: contention.CpuTimes | None
    identity: dict[str, JsonValue]
    throttled: float | None = None
    heat: int | None = None
    accelerators: tuple[AcceleratorState, ...] = ()


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Why a window does not count. `by` is the arm that did it, where that is known."""

    reason: Reason
    message: str
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Surrounded:
    """What became known of one window: who else used the processors, what disturbed it, how the devices were at its end.

    `energy_j`: what the devices used in it, joules. `device_bytes`: what the arm's processes held of their memory.
    """

    contention: Contention
    disturbances: tuple[Disturbance, ...] = ()
    accelerators: tuple[dict[str, JsonValue], ...] = ()
    energy_j: float | None = None
    device_bytes: int | None = None


@dataclass
class Surroundings:
    """Reads the machine. `pids` are the roots of the servers' process trees by arm; an arm that is not known is absent.

    Where a server's process is not known (it runs in another pod), what computes on an accelerator when the measurement
    begins is taken for ours; whatever comes later is foreign.
    """

    pids: Mapping[str, int] = field(default_factory=dict[str, int])
    arms: int = 1
    accelerators: Accelerators = field(default_factory=NoAccelerators)
    root: Path = Path("/")

    def __post_init__(self) -> None:
        self._present = frozenset[int]()
        self._origin: dict[str, JsonValue] | None = None
        if not self._all_known:
            self._present = devices.foreign(self.accelerators.state(), frozenset())

    @property
    def _all_known(self) -> bool:
        return len(self.pids) >= self.arms

    def read(self) -> Reading:
        """Everything now. The first reading is what the identity of the machine is held to."""
        reading = Reading(
            clocks=clocks.read(),
            cpu=contention.read(self.pids),
            identity=environment.identity(self.accelerators, root=self.root),
            throttled=environment.throttled_seconds(self.root),
            heat=environment.heat_events(self.root),
            accelerators=self.accelerators.state(),
        )
        if self._origin is None:
            self._origin = reading.identity
        return reading

    def between(self, before: Reading, after: Reading, *, arm: str) -> Surrounded:
        """What disturbed the window of `arm` that lies between two readings. Contention is judged by pair, elsewhere."""
        known = self._present | contention.tree_pids(self.pids.values())
        return Surrounded(
            contention.between(before.cpu, after.cpu, arm=arm, servers_known=self._all_known),
            tuple(disturbances(replace(before, identity=self._origin or before.identity), after, known=known)),
            tuple(state.as_record() for state in after.accelerators),
            devices.energy(before.accelerators, after.accelerators),
            devices.memory_of(after.accelerators, contention.tree_pids([self.pids[arm]])) if arm in self.pids else None,
        )


def disturbances(before: Reading, after: Reading, *, known: frozenset[int]) -> Sequence[Disturbance]:
    """Every rule that the window between two readings breaks. `known`: processes that may compute on an accelerator."""
    found: list[Disturbance] = []

    def note(reason: Reason, message: str | None) -> None:
        if message is not None:
            found.append(Disturbance(reason, message))

    note(Reason.CLOCK_STEPPED, clocks.stepped(before.clocks, after.clocks))
    note(Reason.FINGERPRINT_CHANGED, environment.changed(before.identity, after.identity))
    note(Reason.THROTTLED, _held_back(before, after))
    note(Reason.THROTTLED, devices.slowed(before.accelerators, after.accelerators))
    strangers = devices.foreign((*before.accelerators, *after.accelerators), known)
    if strangers:
        note(Reason.FOREIGN_PROCESS, f"{len(strangers)} processes that are not of the measurement use the accelerator")
    note(Reason.ACCELERATOR_FAULT, devices.faulty(before.accelerators, after.accelerators))
    return found


def strangers(traffic: ForeignTraffic | None, policy: MeasurementPolicy) -> Sequence[Disturbance]:
    """Whether others had the measured server work for them; nothing where that is not known."""
    if traffic is None or traffic.seconds <= 0:
        return ()
    received, sent = traffic.received / traffic.seconds, traffic.sent / traffic.seconds
    if received <= policy.maximum_foreign_received and sent <= policy.maximum_foreign_sent:
        return ()
    by = min(traffic.senders, default=None)
    whose = f", some of them the {by}'s" if by else ""
    return (Disturbance(Reason.FOREIGN_TRAFFIC, f"{traffic}{whose}", by),)


def _held_back(before: Reading, after: Reading) -> str | None:
    if before.throttled is not None and after.throttled is not None:
        seconds = after.throttled - before.throttled
        elapsed = after.clocks.monotonic - before.clocks.monotonic
        if seconds > _HELD_BACK * elapsed:
            return f"the container's CPU limit held the measurement back for {seconds:.2f} of {elapsed:.2f} s"
    if before.heat is not None and after.heat is not None and after.heat > before.heat:
        return f"processors throttled themselves for heat {after.heat - before.heat} times"
    return None
