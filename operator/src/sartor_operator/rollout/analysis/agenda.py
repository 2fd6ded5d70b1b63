"""Which steps are looked at, and when each is judged next.

A step is on the agenda while somebody asks for it, and is forgotten a minute after the last time. One is judged at a time,
the one that has waited longest, and all judging together takes at most a tenth of the time, so that the operator has the
rest.
"""

from dataclasses import dataclass

from sartor_operator.rollout.samples import Reading, StepAsked

FORGET_SECONDS = 60.0
"""A step that nobody asked for in so long is over, or its rollout is gone."""
LEAST_SECONDS = 1.0
"""Least time between two judgements of one step."""
REST = 10.0
"""A judgement that took t seconds is followed by none for this multiple of t, its own time included."""


@dataclass(slots=True)
class Followed:
    """One step. `begun` (Unix seconds): since when this process looks at it; `since`: samples count from then on, which is
    the step's begin or the end of what is void."""

    step: StepAsked
    begun: float
    since: float
    asked: float
    due: float
    reading: Reading


def outcome_of(reading: Reading) -> str:
    """What a rollout acts by: the verdict's outcome, `error` where there is only a reason, empty where nothing was said."""
    if reading.verdict is not None:
        return reading.verdict.outcome
    return "error" if reading.message else ""


class Agenda:
    """All times but `wall` are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._steps: dict[str, Followed] = {}
        """By the rollout's uid: a rollout has one step at a time."""
        self._rest_until = 0.0

    def ask(self, step: StepAsked, *, now: float, wall: float) -> Reading:
        """The newest reading of this very step; an empty one for a step that is new here."""
        known = self._steps.get(step.uid)
        if known is None or (known.step.number, known.step.since) != (step.number, step.since):
            known = Followed(step, begun=wall, since=step.since, asked=now, due=now, reading=Reading(begun=wall))
            self._steps[step.uid] = known
        known.step, known.asked = step, now
        return known.reading

    def live(self, now: float) -> list[Followed]:
        """Steps that were asked for lately; the others are forgotten."""
        self._steps = {u: f for u, f in self._steps.items() if now - f.asked <= FORGET_SECONDS}
        return list(self._steps.values())

    def next(self, now: float) -> Followed | None:
        """The step to judge now; None while there is none, or while judging has had its share of the time."""
        if now < self._rest_until:
            return None
        due = [f for f in self._steps.values() if f.due <= now]
        return min(due, key=lambda f: f.due, default=None)

    def judged(
        self, followed: Followed, reading: Reading | None, void_before: float | None, *, began: float, ended: float
    ) -> bool:
        """One judgement is done; None: it came to nothing. Returns whether the step has another outcome than before.

        What was forgotten or has become another step meanwhile is left alone.
        """
        took = max(0.0, ended - began)
        self._rest_until = began + REST * took
        followed.due = began + max(LEAST_SECONDS, REST * took)
        if void_before is not None:
            followed.since = max(followed.since, void_before)
        if reading is None or self._steps.get(followed.step.uid) is not followed:
            return False
        before, followed.reading = followed.reading, reading
        return outcome_of(before) != outcome_of(reading)
