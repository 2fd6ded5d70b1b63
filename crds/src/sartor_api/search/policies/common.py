"""What the policies share: where to go on when a line has ended, and which places are used up."""

from collections import Counter
from collections.abc import Callable, Sequence

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
    elsewhere = _elsewhere(run)
    root = _roots(run, elsewhere)
    tries = Counter(root(r.plan.parent) for r in elsewhere if r.plan is not None)
    return tuple(sorted(places, key=lambda place: tries[root(place)] // run.spec.policy.plateau_rounds))


def _elsewhere(run: RunState) -> tuple[Round, ...]:
    """The rounds since the last gain that were built on something else than the incumbent."""
    number, commit = (run.best.round, run.best.commit) if run.best is not None else (0, run.base)
    return tuple(r for r in run.rounds if r.number > number and r.plan is not None and r.plan.parent != commit)


def _roots(run: RunState, elsewhere: Sequence[Round]) -> Callable[[str | None], str | None]:
    """From a candidate that came of these rounds to what they went on from; from any other to itself."""
    parents = run.parents
    young = {a.implementation.commit for r in elsewhere for a in r.attempts if a.implementation is not None}

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
