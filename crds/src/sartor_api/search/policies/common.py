"""What the policies share: where to go on when a line has ended, and which places are used up."""

from collections import Counter
from collections.abc import Callable

from sartor_api.search.directive import Mode
from sartor_api.search.state import Round, RunState
from sartor_api.search.stretch import Stretch


def mode(run: RunState, now: Stretch) -> Mode:
    """What the escalation asks for at this level; before the first detection: go on."""
    steps = run.spec.policy.escalation
    return steps[min(now.level, len(steps)) - 1] if now.level and steps else Mode.EXPLOIT


def line_mode(run: RunState, now: Stretch) -> Mode:
    """As `mode`, for policies that follow one line. A planner that has nothing left on the line says more than any count of
    rounds: after the first time it is asked for larger changes, then to go elsewhere."""
    asked, stops = mode(run, now), _stops(run)[run.base]
    if stops > 1:
        return Mode.RETURN
    return Mode.EXPLORE if stops and asked is Mode.EXPLOIT else asked


def used_up(run: RunState) -> frozenset[str]:
    """Commits on which a planner has no hypothesis left."""
    return frozenset(parent for parent in _stops(run) if parent is not None)


def _stops(run: RunState) -> Counter[str | None]:
    """How often a planner had no hypothesis left, by what it would have built on."""
    return Counter(r.plan.parent for r in run.rounds if r.plan is not None and r.plan.action == "stop")


def ways_back(run: RunState) -> tuple[str | None, ...]:
    """Where to go on off the incumbent's line, the most promising first: side branches by speed, then the line's earlier
    stacks, newest first, then the empty stack. Never the incumbent, nor what is used up.

    A place that was built on for as many rounds as make a plateau, without a gain, comes behind all that were built on for
    fewer, together with what was made from it since: a search that returns again and again gets everywhere in the end, and
    to a fresh start as well.
    """
    best = run.best
    line = run.line(best.commit if best is not None else run.base)
    known = {one.commit for one in run.measured}
    side = sorted((one for one in run.measured if one.commit not in line), key=lambda one: -one.speedup.value)
    found = [*(one.commit for one in side), *(commit for commit in line[1:] if commit in known)]
    done = used_up(run)
    places: list[str | None] = [*(commit for commit in found if commit not in done), None]
    root = _roots(run)
    tries = Counter(root(r.plan.parent) for r in _since_gain(run) if r.plan is not None)
    return tuple(sorted(places, key=lambda place: tries[root(place)] // run.spec.policy.plateau_rounds))


def _since_gain(run: RunState) -> tuple[Round, ...]:
    last = run.best.round if run.best is not None else 0
    return tuple(r for r in run.rounds if r.number > last)


def _roots(run: RunState) -> Callable[[str | None], str | None]:
    """From a candidate to what it goes back to that was there at the last gain, itself if it was."""
    parents = run.parents
    young = {a.implementation.commit for r in _since_gain(run) for a in r.attempts if a.implementation is not None}

    def root(place: str | None) -> str | None:
        while place in young:
            place = parents[place]
        return place

    return root


def because(now: Stretch) -> str:
    """The detection in words."""
    if now.signal is None:
        return "no gain yet" if not now.rounds else f"{now.rounds} rounds since the last gain"
    return f"{now.signal.value} detected {now.rounds} rounds ago, step {now.level} of the escalation"
