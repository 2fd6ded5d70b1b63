"""The load generator knows when it is itself the limit."""

import asyncio
import time

import pytest
from made_windows import window

from sartor_agents.measurement.ceiling import measure
from sartor_agents.measurement.generator import GeneratorLoad, LoopWatch
from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.pairs import disturbed, saturation
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.samples import ErrorClass

POLICY = MeasurementPolicy()


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.alone
def test_a_blocked_loop_shows_as_lag_and_as_share() -> None:
    """Alone, as it is a share of time: what else runs would lower it."""

    async def run(block: float) -> GeneratorLoad:
        watch = LoopWatch()
        watch.start()
        for _ in range(4):
            await asyncio.sleep(0.03)
            busy(block)
        return watch.stop()

    idle, blocked = asyncio.run(run(0.0)), asyncio.run(run(0.1))
    assert blocked.lag >= 0.08 and blocked.cpu_share > 0.3
    assert idle.cpu_share < blocked.cpu_share


def test_loads_add_up() -> None:
    load = GeneratorLoad(1.0, 0.5, (0.1,)) + GeneratorLoad(3.0, 0.5, (0.3,), (2.0,))
    assert (load.cpu_share, load.lag, load.late) == (0.25, 0.3, 2.0)
    assert GeneratorLoad(0.0, 0.0).cpu_share == 0.0


@pytest.mark.parametrize(
    ("load", "refused"),
    [
        (GeneratorLoad(10, 3), False),
        (GeneratorLoad(10, 8.5), True),
        (GeneratorLoad(10, 1, (0.09,) * 100), False),  # the answer took 1 s: a tenth is allowed
        (GeneratorLoad(10, 1, (0.11,) * 100), True),
        (GeneratorLoad(10, 1, (), (0.11,) * 100), True),
        (GeneratorLoad(10, 1, (0.0,) * 100 + (5.0,)), False),  # one hiccup
    ],
)
def test_near_its_limit_a_window_is_void(load: GeneratorLoad, refused: bool) -> None:
    loaded = window(generator=load)
    assert (saturation(loaded, POLICY) is not None) is refused
    for pair in ((loaded, window()), (window(), loaded)):
        assert disturbed(*pair, POLICY)[0] is (Reason.GENERATOR_SATURATED if refused else None)


def test_requests_that_we_could_not_send_are_our_fault() -> None:
    assert disturbed(window(error=ErrorClass.GENERATOR), window(), POLICY)[0] is Reason.GENERATOR_SATURATED


@pytest.mark.alone
def test_at_its_ceiling_the_generator_would_be_refused() -> None:
    """The rule by CPU share and the ceiling by rate are one: against a server that costs nothing, windows are void."""
    result = measure(concurrency=16, seconds=0.5, chunks=128)
    assert result.requests_per_second > 10
    assert result.chunks_per_second == pytest.approx(128 * result.requests_per_second)
    assert result.cpu_share > 0.3
