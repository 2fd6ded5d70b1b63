"""What each skill was worth in a run, from its records: read, used, rejected, and the gain where it came in.

The gain of a skill is taken from the rounds that *brought it in*: the candidate uses it and its parent does not. Both were
measured against the same baseline, so their ratio is the gain of that step (`state.gain`). A step that brought in several
skills counts for each of them; the mean over steps is geometric, and its interval is the mean of theirs on the log scale
(conservative: errors of different rounds are not assumed to cancel). A first stack has no parent and tells nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sartor_api.search.comparison import gain
from sartor_api.search.measured import Speedup
from sartor_api.search.state import Round, RunState


@dataclass(frozen=True)
class SkillEffect:
    """One skill: rounds whose planner read it, candidates that use it, those of them that a gate rejected, and its gain."""

    name: str
    consulted: int
    used: int
    rejected: int
    gain: Speedup | None


def skill_effects(run: RunState) -> tuple[SkillEffect, ...]:
    """All skills that a plan or a candidate named, by name."""
    rounds = run.rounds
    names = sorted({name for r in rounds for name in (*_consulted(r), *_used(r))})
    return tuple(
        SkillEffect(
            name=name,
            consulted=sum(name in _consulted(r) for r in rounds),
            used=sum(name in _used(r) for r in rounds),
            rejected=sum(name in _used(r) and r.failure is not None for r in rounds),
            gain=_mean([one for r in rounds if (one := _brought(name, r, run)) is not None]),
        )
        for name in names
    )


def pooled(runs: Iterable[Iterable[SkillEffect]]) -> tuple[SkillEffect, ...]:
    """The effects of several runs together, by name: counts are added, gains averaged over the runs that have one."""
    every = [one for effects in runs for one in effects]
    return tuple(
        SkillEffect(
            name=name,
            consulted=sum(one.consulted for one in found),
            used=sum(one.used for one in found),
            rejected=sum(one.rejected for one in found),
            gain=_mean([one.gain for one in found if one.gain is not None]),
        )
        for name in sorted({one.name for one in every})
        for found in [[one for one in every if one.name == name]]
    )


def _consulted(current: Round) -> tuple[str, ...]:
    return current.plan.skills_consulted if current.plan is not None else ()


def _used(current: Round) -> tuple[str, ...]:
    return current.implementation.skills_used if current.implementation is not None else ()


def _brought(name: str, current: Round, run: RunState) -> Speedup | None:
    """The gain of the round over its parent, if it is the one that brought the skill in."""
    plan, speedup = current.plan, current.speedup
    if plan is None or plan.parent is None or speedup is None or name not in _used(current):
        return None
    parent = next((r for r in run.rounds if r.implementation and r.implementation.commit == plan.parent), None)
    if parent is None or parent.speedup is None or name in _used(parent):
        return None
    return gain(speedup, parent.speedup)


def _mean(gains: list[Speedup]) -> Speedup | None:
    if not gains:
        return None

    def geometric(values: list[float]) -> float:
        return math.exp(sum(math.log(value) for value in values) / len(values))

    return Speedup(
        value=geometric([one.value for one in gains]),
        low=geometric([one.low for one in gains]),
        high=geometric([one.high for one in gains]),
        n=min(one.n for one in gains),
        confidence=min(one.confidence for one in gains),
    )
