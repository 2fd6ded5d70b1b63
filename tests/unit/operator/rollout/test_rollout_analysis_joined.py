"""The analysis with what it meets: the real probe between two arms, and the operator's process around it."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from analysis_parts import asked, log_line, spec
from rollout_cluster import Cluster

from sartor_operator import shell
from sartor_operator.cli import parser
from sartor_operator.kinds import HTTP_ROUTE, ROLLOUT
from sartor_operator.rollout.analysis import Analyst
from sartor_operator.rollout.analysis.fetch import Fetch
from sartor_operator.rollout.analysis.probe import ProbeReader
from sartor_operator.rollout.samples import NoVerdicts
from sartor_operator.rollout.verdict.samples import Outcome

sys.path.insert(0, str(Path(__file__).parents[2] / "probe"))

from probe_world import World, says, sends, world

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
PROBED = spec(("probe",), analysis={"probe": {"share": "100%"}})


class Reader(ProbeReader):
    """A reader whose probe is not behind a Service."""

    address = ""

    @property
    def url(self) -> str:
        return self.address


def reader(w: World, now: float, **step: Any) -> Reader:
    made = Reader(asked(PROBED, probe="p", **step), Fetch(lambda: w.http), now=lambda: now, since=0.0)
    made.address = f"{w.control}/poll"
    return made


def test_what_the_real_probe_says_is_understood() -> None:
    async def story() -> None:
        async with world(says("a", "b", "c"), says("a", "b", "d")) as w:
            one = reader(w, time.time())
            assert await one.poll() > 0 and one.state().trouble == "", one.state().trouble
            assert (await w.poll(share=1.0)).share == 1.0, "and it learnt its share"
            for _ in range(3):
                assert await w.copy() == 202
            await w.records(6)
            await one.poll()
            state = one.state()
            ours, theirs = state.candidate.requests, state.baseline.requests
            assert len(ours) == len(theirs) == 3 and state.read_until is not None and state.trouble == ""
            assert {s.outcome for s in (*ours, *theirs)} == {Outcome.OK}
            assert [s.output_tokens for s in theirs] == [3, 3, 3] and all(s.gaps is not None for s in theirs)
            assert [s.agreed for s in ours] == [False] * 3
            assert all(s.fault is None and s.first_byte is not None for s in (*ours, *theirs))

    asyncio.run(asyncio.wait_for(story(), 60))


def test_an_arm_that_fails_is_seen_through_the_real_probe() -> None:
    async def story() -> None:
        async with world(says("a"), sends(BUSY)) as w:
            one = reader(w, time.time())
            await one.poll()
            assert await w.copy() == 202
            await w.records(2)
            await one.poll()
            (ours,), (theirs,) = one.state().candidate.requests, one.state().baseline.requests
            assert (ours.outcome, ours.reason, ours.failed) == (Outcome.FAILED, "503", True) and not theirs.failed

    asyncio.run(asyncio.wait_for(story(), 60))


# --- a rollout ------------------------------------------------------------------------------------------------------


class Traffic:
    """A cluster whose gateway writes its log, four requests a second by the weights, and a rollout that goes by it."""

    def __init__(self, log: Path, bad_from: int | None) -> None:
        self.log, self.bad_from = log, bad_from
        self.news: list[bool] = []
        policy = {
            "analysis": {"sources": ["gatewayAccessLog"], "minimumSamples": 50},
            "steps": [{"weight": 20, "hold": "2m"}, {"weight": 50, "hold": "2m"}],
        }
        self.cluster = Cluster(policy=policy, guardrails=[{"metric": "errorRate", "maximumRegression": "20%"}])
        self.restart()

    def restart(self) -> None:
        """The operator's process is a new one, which knows nothing."""
        self.cluster.process.stop()
        self.cluster.process = self.cluster.started()
        world: Any = self.cluster.world
        self.analyst = Analyst(
            [self.log], Fetch(lambda: pytest.fail("nothing is asked")), changed=self._changed,
            clock=lambda: world.now, now=lambda: world.now,
        )  # fmt: skip
        self.cluster.process.controller._verdicts = self.analyst

    def _changed(self, namespace: str, name: str, first: bool) -> None:
        self.news.append(first)
        self.cluster.process.keys[ROLLOUT, namespace, name] = None

    async def second(self) -> None:
        world = self.cluster.world
        _, candidate = self.cluster.weights() if world.all(HTTP_ROUTE) else (100, 0)
        bad = self.bad_from is not None and candidate >= self.bad_from
        with self.log.open("a") as file:
            for n in range(4):
                arm = "stack" if (int(world.now) * 4 + n) % 100 < candidate else "vllm"
                status = 503 if bad and arm == "stack" and n % 2 else 200
                file.write(log_line(arm, world.now + n / 4, status=status, namespace="team-a"))
        world.now += 1
        self.cluster.process.wake()
        await self.cluster.process.work()
        self.cluster.react()
        await self.analyst.look()

    async def until(self, *phases: str, seconds: int = 3600) -> None:
        for _ in range(seconds):
            await self.second()
            if self.cluster.status.get("phase") in phases:
                return
        raise AssertionError(self.cluster.status)


