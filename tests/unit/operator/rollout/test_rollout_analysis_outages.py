"""From lines in the logs of one or two gateways to the outage that a rollout is told of."""

import asyncio
import json
from pathlib import Path

import pytest
from analysis_parts import START, Sources, log_line, spec, unreadable

from sartor_operator.rollout.analysis.agenda import FORGET_SECONDS
from sartor_operator.rollout.analysis.analyst import Analyst
from sartor_operator.rollout.samples import ArmsAsked, Outage


def refused(service: str, at: float) -> str:
    """The record of a request whose connection was refused."""
    record = {
        "start_time": str(at), "upstream_cluster": f"a_{service}_8000", "upstream_host": "10.244.1.2:8000",
        "response_code": 503, "response_flags": "UF", "duration": 0,
        "response_code_details": "upstream_reset_before_response_started{remote_connection_failure}",
    }  # fmt: skip
    return json.dumps(record) + "\n"


class Scene:
    """Two gateways, each with its log, and a rollout that asks."""

    def __init__(self, folder: Path, gateways: int = 1) -> None:
        self.now, self.jumped = START, 0.0
        self.logs = [folder / f"access-{number}.log" for number in range(gateways)]
        for log in self.logs:
            log.write_text(log_line("other", START - 200))
        self.news: list[tuple[str, str, bool]] = []
        self.analyst = self.started()

    def started(self) -> Analyst:
        return Analyst(
            self.logs,
            Sources(unreadable),  # type: ignore[arg-type]
            changed=lambda *what: self.news.append(what),
            clock=lambda: self.now,
            now=lambda: self.now + self.jumped,
        )

    async def goes(
        self, seconds: float, *, out: str = "", at: int = 0, analyst: Analyst | None = None, **ready: bool
    ) -> Outage | None:
        """Ten requests a second and arm by the gateway `at`, `out` being out; the rollout asks all the time."""
        for _ in range(round(seconds * 2)):
            with self.logs[at].open("a") as file:
                for n in range(5):
                    for service in ("vllm", "stack"):
                        when = self.now + self.jumped + n / 10
                        file.write(refused(service, when) if service == out else log_line(service, when))
            self.now += 0.5
            await self.look(analyst, **ready)
        return await self.look(analyst, **ready)

    async def look(
        self, analyst: Analyst | None = None, *, source: str = "gatewayAccessLog", **ready: bool
    ) -> Outage | None:
        one = analyst or self.analyst
        arms = ArmsAsked("a", "editor", "u1", spec((source,)), **ready)
        one.outage(arms)
        await one.look()
        return one.outage(arms)


@pytest.mark.parametrize(("service", "arm"), [("stack", "candidate"), ("vllm", "baseline")])
def test_a_lost_arm_is_told_of_before_everything_else_and_so_is_its_return(
    tmp_path: Path, service: str, arm: str
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        assert await scene.goes(60) is None and scene.news == []
        found = await scene.goes(5, out=service)
        assert found is not None and found.arm == arm
        assert scene.news == [("a", "editor", True)]
        assert "2027-01-15T08:01:0" in found.message and "tried again after 2027-01-15T08:02:0" in found.message
        assert await scene.goes(1) is None, "it answers"
        assert scene.news == [("a", "editor", True)] * 2

    asyncio.run(story())


def test_time_alone_ends_an_outage_of_an_arm_without_traffic(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        assert await scene.goes(5, out="stack") is not None
        scene.now += 58.0
        assert await scene.look() is not None
        scene.now += 3.0
        assert await scene.look() is None
        assert scene.news == [("a", "editor", True)] * 2

    asyncio.run(story())


def test_a_new_process_comes_to_the_same_from_the_same_log(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        first = await scene.goes(5, out="stack")
        assert first is not None
        scene.now += 20.0
        again = scene.started()
        assert await scene.look(again) == first
        scene.now += 60.0
        assert await scene.look(again) is None

    asyncio.run(story())


def test_an_arm_that_answers_another_gateway_is_not_out(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, gateways=2)
        for _ in range(60):
            await scene.goes(0.5, at=0)
            await scene.goes(0.5, at=1)
        for _ in range(20):
            await scene.goes(0.5, at=0, out="stack")
            assert await scene.goes(0.5, at=1) is None

    asyncio.run(story())


def test_while_a_log_is_away_no_outage_begins(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, gateways=2)
        await scene.goes(60)
        scene.logs[1].unlink()
        scene.now += 40.0  # longer than a rotation
        await scene.goes(60)
        assert await scene.goes(10, out="stack") is None
        scene.logs[1].write_text("")
        scene.now += 2.0
        assert await scene.goes(5, out="stack") is not None

    asyncio.run(story())


def test_after_lines_were_lost_it_begins_from_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        assert await scene.goes(5, out="stack") is not None
        scene.logs[0].write_text("")
        assert await scene.goes(1, out="stack") is None

    asyncio.run(story())


def test_after_a_jump_of_the_clock_it_begins_from_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        assert await scene.goes(5, out="stack") is not None
        scene.jumped = -1000.0
        assert await scene.look() is None

    asyncio.run(story())


def test_an_arm_without_endpoints_is_believed_when_it_has_some_again(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        assert await scene.goes(5, out="stack") is not None
        await scene.look(candidate_ready=False)
        assert await scene.look() is None
        assert await scene.goes(0.5, out="stack") is not None, "and fails again"

    asyncio.run(story())


def test_who_does_not_name_the_log_is_told_of_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(60)
        assert await scene.goes(5, out="stack") is not None
        assert await scene.look(source="prometheus") is None

    asyncio.run(story())


def test_nothing_is_read_for_a_rollout_that_asks_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.goes(10)
        scene.now += FORGET_SECONDS + 1
        assert not await scene.analyst.look()

    asyncio.run(story())
