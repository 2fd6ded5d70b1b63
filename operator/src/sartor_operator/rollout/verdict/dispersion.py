"""How much less a request says because its neighbours say the same: bursts, load, one stall that hits twenty streams.

A confidence sequence for independent requests is far too sure of itself here. The remedy is that of quasi-likelihood
(McCullagh & Nelder, *Generalized Linear Models*, 1989, §4.5) and of batch means (Flegal & Jones, Ann. Stat. 38, 2010): the
variance of counts in blocks of time over what independent requests would have is the *dispersion* φ, and n requests count
as n/φ. As nobody knows how long a burst lasts, blocks of several lengths are tried, and the least evidence counts.

φ is itself estimated, and from few blocks badly: a likelihood ratio whose scale is estimated is that of Student's t, so
E nats are worth ν/2·ln(1 + 2E/ν) with ν degrees of freedom, one less than there are blocks. That is hardly less than E
over half an hour, and a small part of it over a minute.

Clusters are a matter of time, so their size grows with an arm's rate; what both arms share is the correlation ρ within a
block, φ = 1 + (n − 1)·ρ for n requests in a block (Kish, *Survey Sampling*, 1965, §5.4). An arm with few hits cannot know
its own ρ, so each arm takes the other's as well, as far as that is sure.

One burst is one event, however many requests it spoils: with this correction no single burst ever decides.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLOCK_SECONDS = 5.0
"""The shortest block: about as long as a burst that an engine recovers from."""
LONGEST_BLOCK = 80.0
"""The longest block: what is correlated over longer times is not noise but how an arm is."""
FEWEST_BLOCKS = 8
"""Fewer tell nothing of a variance."""
_SURE = 2.0
"""Standard errors that are taken off a ρ before the other arm takes it."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Hits and events in consecutive blocks of time of `seconds` each, from the begin of the window."""

    hits: Sequence[float]
    events: Sequence[float]
    seconds: float = BLOCK_SECONDS


@dataclass(frozen=True, slots=True)
class Dispersion:
    """φ of both arms at one length of blocks, each at least 1, and the degrees of freedom ν that it was estimated with."""

    candidate: float
    baseline: float
    freedom: int

    def worth(self, nats: float) -> float:
        """What evidence is worth, its scale being estimated. Negative evidence stays what it is."""
        return nats if nats <= 0 else self.freedom / 2 * math.log1p(2 * nats / self.freedom)

    def needed(self, nats: float) -> float:
        """The evidence that is worth so much."""
        return nats if nats <= 0 else self.freedom / 2 * math.expm1(min(500.0, 2 * nats / self.freedom))


def dispersions(candidate: Blocks, baseline: Blocks | None) -> tuple[Dispersion, ...]:
    """At every length of blocks of which the window has enough; none where it is too short to know anything."""
    found: list[Dispersion] = []
    lengths = [candidate] if baseline is None else [candidate, baseline]
    while True:
        spreads = [_spread(blocks) for blocks in lengths]
        known = [spread for spread in spreads if spread is not None]
        if len(known) < len(spreads):
            return tuple(found)
        mine, theirs = known[0], known[-1]
        found.append(Dispersion(_phi(mine, theirs), _phi(theirs, mine), min(spread.freedom for spread in known)))
        if max(blocks.seconds for blocks in lengths) * 2 > LONGEST_BLOCK:
            return tuple(found)
        lengths = [_doubled(blocks) for blocks in lengths]


@dataclass(frozen=True, slots=True)
class _Spread:
    freedom: int
    phi: float
    size: float
    """Events in the block of an event, on average."""
    sure_rho: float


def _spread(blocks: Blocks) -> _Spread | None:
    filled = [(hits, events) for hits, events in zip(blocks.hits, blocks.events, strict=True) if events > 0]
    if len(filled) < FEWEST_BLOCKS:
        return None
    hits, events = sum(h for h, _ in filled), sum(e for _, e in filled)
    size = sum(e * e for _, e in filled) / events
    if not 0 < hits < events:
        return _Spread(len(filled) - 1, 1.0, size, 0.0)
    share = hits / events
    residual = sum((h - share * e) ** 2 for h, e in filled) / (share * (1 - share) * events)
    freedom = len(filled) - 1
    phi = residual * len(filled) / freedom
    if size <= 1.5:
        return _Spread(freedom, phi, size, 0.0)
    sure = phi - 1 - _SURE * math.sqrt(2 / freedom)
    return _Spread(freedom, phi, size, min(1.0, max(0.0, sure / (size - 1))))


def _phi(own: _Spread, lender: _Spread) -> float:
    return max(1.0, own.phi, 1 + (own.size - 1) * lender.sure_rho)


def _doubled(blocks: Blocks) -> Blocks:
    return Blocks(list(_pairs(blocks.hits)), list(_pairs(blocks.events)), 2 * blocks.seconds)


def _pairs(counts: Sequence[float]) -> Iterator[float]:
    """Sums of two neighbours; what is left over at the end is left out."""
    return (counts[i] + counts[i + 1] for i in range(0, len(counts) - 1, 2))
