"""The slow reader's tries: one answer is enough, and a server that never gives it is refused."""

import asyncio
from typing import Any, cast

import pytest

from sartor_agents.judge import connections
from sartor_agents.judge.opening import Bench
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest

REQUEST = GenerationRequest("r", "c", "/v1/completions", {}, (1,), 16)


@pytest.mark.parametrize(
    ("answered", "asked", "passed"),
    [([True], 1, True), ([False, True], 2, True), ([False, False, True], 3, True), ([False] * 9, 3, False)],
)
def test_one_of_three_tries_is_enough(
    monkeypatch: pytest.MonkeyPatch, answered: list[bool], asked: int, passed: bool
) -> None:
    tries: list[bool] = []

    async def read(*_: Any) -> Check:
        tries.append(answered[len(tries)])
        reason = Reason.PASSED if tries[-1] else Reason.BAD_INPUT_CRASHED
        return Check(name="slow-reader", passed=tries[-1], reason=reason, message="")

    monkeypatch.setattr(connections, "_read_slowly", read)
    check = asyncio.run(connections.slow_reader(cast(Bench, None), REQUEST))
    assert (len(tries), check.passed) == (asked, passed)
