"""Access logs, Prometheus and HTTP as sources: what is read, and a sentence for everything that cannot be."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from analysis_parts import START, Sources, asked, log_line, spec, unreadable

from sartor_operator.rollout.analysis.access_logs import GONE_SECONDS, AccessLogs
from sartor_operator.rollout.analysis.fetch import Fetch, UnreadableError
from sartor_operator.rollout.analysis.prometheus import LONGEST_RANGE, PrometheusReader
from sartor_operator.rollout.records import Backend
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples

BASELINE, CANDIDATE = Backend("a", "vllm", 8000), Backend("a", "stack", 8000)
ARMS = {(BASELINE, ArmName.BASELINE): 0.0, (CANDIDATE, ArmName.CANDIDATE): 0.0}

# --- access logs ----------------------------------------------------------------------------------------------------


class Logs:
    """Two Envoys' logs, and a clock for both kinds of time."""

    def __init__(self, folder: Path, *, samples: int = 1000) -> None:
        self.now = START
        self.paths = [folder / "one.log", folder / "two.log"]
        self.logs = AccessLogs(self.paths, clock=lambda: self.now, now=lambda: self.now, samples=samples)
        self.logs.follow(ARMS)

    def write(self, number: int, *lines: str) -> None:
        with self.paths[number].open("a") as file:
            file.writelines(lines)

    def state(self, since: float = START) -> Any:
        self.logs.read()
        return self.logs.state(BASELINE, CANDIDATE, since)


def moments(arm: ArmSamples) -> list[float]:
    return sorted(s.arrival - START for s in arm.requests)


def test_several_logs_are_one_source(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, log_line("vllm", START - 60), log_line("vllm", START + 1), log_line("stack", START + 2))
    world.write(1, log_line("vllm", START - 30), log_line("vllm", START + 3), log_line("stack", START + 4))
    world.now = START + 10
    state = world.state(since=START - 100)
    assert (moments(state.baseline), moments(state.candidate)) == ([1, 3], [2, 4])
    assert state.since == pytest.approx(START - 29.9, rel=0, abs=0.01), (
        "before that the second one is not known to be whole"
    )
    assert state.read_until == START + 9.5 and state.trouble == ""


def test_a_log_that_is_not_there_leaves_nothing_known(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, log_line("vllm", START + 1))
    state = world.state()
    assert state.read_until is None and "two.log does not exist" in state.trouble
    world.write(1, "")
    world.now += 10
    assert world.state().trouble == "" and world.state().read_until == START + 9.5


def test_a_log_that_goes_away_is_missed_after_a_while(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, "")
    world.write(1, "")
    assert world.state().trouble == ""
    world.paths[1].unlink()
    assert world.state().trouble == "", "it may just be rotated"
    world.now += GONE_SECONDS + 1
    assert "two.log was there and does not exist any more" in world.state().trouble
    world.write(1, "")
    assert world.state().trouble == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, "")
    world.write(1, "")
    world.paths[1].chmod(0)
    assert "Permission denied" in world.state().trouble


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, "")
    world.paths[1].mkdir()
    state = world.state()
    assert "two.log: Is a directory" in state.trouble and state.read_until is None


def test_an_operator_without_a_log_says_so_at_once() -> None:
    state = AccessLogs([], clock=lambda: 0.0, now=lambda: 0.0).state(BASELINE, CANDIDATE, 0.0)
    assert state.lasting and "--access-log" in state.trouble


