"""The sustainable peak: the highest concurrency at which more requests in flight still bring more good tokens.

The closed loop is swept upwards by doubling. A level is *sustained* when no request fails and the share of requests within
the service level is at least what the level asks for; it *grows* when the tokens per second of good requests rise by at
least `GROWTH` per doubling over the last level that did. The sweep ends at the first level that is not sustained, or does
not grow twice (once may be a slow moment of the machine), and the gap below it is halved until it is `FINE`. Where growth
ended it, a doubling may have reached over the knee, so the lowest level that gives as much is looked for below it: past the
peak a server only queues, latency rises and goodput does not. (Knee of the throughput curve, Kleinrock 1979; the service
level as in MLPerf inference's server scenario and DistServe.)

A ratio needs both arms at one load, so they are compared at the lower of the two peaks, which both sustain.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .slo import ServiceLevel
from .windows import StageRun

GROWTH = 1.05  # of good tokens per doubling of the concurrency
FINE = 1.25  # of one level to the next, where the sweep ends
HIGHEST = 1024
FIRST_OF_SWEEP = 1_000_000
"""Index of the sweep's first window: its prompts are not those of the pairs."""

Limit = Literal["serviceLevel", "failures", "growth", "generator", "time", "highest"]


@dataclass(frozen=True, slots=True)
class Level:
    """What one concurrency gave. `good_tokens` per second are those of requests within the service level."""

    concurrency: int
    good_tokens: float
    attainment: float
    failed: int
    goodput: float = 0.0
    saturated: bool = False


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest level that was sustained and grew, what ended the climb, and every level in the order of the sweep."""

    level: Level
    limited_by: Limit
    levels: tuple[Level, ...]


def level_of(run: StageRun, objective: ServiceLevel, *, saturated: bool) -> Level:
    """What a window of one closed-loop stage says of its concurrency."""
    condition = run.stage.conditions[0]
    return Level(
        concurrency=run.stage.concurrency,
        good_tokens=run.good_tokens(objective),
        attainment=run.attainment(condition, objective),
        failed=sum(not sample.ok for sample in run.samples),
        goodput=run.goodput(condition, objective),
        saturated=saturated,
    )


async def climb(
    measure: Callable[[int], Awaitable[Level]],
    objective: ServiceLevel,
    *,
    highest: int = HIGHEST,
    in_time: Callable[[], bool] = lambda: True,
) -> Peak | None:
    """Sweep one arm; `measure` gives the level of a concurrency. None when one request at a time is not sustained."""
    levels: list[Level] = []

    async def look(concurrency: int) -> Level:
        level = await measure(concurrency)
        levels.append(level)
        return level

    best = await look(1)
    limit = _limit(best, None, objective)
    if limit is not None:
        return None
    above, limit = highest + 1, "highest"
    while best.concurrency < highest:
        if not in_time():
            return Peak(best, "time", tuple(levels))
        level, limited = await _try(look, min(2 * best.concurrency, highest), best, objective)
        if limited is not None:
            above, limit = level.concurrency, limited
            break
        best = level
    while above <= highest and above > FINE * best.concurrency and above - best.concurrency > 1 and in_time():
        middle = round(math.sqrt(best.concurrency * above))
        middle = min(max(middle, best.concurrency + 1), above - 1)
        level, limited = await _try(look, middle, best, objective)
        if limited is None:
            best = level
        else:
            above, limit = middle, limited
    if limit == "growth":
        best = await _lowest(look, best, levels, objective, in_time)
    return Peak(best, limit, tuple(levels))


async def _lowest(
    look: Callable[[int], Awaitable[Level]],
    top: Level,
    levels: Sequence[Level],
    objective: ServiceLevel,
    in_time: Callable[[], bool],
) -> Level:
    """The lowest level that gives as many good tokens as `top` but for `GROWTH`, to within `FINE`."""

    def as_good(level: Level) -> bool:
        return _limit(level, None, objective) is None and level.good_tokens * GROWTH >= top.good_tokens

    best = top
    below = max(
        (one.concurrency for one in levels if one.concurrency < top.concurrency and not as_good(one)), default=0
    )
    while best.concurrency > FINE * below and best.concurrency - below > 1 and in_time():
        middle = round(math.sqrt(max(1, below) * best.concurrency))
        level = await look(min(max(middle, below + 1), best.concurrency - 1))
        if as_good(level):
            best = level
        else:
            below = level.concurrency
    return best


async def _try(
    look: Callable[[int], Awaitable[Level]], concurrency: int, best: Level, objective: ServiceLevel
) -> tuple[Level, Limit | None]:
    """A level and what stops the climb at it. What does not grow is looked at twice, and the better look counts."""
    level = await look(concurrency)
    limit = _limit(level, best, objective)
    if limit == "growth":
        again = await look(concurrency)
        level = max(level, again, key=lambda one: one.good_tokens)
        limit = _limit(level, best, objective)
    return level, limit


def _limit(level: Level, best: Level | None, objective: ServiceLevel) -> Limit | None:
    if level.failed:
        return "failures"
    if level.attainment < objective.attainment:
        return "serviceLevel"
    if level.saturated:
        return "generator"
    if best is not None:
        doublings = math.log2(level.concurrency / best.concurrency)
        if level.good_tokens < best.good_tokens * GROWTH**doublings:
            return "growth"
    return None
