"""The noise of a machine as a process in time, and what pairs of windows make of it.

Speed over time is the product of three parts. *Recorded*: the tokens per bin of a real stack under steady load on this
machine (`gates_noise`), put together from blocks that are long enough to keep what belongs together. *Modes*: two speeds of
the memory, 1.5 apart, each lasting tens of seconds; how much an arm feels them is a parameter, since an engine on one thread
hardly does. *Bursts*: stolen time, seconds long. Windows are cut out of that process where the evaluator would have
placed them, and each adds a scatter of its own, so that pairs scatter at least as real pairs of that length did.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BIN_SECONDS = 0.25
BLOCK_SECONDS = 60.0
RECORDED = Path(__file__).resolve().parents[1] / "data" / "gates_noise.json"

Series = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """`load`: whose recording. Means in seconds; 0 leaves a part out. `depth`: the share of the speed that a burst takes."""

    load: str = "chat"
    mode_seconds: float = 0.0
    mode_factor: float = 1.5
    burst_every: float = 0.0
    burst_seconds: float = 2.0
    depth: float = 0.5


@dataclass(frozen=True)
class Plan:
    """Where windows lie: `scored` seconds each, `idle` seconds (warm-up, drain) before each."""

    scored: float
    idle: float

    @property
    def pair_seconds(self) -> float:
        return 2 * (self.scored + self.idle)


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))["loads"]


@lru_cache(maxsize=8)
def speeds(load: str) -> Series:
    """The recorded speed of a load, bin by bin, 1 on average."""
    tokens = np.asarray(recorded()[load]["tokens"], dtype=np.float64)
    return tokens / tokens.mean()


def scatter(logs: Series) -> float:
    """Standard deviation of a normal distribution with the same quartiles: what the bulk of pairs scatters by."""
    low, high = np.quantile(logs, [0.25, 0.75])
    return float(high - low) / 1.349


@lru_cache(maxsize=64)
def own_scatter(load: str, plan: Plan) -> float:
    """What real pairs of about this length scatter by beyond pairs that are cut from the series, as standard deviation."""
    real = min(recorded()[load]["pairs"], key=lambda one: abs(math.log(one["pair_seconds"] / plan.pair_seconds)))
    cut = pairs(Noise(load), plan, 200, 10, np.random.default_rng(1), own=0.0).ravel()
    return math.sqrt(max(0.0, scatter(np.asarray(real["logs"])) ** 2 - scatter(cut) ** 2))


def machine_speed(noise: Noise, seconds: float, runs: int, rng: np.random.Generator) -> tuple[Series, Series]:
    """(speed without modes, log of the mode) of `runs` machines, bin by bin: arrays of shape (runs, bins)."""
    bins = math.ceil(seconds / BIN_SECONDS) + 1
    block = round(BLOCK_SECONDS / BIN_SECONDS)
    series = speeds(noise.load)
    starts = rng.integers(0, len(series), (runs, math.ceil(bins / block)))
    at = (starts[:, :, None] + np.arange(block)).reshape(runs, -1)[:, :bins] % len(series)
    speed = series[at]
    if noise.burst_every:
        speed = speed * (1 - noise.depth * _bursts(noise, runs, bins, rng))
    mode = np.zeros((runs, bins))
    if noise.mode_seconds:
        flips = rng.random((runs, bins)) < -math.expm1(-BIN_SECONDS / noise.mode_seconds)
        slow = (np.cumsum(flips, axis=1) + rng.integers(0, 2, (runs, 1))) % 2
        mode = -math.log(noise.mode_factor) * slow
    return speed, mode


def _bursts(noise: Noise, runs: int, bins: int, rng: np.random.Generator) -> Series:
    """1 within a burst, else 0: an alternating renewal process with exponential times."""
    start = -math.expm1(-BIN_SECONDS / noise.burst_every)
    end = -math.expm1(-BIN_SECONDS / noise.burst_seconds)
    draws = rng.random((bins, runs))
    on = rng.random(runs) < noise.burst_seconds / (noise.burst_seconds + noise.burst_every)
    shown = np.empty((bins, runs))
    for index in range(bins):
        on = np.where(on, draws[index] >= end, draws[index] < start)
        shown[index] = on
    return shown.T


def pairs(
    noise: Noise,
    plan: Plan,
    number: int,
    runs: int,
    rng: np.random.Generator,
    *,
    effect: float = 0.0,
    feels: tuple[float, float] = (1.0, 1.0),
    own: float | None = None,
    lots: bool = True,
) -> Series:
    """Log ratios candidate ÷ baseline of `number` pairs in each of `runs` measurements: shape (runs, number).

    `effect` is the log of the true ratio; `feels`: the power of the mode in the speed of (candidate, baseline). The arm that
    goes first is drawn by lot, or alternates. `own`: scatter of each pair beside the machine's (default: as measured).
    """
    speed, mode = machine_speed(noise, number * plan.pair_seconds + 1, runs, rng)
    begin = plan.pair_seconds * np.arange(number) + plan.idle
    early, late = begin, begin + plan.pair_seconds / 2
    swapped = rng.integers(0, 2, (runs, number)) == 1 if lots else np.tile(np.arange(number) % 2 == 1, (runs, 1))

    def rate(power: float, start: Series) -> Series:
        total = np.cumsum(speed * np.exp(power * mode), axis=1)
        return _at(total, start + plan.scored) - _at(total, start)

    rates = {power: (rate(power, early), rate(power, late)) for power in set(feels)}
    mine, theirs = rates[feels[0]], rates[feels[1]]
    candidate = np.where(swapped, mine[1], mine[0])
    baseline = np.where(swapped, theirs[0], theirs[1])
    width = own_scatter(noise.load, plan) if own is None else own
    return effect + np.log(candidate / baseline) + width * rng.standard_normal((runs, number))


def _at(total: Series, times: Series) -> Series:
    """Running totals at `times`, linear within a bin."""
    where = times / BIN_SECONDS
    whole = where.astype(int)
    return total[:, whole] + (where - whole) * (total[:, whole + 1] - total[:, whole])
