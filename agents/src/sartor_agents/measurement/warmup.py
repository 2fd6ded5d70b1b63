"""Where the warm-up ends: read from the data, never assumed.

MSER-5 (White, *An effective truncation heuristic for bias reduction in simulation output*, Simulation 69, 1997; batches of
five: White, Cobb & Spratt, WSC 2000): batch the series in fives, and cut where the standard error of what remains is least.
A cut in the second half means that the series never settled; more has to be run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BATCH = 5
SHORTEST = 4 * BATCH


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`cut` observations belong to the warm-up; `over` says whether the series settled at all."""

    cut: int
    over: bool


def mser5(series: Sequence[float]) -> WarmUp:
    """The truncation point of `series` (any unit). A series shorter than four batches is never called settled."""
    if len(series) < SHORTEST:
        return WarmUp(0, over=False)
    count = len(series) // BATCH
    batches = np.asarray(series[: count * BATCH], dtype=np.float64).reshape(count, BATCH).mean(axis=1)
    # For each cut d: sum of squared deviations of batches[d:] ÷ (count - d)², from suffix sums. Centring first keeps the
    # difference of squares accurate.
    centred = batches - batches.mean()
    left = np.arange(count, 0, -1, dtype=np.float64)
    total = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    errors = np.maximum(squares - total**2 / left, 0.0) / left**2
    # The last few batches always look steady: White's rule searches all but five of them.
    searched = max(1, count - 5)
    cut = int(np.argmin(errors[:searched]))
    return WarmUp(cut * BATCH, over=2 * cut <= count)


def token_rate_series(
    arrivals: Sequence[tuple[float, int]], start: float, end: float, bins: int
) -> npt.NDArray[np.float64]:
    """Tokens that arrived in each of `bins` equal parts of [start, end): the series on which a throughput warm-up shows."""
    if end <= start or bins < 1:
        raise ValueError(f"no series over [{start}, {end}) in {bins} bins")
    times = np.asarray([time for time, _ in arrivals], dtype=np.float64)
    tokens = np.asarray([n for _, n in arrivals], dtype=np.float64)
    series, _ = np.histogram(times, bins=bins, range=(start, end), weights=tokens)
    return np.asarray(series, dtype=np.float64)