def test_what_nobody_asks_for_any_more_is_dropped(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    world.write(0, *(log_line("vllm", START + n) for n in range(20)))
    world.write(1, log_line("vllm", START - 10))
    world.now = START + 30
    world.state()
    world.logs.follow(dict.fromkeys(ARMS, START + 10))
    assert moments(world.state(since=START).baseline) == list(range(10, 20))
    assert world.state(since=START).since == START + 10


def test_memory_is_shared_among_what_is_followed(tmp_path: Path) -> None:
    world = Logs(tmp_path, samples=40)  # two arms in two files: ten each
    world.write(0, *(log_line("vllm", START + n) for n in range(30)))
    world.write(1, log_line("vllm", START - 10))
    world.now = START + 40
    state = world.state()
    assert moments(state.baseline) == list(range(20, 30)) and state.since == pytest.approx(
        START + 19.1, rel=0, abs=0.01
    )


def test_after_a_jump_of_the_clock_only_what_is_new_counts(tmp_path: Path) -> None:
    world = Logs(tmp_path)
    for number in (0, 1):
        world.write(number, log_line("vllm", START + 1), log_line("vllm", START + 2))
    world.now = START + 5
    world.state()
    world.now = START - 3600
    world.logs.begin_again()
    world.logs.follow(ARMS)
    world.state()
    world.now += 10
    world.write(0, log_line("stack", world.now - 1))
    state = world.state(since=0.0)
    assert (moments(state.baseline), moments(state.candidate)) == ([], [-3591]) and state.since == START - 3600


# --- HTTP -----------------------------------------------------------------------------------------------------------


async def _served(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str, **limits: Any) -> bytes:
    application = web.Application()
    application.router.add_post("/ask", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
    try:
        async with aiohttp.ClientSession() as session:
            bounds = {"seconds": 5.0, "longest": 1 << 20, "form": {"query": "up"}, **limits}
            return await Fetch(lambda: session).post(address, **bounds)
    finally:
        await runner.cleanup()


def served(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str = "/ask", **limits: Any) -> bytes:
    return asyncio.run(_served(handler, path, **limits))


def test_a_form_and_a_body_are_posted_as_such() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"type": request.content_type, "text": await request.text()})

    assert json.loads(served(echo)) == {"type": "application/x-www-form-urlencoded", "text": "query=up"}
    assert json.loads(served(echo, form=None, body="{}")) == {"type": "application/json", "text": "{}"}


def test_what_is_no_answer_is_a_sentence_that_shows_little() -> None:
    async def refuses(_request: web.Request) -> web.Response:
        return web.json_response({"status": "error", "error": "bad_data: " + "x" * 500}, status=400)

    async def secret(_request: web.Request) -> web.Response:
        return web.Response(text="token=hidden", status=500)

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:1/metadata")

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (3 << 20))

    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        return answer

    cases: list[tuple[Any, str, dict[str, Any]]] = [
        (refuses, "answered 400: bad_data: ", {}),
        (secret, "answered 500", {}),
        (elsewhere, "answered 302", {}),
        (slow, "did not answer within 0 s", {"seconds": 0.2}),
        (large, "more than 1 MiB", {}),
        (cut, "cannot be asked", {}),
    ]
    for handler, says, limits in cases:
        with pytest.raises(UnreadableError) as found:
            served(handler, **limits)
        assert says in str(found.value) and "hidden" not in str(found.value) and len(str(found.value)) < 400, says


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/ask", "ftp://127.0.0.1/ask", "prometheus:9090", "", "http://" + "a" * 300 + ".svc/"]
)
def test_an_address_where_nobody_answers(address: str) -> None:
    async def ask() -> bytes:
        async with aiohttp.ClientSession() as session:
            return await Fetch(lambda: session).post(address, seconds=2.0, longest=100, form={})

    with pytest.raises(UnreadableError, match="cannot be asked"):
        asyncio.run(ask())


# --- Prometheus -----------------------------------------------------------------------------------------------------

COUNTER = "envoy_cluster_upstream_rq_completed"


