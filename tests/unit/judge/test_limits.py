"""Time limits of checks: what a server does is limited, what the reference takes is not charged to it."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

from chain_reference import ChainReference

from sartor_agents.judge.limits import timed
from sartor_agents.judge.opening import Bench
from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.messages import Check, CodeEditScenario, Endpoint, JudgeRequest, Reason
from sartor_agents.measurement.progress import silent
from sartor_agents.scenarios import open_scenario

LIMIT = 0.2
GOOD = Check(name="relation", passed=True, reason=Reason.PASSED, message="")


class SlowReference(ChainReference):
    def check(self, *asked: Any) -> Any:
        time.sleep(3 * LIMIT)
        return super().check(*asked)


def bench(model_dir: Path, **changes: Any) -> Bench:
    request = JudgeRequest(
        candidate=Endpoint(url="http://127.0.0.1:9"), model_dir=model_dir, scenario=CodeEditScenario(), seed="ab" * 32,
        output_dir=model_dir, request_timeout=LIMIT, **changes,
    )  # fmt: skip
    scenario, counter = open_scenario(request.scenario, model_dir, request.seed)
    client = LoadClient(request.candidate, model="m", counter=counter, request_timeout=LIMIT, stall_timeout=LIMIT)
    return Bench(request, scenario, counter, client, None, None, silent, SlowReference(model_dir))


def test_a_check_that_hangs_is_ended_and_says_so(chain_model: Path) -> None:
    async def hangs() -> Check:
        await asyncio.Event().wait()
        return GOOD

    check = asyncio.run(timed(bench(chain_model), "relation", hangs(), 1))
    assert (check.name, check.reason, check.passed) == ("relation", Reason.CHECK_TIMED_OUT, False)
    assert LIMIT <= check.seconds < 10 * LIMIT
    assert check.message == f"relation was not over after {LIMIT} s"


def test_all_checks_together_have_a_limit(chain_model: Path) -> None:
    judging = bench(chain_model, wall_clock=LIMIT)

    async def crawls() -> Check:
        await asyncio.sleep(0.6 * LIMIT)
        return GOOD

    async def twice() -> list[Check]:
        return [await timed(judging, "relation", crawls()) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first.passed and second.reason is Reason.CHECK_TIMED_OUT
    assert f"left of the {LIMIT} s" in second.message and "spec.budget.wallClock" in second.message


def test_the_time_of_the_reference_is_not_the_servers(chain_model: Path) -> None:
    judging = bench(chain_model)
    request = next(judging.scenario.stream(judging.scenario.stages[0], "accuracy", 0))

    async def refers() -> Check:
        await asyncio.sleep(LIMIT / 2)
        judging.check(request, cast(str, request.body["prompt"])[:20])
        await asyncio.sleep(LIMIT / 4)
        return GOOD

    check = asyncio.run(timed(judging, "relation", refers(), 1))
    assert check.passed and check.seconds > 3 * LIMIT
