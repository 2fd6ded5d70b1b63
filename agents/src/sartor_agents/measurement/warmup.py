"""Where the warm-up ends: read from the data, never assumed.

The scheme is Heidelberger and Welch's (*Operations Research* 31, 1983): test the series for an initial transient; while the
test finds one, discard another tenth; a series that has to lose more than half never settled, and more must be run. The test
is Geweke's (*Bayesian Statistics* 4, 1992) on means of batches, the first third against the last, with the scatter of the
last third alone, since a transient would hide in its own.

Two things are particular to serving. Only a *slow* start is a warm-up, so the test is one-sided; and a difference has to
matter (a tenth) as well as be significant, since short windows on a busy machine are noisy. MSER-5 was tried first: on 120
observations of noise without any transient its cut falls into the second half about one time in ten, far too often for a
rule that voids a pair of windows. And tokens come in lumps (a step of a batch, a verified draft): in a short window a third
may hold a lump more or less by its phase alone, whatever the scatter says, so fewer than three lumps are no difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BATCH = 5
SHORTEST = 4 * BATCH
_TENTHS = 6  # nothing, then 10 % … 50 % discarded
_MATTERS = 0.1
_SIGNIFICANT = 3.0  # standard errors, one-sided


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`cut` observations belong to the warm-up; `over` says whether the series settled at all."""

    cut: int
    over: bool


def settle(rates: Sequence[float], *, lump: float = 0.0) -> WarmUp:
    """Where `rates` (higher is faster, any unit, negative too) settles. Less than four batches never count as settled.

    `lump` is the least amount by which the sum of observations can differ (in a series of counts, what comes at once).
    """
    if len(rates) < SHORTEST:
        return WarmUp(0, over=False)
    count = len(rates) // BATCH
    batches = np.asarray(rates[: count * BATCH], dtype=np.float64).reshape(count, BATCH).mean(axis=1)
    for tenth in range(_TENTHS):
        cut = count * tenth // 10
        if not _slow_start(batches[cut:], lump / BATCH):
            return WarmUp(cut * BATCH, over=True)
    return WarmUp(count // 2 * BATCH, over=False)


def _slow_start(batches: npt.NDArray[np.float64], lump: float) -> bool:
    """Whether the first third of the batches is slower than the last, by enough to matter and beyond chance."""
    third = max(2, len(batches) // 3)
    first, last = batches[:third], batches[-third:]
    behind = float(last.mean() - first.mean())
    error = max(float(last.std(ddof=1)) * math.sqrt(2 / third), lump / third)
    return behind > _MATTERS * abs(float(last.mean())) and behind > _SIGNIFICANT * error


def token_rate_series(arrivals: Sequence[tuple[float, int]], start: float, end: float, bins: int) -> list[float]:
    """Tokens that arrived in each of `bins` equal parts of [start, end): the series on which a slow start shows."""
    if end <= start or bins < 1:
        raise ValueError(f"no series over [{start}, {end}) in {bins} bins")
    times = np.asarray([time for time, _ in arrivals], dtype=np.float64)
    tokens = np.asarray([n for _, n in arrivals], dtype=np.float64)
    series, _ = np.histogram(times, bins=bins, range=(start, end), weights=tokens)
    return [float(value) for value in series]


def usual_lump(series: Sequence[float]) -> float:
    """What comes at once in a series of counts: the median of the parts that hold anything; zero in an empty one."""
    filled = sorted(value for value in series if value > 0)
    return filled[len(filled) // 2] if filled else 0.0
