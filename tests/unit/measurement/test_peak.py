"""The sustainable peak: found on servers whose curve is known, never past what the service level or failures allow."""

import asyncio
from collections.abc import Callable

import pytest
from made_windows import sample

from sartor_agents.measurement.peak import Level, Peak, climb, level_of
from sartor_agents.measurement.slo import ServiceLevel
from sartor_agents.measurement.windows import StageRun
from sartor_agents.scenarios.base import Stage

SLO = ServiceLevel(ttft=1.0, attainment=0.99)


def sweep(curve: Callable[[int], Level], **options: int) -> tuple[Peak | None, list[int]]:
    asked: list[int] = []

    async def measure(concurrency: int) -> Level:
        asked.append(concurrency)
        return curve(concurrency)

    return asyncio.run(climb(measure, SLO, **options)), asked


def flat_from(knee: int) -> Callable[[int], Level]:
    """Tokens grow with concurrency up to the knee."""
    return lambda c: Level(c, 100.0 * min(c, knee), 1.0, 0)


@pytest.mark.parametrize("knee", [1, 2, 3, 5, 8, 12, 16, 33, 100])
def test_the_knee_of_the_curve_is_found(knee: int) -> None:
    peak, asked = sweep(flat_from(knee))
    assert peak is not None and peak.limited_by == "growth"
    # To within a step of 1.25, and 5 % of the plateau.
    assert knee / 1.3 <= peak.level.concurrency <= knee * 1.3
    assert len(asked) <= 24


@pytest.mark.parametrize("most", [1, 3, 6, 24, 40])
def test_the_service_level_ends_the_climb(most: int) -> None:
    peak, _ = sweep(lambda c: Level(c, 100.0 * c, 1.0 if c <= most else 0.98, 0))
    assert peak is not None and peak.limited_by == "serviceLevel"
    assert most / 1.3 <= peak.level.concurrency <= most
    assert peak.level.attainment == 1.0


def test_one_failure_is_not_sustained() -> None:
    peak, _ = sweep(lambda c: Level(c, 100.0 * c, 1.0, int(c > 10)))
    assert peak is not None and (peak.limited_by, peak.level.failed) == ("failures", 0)
    assert 8 <= peak.level.concurrency <= 10


def test_a_server_that_does_not_sustain_one_has_no_peak() -> None:
    assert sweep(lambda c: Level(c, 1.0, 0.5, 0))[0] is None
    assert sweep(lambda c: Level(c, 1.0, 1.0, 1))[0] is None


def test_a_slow_moment_does_not_end_the_climb() -> None:
    slow = iter([False, False, False, True])
    peak, asked = sweep(lambda c: Level(c, (0.4 if next(slow, False) else 1.0) * 100 * min(c, 32), 1.0, 0))
    assert peak is not None and peak.level.concurrency >= 24
    assert asked[:5] == [1, 2, 4, 8, 8]


def test_the_generator_s_own_limit_is_not_the_server_s() -> None:
    peak, _ = sweep(lambda c: Level(c, 100.0 * c, 1.0, 0, saturated=c > 20))
    assert peak is not None and peak.limited_by == "generator" and peak.level.concurrency <= 20


def test_a_server_without_limit_ends_at_the_highest() -> None:
    peak, _ = sweep(lambda c: Level(c, 100.0 * c, 1.0, 0), highest=64)
    assert peak is not None and (peak.level.concurrency, peak.limited_by) == (64, "highest")


def test_time_ends_the_climb_with_what_is_known() -> None:
    left = iter([True, True, False])

    async def run() -> Peak | None:
        async def measure(concurrency: int) -> Level:
            return Level(concurrency, 100.0 * concurrency, 1.0, 0)

        return await climb(measure, SLO, in_time=lambda: next(left))

    peak = asyncio.run(run())
    assert peak is not None and (peak.level.concurrency, peak.limited_by) == (4, "time")


def test_a_level_counts_only_tokens_of_requests_within_the_service_level() -> None:
    stage = Stage("peak-c2", "timed", ("peak-c2",), concurrency=2)
    good = sample(condition="peak-c2", scheduled=0.5)
    late = sample(condition="peak-c2", scheduled=-1.0)
    run = StageRun(stage, (good, late), 0.0, 4.0, warm=True)
    level = level_of(run, SLO, saturated=False)
    assert (level.concurrency, level.failed, level.attainment) == (2, 0, 0.5)
    assert level.good_tokens == pytest.approx(10 / 4) and level.goodput == pytest.approx(1 / 4)