class Prometheus:
    """Counters of one gateway, scraped every five seconds."""

    def __init__(self) -> None:
        self.now = START + 60.0
        self.values: dict[tuple[str, str], dict[float, float]] = {}
        self.sources = Sources(self.answer)
        for arm in ("a_vllm_8000", "a_stack_8000"):
            self.values[arm, "g1"] = {START + t: 10.0 * t for t in range(-30, 61, 5)}
        self.reader = PrometheusReader(
            asked(spec(("prometheus",))),
            self.sources,
            now=lambda: self.now,
            clock=lambda: 0.0,
            since=START,  # type: ignore[arg-type]
        )

    def answer(self, _url: str, _question: Mapping[str, Any]) -> bytes:
        rows = [
            {
                "metric": {"__name__": COUNTER, "envoy_cluster_name": arm, "instance": gateway},
                "values": [[at, str(value)] for at, value in values.items()],
            }
            for (arm, gateway), values in self.values.items()
        ]
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}}).encode()

    def state(self) -> Any:
        asyncio.run(self.reader.poll())
        return self.reader.state()


def test_the_whole_step_is_asked_for_each_time() -> None:
    world = Prometheus()
    state = world.state()
    assert (state.since, state.read_until, state.trouble) == (START, START + 60, "")
    assert [s.at for s in state.candidate.scrapes] == [START + t for t in range(0, 61, 5)]
    url, question = world.sources.questions[0]
    assert url == "http://prometheus.example:9090/api/v1/query" and question["query"].endswith("[75000ms]")
    assert "a_stack_8000" in question["query"].replace("\\\\", "")
    world.now += 30
    world.state()
    assert world.sources.questions[1][1]["query"].endswith("[105000ms]")


def test_a_counter_that_began_again_voids_what_was_before() -> None:
    world = Prometheus()
    world.values["a_stack_8000", "g1"] |= {START + t: float(t - 30) for t in range(35, 61, 5)}
    first = world.state()
    assert "began again" in first.trouble and first.read_until is None and first.since == START + 35
    second = world.state()
    assert (second.trouble, second.since, second.read_until) == ("", START + 35, START + 60)
    assert second.candidate.scrapes[0].at == START + 35


def test_a_gateway_that_came_later_voids_what_was_before() -> None:
    world = Prometheus()
    for arm in ("a_vllm_8000", "a_stack_8000"):
        world.values[arm, "g2"] = {START + t: 5.0 * t for t in range(40, 61, 5)}
    assert "came later" in world.state().trouble
    found = world.state()
    assert found.trouble == "" and found.since == START + 40
    assert found.candidate.scrapes[-1].requests == 10 * 60 + 5 * 60


def test_nothing_of_either_arm_is_a_sentence_with_their_names() -> None:
    world = Prometheus()
    world.values = {}
    state = world.state()
    assert state.read_until is None and "a_stack_8000 or a_vllm_8000" in state.trouble and "scrape" in state.trouble


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (unreadable, "it is away"),
        (lambda _u, _q: b"<html>", "no JSON"),
        (lambda _u, _q: b'{"status": "error", "error": "query timed out"}', "query timed out"),
        (lambda _u, _q: b'{"status": "success", "data": {"resultType": "vector", "result": []}}', "vector"),
        (lambda _u, _q: b"[]", "did not answer the query"),
    ],
)
def test_prometheus_down_or_wrong_is_a_sentence_and_what_is_known_stays_so(answer: Any, says: str) -> None:
    world = Prometheus()
    world.state()
    world.sources.answers = answer
    state = world.state()
    assert says in state.trouble and len(state.trouble) <= 500
    assert state.read_until == START + 60 and len(state.candidate.scrapes) == 13
    world.sources.answers = world.answer
    assert world.state().trouble == ""


def test_of_a_very_long_step_the_newer_half_counts() -> None:
    world = Prometheus()
    world.now = START + LONGEST_RANGE + 1
    for values in world.values.values():
        values.clear()
        values.update({world.now - t: 1e6 - t for t in range(10, -1, -5)})
    state = world.state()
    assert state.since == world.now - LONGEST_RANGE / 2 and state.read_until == world.now
    world.now += 100
    assert world.state().since == state.since, "and its begin stays for hours"
