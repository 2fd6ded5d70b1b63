"""What a human wants to be told: one Event for each thing that happened, whatever the number of looks at it."""

from sartor_operator import names
from sartor_operator.actions import Tell
from sartor_operator.rollout.doubt import Doubt
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position
from sartor_operator.rollout.progress import Next
from sartor_operator.rollout.route import Shape

_PERIOD = 600.0
"""Seconds within which the same trouble is told once."""


def events(
    observed: RolloutObserved, following: Next, shape: Shape | None, doubt: Doubt | None, now: float
) -> list[Tell]:
    """The Events of this look, oldest cause first."""
    told = [*_troubles(observed, shape, now), *_moves(observed, observed.position, following, doubt)]
    if following.mood == "stalled" and following.position.stage == "pending":
        told.append(_tell(observed, "Stalled", following.message, names.digest(following.message), warning=True))
    return told


def _troubles(observed: RolloutObserved, shape: Shape | None, now: float) -> list[Tell]:
    found: list[Tell] = []
    period, route = str(int(now // _PERIOD)), observed.route
    if route is not None and route.touched:
        text = (
            f"somebody else changed HTTPRoute {route.name}; it is put back. Stop whoever does that, or delete the "
            "rollout: its rules have one owner"
        )
        found.append(_tell(observed, "RouteChanged", text, period, warning=True))
    if shape is None or route is None or route.weights is None:
        return found
    for arm, seen, has, gets in (
        ("baseline", observed.baseline, route.weights.baseline, shape.baseline),
        ("candidate", observed.candidate, route.weights.candidate, shape.candidate),
    ):
        if seen.unreachable and has > 0 and gets == 0:
            text = f"the {arm}: {seen.unreachable}; its {has} % of the traffic go to the other arm"
            found.append(_tell(observed, "ArmUnreachable", text, f"{arm}/{period}", warning=True))
        elif not seen.alive and has > 0 and gets == 0:
            text = f"the {arm} has no ready endpoint any more; its {has} % of the traffic go to the other arm"
            found.append(_tell(observed, "ArmLost", text, f"{arm}/{period}", warning=True))
    return found


def _moves(observed: RolloutObserved, before: Position, following: Next, doubt: Doubt | None) -> list[Tell]:
    after = following.position
    found: list[Tell] = []
    if before.stage != after.stage:
        reason, warning = {
            "pending": ("RolloutWaits", False),
            "steps": ("RolloutStarted", False),
            "promoting": ("RolloutPromoting", False),
            "promoted": ("RolloutPromoted", False),
            "back": ("RolloutTurnedBack", True),
            "over": ("RolloutSuperseded", False) if after.handed_over else ("RolledBack", True),
        }[after.stage]
        found.append(_tell(observed, reason, following.message, f"{after.stage}/{before.step}", warning=warning))
    elif after.stage == "steps" and before.step != after.step:
        found.append(_tell(observed, "StepPassed", following.message, f"{before.step}/{after.step}"))
    elif after.stage == "steps" and before.step_started is None and after.step_started is not None:
        # Not by when: a process that died before that was stored is followed by one for which the step begins later.
        generation = 0 if observed.route is None else observed.route.generation
        found.append(_tell(observed, "StepStarted", following.message, f"{after.step}/{generation}"))
    if before.frozen_since is None and after.frozen_since is not None and doubt is not None:
        key = f"{doubt.reason}/{after.frozen_since:.0f}"
        found.append(_tell(observed, "RolloutFrozen", f"{doubt.reason}: {doubt.message}", key, warning=True))
    if before.frozen_since is not None and after.frozen_since is None and after.stage == before.stage:
        text = "what stood in the way is over; the rollout goes on"
        found.append(_tell(observed, "RolloutThawed", text, f"{before.frozen_since:.0f}"))
    return found


def _tell(observed: RolloutObserved, reason: str, message: str, key: str, *, warning: bool = False) -> Tell:
    return Tell(observed.manifest, reason, message, key, warning)
