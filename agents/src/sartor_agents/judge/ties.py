"""How many ties an honest server may have.

A tie excuses another token than the reference's. A server whose numbers are worse than its dtype explains would be excused
too often, so the excuses are counted. Take the server's error on the difference of the two best logits as normal around zero
with standard deviation σ. A position where the reference has them m apart then flips with probability Φ(−m/σ), so the flips
at given margins are a sum of independent, unequal coins: a Poisson binomial distribution (Hong, Computational Statistics &
Data Analysis 59, 2013). The budget is its quantile at 1 − `FALSE_ALARM`; the margins are the reference's own and cost the
server nothing to have many of.

σ is a third of the tie tolerance at that position: a tolerance is stated so that honest noise passes it in about one of a
thousand cases.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from .accuracy import AnswerVerdict

TOLERANCE_DEVIATIONS = 3.0
FALSE_ALARM = 1e-4


@dataclass(frozen=True, slots=True)
class TieBudget:
    """`flips` of `near` positions closer than the tolerance; `expected` of an honest server, and at most `allowed`."""

    flips: int
    near: int
    expected: float
    allowed: int
    probability: float
    """That an honest server has so many flips or more."""

    @property
    def kept(self) -> bool:
        return self.flips <= self.allowed


def tie_budget(answers: Iterable[AnswerVerdict]) -> TieBudget:
    """The budget over all answers together. Where no position has any tolerance nothing is near and nothing may flip."""
    verdicts = list(answers)
    flips = sum(verdict.flips for verdict in verdicts)
    positions = [
        (margin, tolerance)
        for verdict in verdicts
        for margin, tolerance in zip(verdict.margins, verdict.tolerances, strict=True)
        if margin < tolerance
    ]
    if not positions:
        # A flip without a near margin is one whose token is not the second best; there is no budget for it.
        return TieBudget(flips, 0, 0.0, 0, 0.0 if flips else 1.0)
    margins, tolerances = np.asarray(positions).T
    chances = norm.cdf(-margins * TOLERANCE_DEVIATIONS / tolerances)
    # P(at least k flips) for k = 0, 1, …; summed from the far end, where the terms are small.
    at_least = np.cumsum(poisson_binomial(chances)[::-1])[::-1]
    allowed = int(np.flatnonzero(at_least > FALSE_ALARM)[-1])
    return TieBudget(flips, len(positions), float(chances.sum()), allowed, float(at_least[flips]))


def poisson_binomial(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n + 1] probabilities of 0 … n successes of independent coins, one coin after the other.

    (`scipy.stats.poisson_binom` takes at most 63 coins.)
    """
    found = np.ones(1)
    for chance in chances:
        found = np.convolve(found, (1 - chance, chance))
    return found
