"""What the rounds since the last gain show: a plateau, thrashing, or nothing yet.

Two ways in which a search wastes its rounds, told by its records alone:

- **plateau**: `plateau_rounds` measured rounds in a row, each *shown* to gain less than the minimum effect. A round whose
  interval still allows a gain is no evidence of one, and begins the count anew.
- **thrashing**: `thrash_rounds` rounds in a row that brought nothing new to measure: a gate rejected the candidate in all
  its attempts, its content is that of an earlier one, or the plan went back to a place that was gone back to before.

Each time one of the two is complete the search escalates by one level and both counts begin anew; a gain ends it all.
What a level means is the policy's `escalation`.
"""

from dataclasses import dataclass
from enum import StrEnum

from sartor_api.search.comparison import flat
from sartor_api.search.state import Round, RunState


class Signal(StrEnum):
    """What was detected."""

    PLATEAU = "plateau"
    THRASHING = "thrashing"


@dataclass(frozen=True)
class Stretch:
    """The rounds since the last gain. `level` counts the detections, `signal` is the last one, `rounds` those since it."""

    level: int = 0
    signal: Signal | None = None
    rounds: int = 0


def stretch(run: RunState) -> Stretch:
    """Where the search stands since its last gain."""
    policy, best = run.spec.policy, run.best
    incumbent = best.speedup if best is not None else None
    closed = run.closed_in_order
    begun = next((i + 1 for i, r in enumerate(closed) if best is not None and r.number == best.round), 0)
    seen = {content for r in closed[:begun] if (content := _content(r)) is not None}
    returned: set[str | None] = set()
    level, signal, since, flat_ones, barren = 0, None, 0, 0, 0
    for current in closed[begun:]:
        since += 1
        again = _content(current) in seen or _went_back(current) in returned
        seen |= {content} if (content := _content(current)) is not None else set()
        returned |= {place} if (place := _went_back(current)) is not None else set()
        if current.speedup is not None:
            flat_ones = flat_ones + 1 if flat(current.speedup, incumbent, policy.minimum_effect) else 0
        if current.failure is not None or again:
            barren += 1
        elif current.speedup is not None:
            barren = 0
        found = None
        if flat_ones >= policy.plateau_rounds:
            found = Signal.PLATEAU
        elif policy.thrash_rounds is not None and barren >= policy.thrash_rounds:
            found = Signal.THRASHING
        if found is not None:
            level, signal, since, flat_ones, barren = level + 1, found, 0, 0, 0
    return Stretch(level, signal, since)


def exhausted(run: RunState) -> Signal | None:
    """What ends the search: a detection with no step of the escalation left, or None."""
    now = stretch(run)
    return now.signal if now.level > len(run.spec.policy.escalation) else None


def _content(current: Round) -> str | None:
    return current.implementation.content_hash if current.implementation is not None else None


def _went_back(current: Round) -> str | None:
    plan = current.plan
    return plan.parent if plan is not None and plan.action == "return" else None