def test_a_good_candidate_is_promoted_by_what_the_log_says(tmp_path: Path) -> None:
    async def story() -> None:
        traffic = Traffic(tmp_path / "access.log", None)
        await traffic.until("Promoted")
        assert traffic.cluster.shares == [(100, 0), (80, 20), (50, 50), (0, 100)]
        assert True not in traffic.news

    asyncio.run(story())


def test_one_that_gets_bad_at_half_is_rolled_back_also_by_a_new_process(tmp_path: Path) -> None:
    async def story() -> None:
        traffic = Traffic(tmp_path / "access.log", 50)
        await traffic.until("Progressing")
        while traffic.cluster.status.get("step") != 2:
            await traffic.second()
        began = traffic.cluster.world.now
        for _ in range(60):
            await traffic.second()
        traffic.restart()
        await traffic.until("RolledBack")
        assert traffic.cluster.shares == [(100, 0), (80, 20), (50, 50), (100, 0)]
        assert traffic.cluster.world.now - began < 300 and traffic.news[-1] is True
        assert "error rate" in traffic.cluster.status["message"]

    asyncio.run(story())


# --- the operator's process -----------------------------------------------------------------------------------------


def test_the_logs_are_named_on_the_command_line() -> None:
    given = parser().parse_args(["run", "--access-log", "/var/log/one", "--access-log", "/var/log/two"])
    assert given.access_log == [Path("/var/log/one"), Path("/var/log/two")]
    assert parser().parse_args(["run"]).access_log == [] and given.probe_command == "sartor-probe"


def operator(**options: Any) -> shell.Operator:
    given: Any = type("Options", (), {"namespace": None, "access_logs": (), "verdicts": None, **options})()
    return shell.Operator(given)


def test_a_process_analyses_unless_it_is_given_verdicts() -> None:
    async def story() -> None:
        made = operator()
        found = made._verdicts(made._options)
        assert isinstance(found, Analyst) and len(made._tasks) == 1
        found.latest(asked())
        await asyncio.sleep(0.3)
        await made.stop()
        given = NoVerdicts()
        other = operator(verdicts=given)
        assert other._verdicts(other._options) is given and not other._tasks

    asyncio.run(story())


@pytest.mark.parametrize("first", [True, False])
def test_another_outcome_is_looked_at_at_once(first: bool) -> None:
    made = operator()
    for name in ("r1", "r2"):
        made.rollouts.add((ROLLOUT, "a", name))
    made._outcome_changed("a", "editor", first)
    taken = [asyncio.run(made.rollouts.take())[2] for _ in range(3)]
    assert taken == (["editor", "r1", "r2"] if first else ["r1", "r2", "editor"])
