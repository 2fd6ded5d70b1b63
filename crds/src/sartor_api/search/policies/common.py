"""What the policies share: where to go on when a line has ended, and which places are used up."""

from sartor_api.search.directive import Mode
from sartor_api.search.state import RunState
from sartor_api.search.stretch import Stretch


def mode(run: RunState, now: Stretch) -> Mode:
    """What the escalation asks for at this level; before the first detection: go on."""
    steps = run.spec.policy.escalation
    return steps[min(now.level, len(steps)) - 1] if now.level and steps else Mode.EXPLOIT


def used_up(run: RunState) -> frozenset[str]:
    """Commits on which a planner has no hypothesis left."""
    return frozenset(
        r.plan.parent
        for r in run.rounds
        if r.plan is not None and r.plan.action == "stop" and r.plan.parent is not None
    )


def ways_back(run: RunState) -> tuple[str | None, ...]:
    """Where to go on off the incumbent's line, the most promising first: side branches by speed, then the line's earlier
    stacks, newest first, then the empty stack. Never the incumbent, nor what is used up."""
    best = run.best
    line = run.line(best.commit if best is not None else run.base)
    known = {one.commit for one in run.measured}
    side = sorted((one for one in run.measured if one.commit not in line), key=lambda one: -one.speedup.value)
    found = [*(one.commit for one in side), *(commit for commit in line[1:] if commit in known)]
    done = used_up(run)
    return (*(commit for commit in found if commit not in done), None)


def because(now: Stretch) -> str:
    """The detection in words."""
    if now.signal is None:
        return "no gain yet" if not now.rounds else f"{now.rounds} rounds since the last gain"
    return f"{now.signal.value} detected {now.rounds} rounds ago, step {now.level} of the escalation"
