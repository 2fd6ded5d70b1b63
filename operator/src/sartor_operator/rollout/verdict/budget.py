"""How often a verdict may be wrong, and how that is shared out.

With confidence 1 − α there are two promises, each with its own budget:

- *A rollout whose candidate keeps every bound is failed with probability at most α.* One false alarm anywhere is one too
  many, so α is shared over the bounds of all guardrails and over the steps that are judged (union bound). Half of a share
  goes to the test over the whole step, half to tests that begin later.
- *A step whose candidate breaks a bound passes with probability at most α.* A pass needs every bound to be shown, so the one
  that is broken must be mistaken: each may use all of α (intersection-union test, Berger, Technometrics 24, 1982).

A regression that begins in the middle of a step is diluted by all that went well before. Tests that begin later see it
undiluted, as e-detectors do (Shin, Ramdas & Rinaldo, *E-detectors: a nonparametric framework for sequential change
detection*, NEJSDS 2, 2024). One test begins on every mark of a grid; half of a grid's share goes evenly to the marks of the
first two hours, half to all marks that may ever come, 1/j(j + 1) of it to mark j. Of each grid only one test is looked at,
so that what is looked at is between one and two marks long.
"""

import math
from dataclasses import dataclass

from sartor_operator.rollout.verdict.reading import Window

GRIDS = (1, 4)
"""Lengths of time between the begins of later tests, in shortest windows of the bound."""
HORIZON = 7200.0
"""Seconds over which later tests are equally likely to be needed: `inconclusiveAfter` by default."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`alpha` 1 − confidence, `bounds` how many bounds the guardrails state, `steps` how many steps are judged."""

    alpha: float
    bounds: int
    steps: int

    @property
    def held(self) -> float:
        """Nats that show a bound to be kept."""
        return math.log(1 / self.alpha)

    @property
    def broken(self) -> float:
        """Nats that show a bound to be broken by the step as a whole."""
        return math.log(2 * self.bounds * self.steps / self.alpha)

    def tests(self, whole: Window, shortest: float) -> tuple[tuple[Window, float], ...]:
        """Windows that are looked at now, the whole step first, and the nats that show a bound to be broken in each.
        None before the step is as long as the shortest window (seconds): whatever happens until then may be one burst."""
        if whole.seconds < shortest:
            return ()
        found = [(whole, self.broken)]
        for grid in (shortest * times for times in GRIDS):
            mark = math.floor(whole.seconds / grid) - 1
            if mark >= 1:
                nats = self.broken - math.log(_share(mark, HORIZON / grid) / len(GRIDS))
                found.append((Window(whole.begin + mark * grid, whole.end), nats))
        return tuple(found)


def _share(mark: int, marks: float) -> float:
    """Of a grid's budget; the sum over all marks from 1 is at most 1."""
    return 0.5 / (mark * (mark + 1)) + (0.5 / marks if mark <= marks else 0.0)
