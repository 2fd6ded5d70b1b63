"""Evidence that may be looked at as often as one likes.

For independent requests, and an assumed share g of hits, the *capital* of somebody who bets against g,

    M(g) = ∫ θ^k (1 − θ)^(n − k) dW(θ) / (g^k (1 − g)^(n − k)),

with W a fixed mixture of Beta distributions, is a martingale that begins at 1 if g is true (Robbins, Ann. Math. Stat. 41,
1970; the beta-binomial form that Howard & Ramdas, *Sequential estimation of quantiles with applications to A/B testing and
best-arm identification*, Bernoulli 28(3), 2022, use for quantiles, after Howard, Ramdas, McAuliffe & Sekhon, Ann. Stat.
49(2), 2021). By Ville's inequality (1939) it *ever* reaches 1/α with probability at most α. So ln M is evidence in nats: one
may look after every request and stop at will (Grünwald, de Heide & Koolen, *Safe testing*, JRSS B 86, 2024).

Two arms are independent, so the product of their capitals is one capital against a pair of shares. Against a claim that
many pairs fulfil ("the candidate's errors are at most 0.1 points above the baseline's") counts the least capital over all
these pairs: whichever of them is true, its capital, and hence the least, stays below 1/α. No nuisance parameter is
estimated.

Canaries were decided by such tests before: Lindon, Sanden & Shirikian, *Rapid regression detection in software deployments
through sequential testing*, KDD 2022.

All of this is exact for independent requests. They are not, and counts are divided by their dispersion first
(`dispersion.py`), which makes it asymptotic: that the promise holds then is shown by simulation
(`benchmarks/rollout_verdict.py`).
"""

import math
from collections.abc import Callable
from functools import lru_cache

_ABSTAIN = 0.25
"""Share of the capital that is never bet: no arm's evidence falls below ln 0.25, however little it has to say."""
_GOLDEN = (math.sqrt(5) - 1) / 2


class Mixture:
    """A fixed mixture of Beta distributions over a share, each of the same weight; the rest is not bet."""

    def __init__(self, *parameters: tuple[float, float]) -> None:
        weight = math.log((1 - _ABSTAIN) / len(parameters))
        self._parts = [(a, b, weight - _log_beta(a, b)) for a, b in parameters]

    def log_marginal(self, hits: float, n: float) -> float:
        """ln of ∫ θ^hits (1 − θ)^(n − hits) dW(θ) of the part that is bet."""
        logs = [part + _log_beta(a + hits, b + n - hits) for a, b, part in self._parts]
        top = max(logs)
        return top + math.log(sum(math.exp(one - top) for one in logs))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


SHARES = Mixture(*((0.5, 0.5 * (1 - mean) / mean) for mean in (0.0005, 0.005, 0.05, 0.5)))
"""For shares that nobody knows beforehand: from 1 in 2000 to 1 in 2."""


@lru_cache
def around(share: float) -> Mixture:
    """For alternatives near `share`: coarse ones that a few hits find, fine ones that many hits tell from it."""
    return Mixture(*((hits, hits * (1 - share) / share) for hits in (0.5, 5.0, 50.0)))


class Bet:
    """The capital of one arm, `hits` of `n` requests (already divided by their dispersion), against any share."""

    def __init__(self, hits: float, n: float, mixture: Mixture) -> None:
        self._hits, self._n = hits, n
        self._marginal = mixture.log_marginal(hits, n)

    def against_at_least(self, share: float) -> float:
        """Nats against "the share of hits is `share` or more"."""
        return self._against(max(share, self._observed))

    def against_at_most(self, share: float) -> float:
        """Nats against "the share of hits is `share` or less"."""
        return self._against(min(share, self._observed))

    @property
    def _observed(self) -> float:
        return self._hits / self._n if self._n > 0 else 0.0

    def _against(self, share: float) -> float:
        likelihood = _times_log(self._hits, share) + _times_log(self._n - self._hits, 1 - share)
        if likelihood == -math.inf:
            return math.inf
        bet = self._marginal - likelihood
        return max(bet, 0.0) + math.log(_ABSTAIN * math.exp(-max(bet, 0.0)) + math.exp(min(bet, 0.0)))


def _times_log(count: float, share: float) -> float:
    """count · ln(share), 0 for none."""
    if count <= 0:
        return 0.0
    return count * math.log(share) if share > 0 else -math.inf


def least(function: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function on [low, high], by golden-section search (Kiefer, Proc. AMS 4, 1953)."""
    best = min(function(low), function(high))
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(25):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = function(b)
    return min(best, at_a, at_b)
