"""An evolving set of candidates: tournament selection, mutation and recombination (Goldberg & Deb 1991 for the tournament).

The population is the best of all measured candidates, whether they were kept or not: a stack that is slower than the
incumbent can hold what the incumbent lacks. Speed is taken at the lower end of its interval, so that luck breeds less.
"""

import math
from random import Random

from sartor_api.search.directive import Directive, Mode
from sartor_api.search.policies.common import because, mode, used_up, ways_back
from sartor_api.search.state import Candidate, RunState
from sartor_api.search.stretch import Stretch

FOUNDERS = 3
"""Candidates that are made freely before selection begins."""
TOURNAMENT = 3
"""Members that are drawn; the fittest of them is the parent."""
RECOMBINE, EXPLORE = 0.3, 0.15
"""Shares of rounds that recombine two members, and that make a larger change of one."""
EXPLORE_ESCALATED = 0.5


def members(run: RunState) -> tuple[Candidate, ...]:
    """The population, the fittest first: one member for each content, those with nothing left to try left out."""
    done, seen = used_up(run), dict[str, Candidate]()
    for one in sorted(run.measured, key=lambda c: -math.log(c.speedup.low)):
        if one.commit not in done:
            seen.setdefault(one.content_hash, one)
    return tuple(seen.values())[: run.spec.policy.population]


def evolutionary(run: RunState, round_number: int, now: Stretch) -> Directive:
    """See the module."""
    rng = Random(f"{run.spec.seed}/evolutionary/{round_number}")
    alive, asked = members(run), mode(run, now)
    if len(run.measured) < FOUNDERS or not alive:
        return Directive(mode=Mode.EXPLORE, why=f"{len(run.measured)} of {FOUNDERS} founders are measured")
    if asked is Mode.RETURN:
        return Directive(mode=Mode.RETURN, parents=ways_back(run), why=f"fresh blood: {because(now)}")
    parent = _tournament(alive, rng)
    draw = rng.random()
    if draw < RECOMBINE and len(alive) > 1:
        partner = _tournament(tuple(one for one in alive if one is not parent), rng)
        why = f"round {parent.round} and round {partner.round} are recombined"
        return Directive(mode=Mode.RECOMBINE, parents=(parent.commit,), partner=partner.commit, why=why)
    wide = EXPLORE_ESCALATED if asked is Mode.EXPLORE else EXPLORE
    chosen = Mode.EXPLORE if draw < RECOMBINE + wide else Mode.EXPLOIT
    return Directive(mode=chosen, parents=(parent.commit,), why=f"round {parent.round} won its tournament")


def _tournament(alive: tuple[Candidate, ...], rng: Random) -> Candidate:
    """`alive` is in order of fitness, so the lowest place of those drawn wins."""
    return alive[min(rng.randrange(len(alive)) for _ in range(TOURNAMENT))]
