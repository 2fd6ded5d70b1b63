"""What a synthesis tells of its rollouts: one Event when its stack is in place, when a rollout was made, and when it ended.

An Event is told while the status does not say so yet; its key makes it one, also for a process that was killed in between.
"""

from typing import Any

from sartor_api.conditions import ConditionType
from sartor_api.serving_rollout import RolloutPhase
from sartor_operator.actions import Tell
from sartor_operator.synthesis.delivery import Delivery
from sartor_operator.synthesis.observe import SynthesisObserved
from sartor_operator.synthesis.rollouts import unwatched
from sartor_operator.synthesis.status import shown_rollout
from sartor_operator.synthesis.traffic import RolloutSeen

_ENDS = (RolloutPhase.PROMOTED, RolloutPhase.ROLLED_BACK, RolloutPhase.FAILED)


def told_of_rollouts(observed: SynthesisObserved, delivery: Delivery | None) -> tuple[Tell, ...]:
    """The Events that are due."""
    status: dict[str, Any] = observed.manifest.get("status") or {}
    before: dict[str, Any] = status.get("rollout") or {}
    told: list[Tell] = []
    if observed.rolls_out and delivery is not None and not (delivery.missing or delivery.problem):
        there = any(
            c.get("type") == ConditionType.DELIVERED.value and c.get("status") == "True"
            for c in status.get("conditions") or ()
        )
        if not there and not observed.traffic.rejected(observed.content):
            text = f"the stack and its baseline are ready: content {observed.content[:12]}"
            told.append(Tell(observed.manifest, "Delivered", text, observed.content[:16]))
    shown = shown_rollout(observed)
    if shown is not None and shown.live and shown.name != before.get("name"):
        text = f"ServingRollout {shown.name} moves traffic from {shown.service('baseline')} to {shown.service('candidate')}"
        said = "; ".join(part for part in (text, unwatched(observed)) if part)
        told.append(Tell(observed.manifest, "RolloutCreated", said, shown.uid))
    followed = [r for r in observed.traffic.rollouts if r.name == before.get("name") or (r is shown and r.live)]
    told += [end for r in followed if (end := _ended(observed, r, before)) is not None]
    return tuple(told)


def _ended(observed: SynthesisObserved, rollout: RolloutSeen, before: dict[str, Any]) -> Tell | None:
    phase = rollout.status.phase
    if (
        phase is None
        or phase not in _ENDS
        or (rollout.name == before.get("name") and before.get("phase") == phase.value)
    ):
        return None
    text = f"ServingRollout {rollout.name}: {phase.value}: {rollout.status.message}"
    warning = phase is not RolloutPhase.PROMOTED
    return Tell(observed.manifest, "RolloutEnded", text, f"{rollout.uid}/{phase.value}", warning)
