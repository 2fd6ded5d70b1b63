"""The state of one probe of one container: when it is due, and what its results mean.

Specification: kubelet `prober/worker.go`. Readiness begins as failed, liveness as passed, startup as unknown. While a
startup probe has not passed, the others do not run; once it has, it does not run again. A result counts once its
threshold of consecutive results is reached.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from sartor_runner.core.pod import Container, Probe


class Kind(StrEnum):
    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(frozen=True)
class ProbeState:
    """`passed` is what holds now (None: nothing yet); `last` and `count` are the newest result and how often it came in a
    row; `held`: the container is being stopped because of this probe, so it does not run any more."""

    attempt: int
    passed: bool | None
    last: bool | None = None
    count: int = 0
    last_at: float | None = None
    running: bool = False
    held: bool = False


def initial(kind: Kind, attempt: int) -> ProbeState:
    """Before the first result of an attempt of the container."""
    return ProbeState(attempt, {Kind.STARTUP: None, Kind.LIVENESS: True, Kind.READINESS: False}[kind])


def of(container: Container) -> dict[Kind, Probe]:
    """The probes that the container has."""
    kinds = {Kind.STARTUP: container.startup, Kind.LIVENESS: container.liveness, Kind.READINESS: container.readiness}
    return {kind: probe for kind, probe in kinds.items() if probe is not None}


def due_at(state: ProbeState, probe: Probe, started_at: float) -> float:
    """When the probe is to run next."""
    first = started_at + probe.initial_delay
    return first if state.last_at is None else max(first, state.last_at + probe.period)


def begun(state: ProbeState, now: float) -> ProbeState:
    """The probe was sent."""
    return replace(state, running=True, last_at=now)


def recorded(state: ProbeState, kind: Kind, probe: Probe, passed: bool) -> ProbeState:
    """The state after one result."""
    count = state.count + 1 if state.last is passed else 1
    state = replace(state, last=passed, count=count, running=False)
    if count < (probe.success_threshold if passed else probe.failure_threshold):
        return state
    held = not passed and kind is not Kind.READINESS
    return replace(state, passed=passed, held=held, count=0 if held else count)
