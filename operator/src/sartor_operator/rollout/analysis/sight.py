"""What the sources show of one step together: one window for all of them, and which of them nobody can see through.

The window begins where all are known (a log that was cut off, a probe that began anew void what was before) and ends where
the least of them has been read to. A source that gives nothing new does not hold the others up: the window then ends with
those that do, so that a regression that they show is still seen. Once it has been silent for `SILENT_SECONDS` nothing but
such a regression is concluded any more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sartor_operator.rollout.verdict.integrity import STALE_AFTER
from sartor_operator.rollout.verdict.samples import ArmSamples, Observed, Source

SILENT_SECONDS = STALE_AFTER
NOTHING = ArmSamples()


@dataclass(frozen=True, slots=True)
class SourceState:
    """What one source has of one step, and how it is read. Times are Unix seconds.

    `since`: everything from then on is in the samples. `read_until`: up to when; None while it was never read. `trouble`:
    why the newest attempt to read it failed, in a sentence; `lasting`: no time heals that.
    """

    source: Source
    since: float = 0.0
    read_until: float | None = None
    trouble: str = ""
    lasting: bool = False
    baseline: ArmSamples = NOTHING
    candidate: ArmSamples = NOTHING


@dataclass(frozen=True, slots=True)
class Sight:
    """`observed` None: no source shows anything. `silent`: a sentence for each source that is not to be waited for."""

    observed: Observed | None
    silent: tuple[str, ...] = ()


def together(states: Sequence[SourceState], *, since: float, begun: float, now: float) -> Sight:
    """All sources of a step. `since`: its samples count from then on; `begun`: when somebody began to read for it."""
    known = [s for s in states if s.read_until is not None]
    current = [s for s in known if _is_current(s, now)]
    silent = tuple(_sentence(s, begun, now) for s in states if s not in current and _is_silent(s, begun, now))
    if not current:
        return Sight(None, silent)
    begin = max(since, *(s.since for s in known))
    until = min(s.read_until for s in current if s.read_until is not None)
    observed = Observed(
        baseline=_joined(s.baseline for s in known),
        candidate=_joined(s.candidate for s in known),
        since=begin,
        read_until=max(begin, until),
    )
    return Sight(observed, silent)


def _is_current(state: SourceState, now: float) -> bool:
    return not state.trouble and state.read_until is not None and now - state.read_until <= SILENT_SECONDS


def _silent_for(state: SourceState, begun: float, now: float) -> float:
    return now - max(begun, state.read_until if state.read_until is not None else begun)


def _is_silent(state: SourceState, begun: float, now: float) -> bool:
    return state.lasting or _silent_for(state, begun, now) > SILENT_SECONDS


def _sentence(state: SourceState, begun: float, now: float) -> str:
    why = state.trouble or "it can be read, and has nothing new"
    if state.lasting:
        return f"{state.source}: {why}"
    return f"{state.source}: nothing for {_silent_for(state, begun, now):.0f} s: {why}"


def _joined(arms: Iterable[ArmSamples]) -> ArmSamples:
    every = list(arms)
    return ArmSamples(
        requests=[sample for arm in every for sample in arm.requests],
        scrapes=[scrape for arm in every for scrape in arm.scrapes],
    )
