"""How a cluster is, as its supervisor tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sartor_devcluster.components import CONSEQUENCES


@dataclass(frozen=True)
class ComponentHealth:
    name: str
    phase: str
    """`running`, `waiting` (for its next start), `stopped` (on request) or `absent` (the cluster does without)."""
    pid: int | None
    restarts: int
    exit_code: int | None
    well: bool
    reason: str = ""
    """Why it is absent."""


@dataclass(frozen=True)
class Status:
    name: str
    running: bool
    ready: bool
    version: str
    source: str
    port: int | None
    supervisor_pid: int | None
    components: tuple[ComponentHealth, ...]

    def has(self, component: str) -> bool:
        """Whether the cluster has a component, well or not."""
        return any(c.name == component and c.phase != "absent" for c in self.components)

    def absent(self, component: str) -> str | None:
        """Why the cluster does without a component; None where it has it, and where it was not asked for one."""
        return next((c.reason for c in self.components if c.name == component and c.phase == "absent"), None)


def component_healths(answer: Mapping[str, Any]) -> tuple[ComponentHealth, ...]:
    """Those of a supervisor's answer to `status`."""
    return tuple(ComponentHealth(**component) for component in answer["components"])


def unwell(answer: Mapping[str, Any]) -> str:
    """What a cluster that is not ready lacks."""
    found = [
        f"{c.name} is {c.phase}" + ("" if c.phase != "running" else ", not well")
        for c in component_healths(answer)
        if not c.well and c.phase != "absent"
    ]
    return "; ".join(found) or "its first objects are not there yet"


def absences(answer: Mapping[str, Any]) -> dict[str, str]:
    """The reason of each component that the cluster does without."""
    return {c.name: c.reason for c in component_healths(answer) if c.phase == "absent"}


def without(component: str, reason: str) -> str:
    """A sentence for a person who has just started the cluster."""
    return f"without {component}, {CONSEQUENCES[component]}: {reason}"
