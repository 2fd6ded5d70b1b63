"""The load generator: open loop, timed from the scheduled moment, and what it calls answered, failed and cut."""

import asyncio
import itertools
import json
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiohttp import web

import sartor_demo
from sartor_demo.load import Load, outcome_of
from sartor_demo.slow import MOST_RUNS, RUNS, STANDS
from sartor_demo.traffic import SHORT_TOKENS, STREAM_TOKENS, Generator, Outcome, Plan, body, schedule

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
PLAN = Plan("http://127.0.0.1:1", "editor.example.com", "m", rate=100.0, seconds=0.2)


def taken(plan: Plan, count: int) -> list[float]:
    return [one.at for one in itertools.islice(schedule(plan), count)]


def test_a_seed_gives_the_same_requests_at_the_same_moments() -> None:
    first, again = (list(itertools.islice(schedule(PLAN), 50)) for _ in range(2))
    assert first == again
    assert list(itertools.islice(schedule(replace(PLAN, seed=2)), 50)) != first


def test_arrivals_are_independent_or_evenly_apart() -> None:
    assert taken(replace(PLAN, arrivals="fixed", rate=4.0), 3) == [0.25, 0.5, 0.75]
    gaps = [b - a for a, b in itertools.pairwise(taken(replace(PLAN, rate=5.0), 4000))]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert 0.18 < mean < 0.22, "five a second"
    assert 0.8 < variance / mean**2 < 1.2, "exponential: its deviation is its mean"


def test_streams_and_short_requests_are_mixed() -> None:
    many = list(itertools.islice(schedule(replace(PLAN, streams=0.3, outside=0.1)), 2000))
    streams = [one for one in many if one.stream]
    assert 500 < len(streams) < 700 and 130 < sum(one.outside for one in many) < 270
    assert {one.tokens for one in streams} == set(range(STREAM_TOKENS[0], STREAM_TOKENS[1] + 1))
    assert {one.tokens for one in many if not one.stream} == set(range(SHORT_TOKENS[0], SHORT_TOKENS[1] + 1))
    asked = next(body(PLAN, one) for one in many if one.outside)
    assert asked["truncate_prompt_tokens"] and "truncate_prompt_tokens" not in body(PLAN, many[0])


def test_streams_are_edits_with_a_prediction_and_short_requests_are_not() -> None:
    edits = (("def 0:", " a b"), ("return 1:", " c d"))
    plan = Plan(**json.loads(json.dumps(asdict(replace(PLAN, edits=edits)))))  # as the generator's process gets it
    many = list(itertools.islice(schedule(plan), 200))
    for one in many:
        asked = body(plan, one)
        if not one.stream:
            assert "prediction" not in asked and asked["prompt"] == one.prompt
            continue
        (following,) = (text for end, text in edits if asked["prompt"].endswith(f" {end}"))
        assert asked["prediction"] == {"type": "content", "content": following}
    assert len({one.prompt for one in many if one.stream}) > 90, "the beginning of a prompt is another one each time"
    assert {one.prediction for one in many if one.stream} == {" a b", " c d"}


async def whole(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    if not asked["stream"]:
        return web.json_response({"choices": [{"text": "x"}]})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Sartor-Handover": "baseline"})
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    await response.write(b"data: [DONE]\n\n")
    return response


async def breaks(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    assert request.transport is not None
    request.transport.abort()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    return response  # ends as HTTP wants it, and says nothing of its end


async def complains(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n')
    return response


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def starts_and_hangs(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    await asyncio.sleep(30)
    return response


async def refuses(_: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="no healthy upstream")


async def page(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server in a thread of its own, so that it is not slowed down by what is tested."""
    ready, done, where = Event(), Event(), list[str]()

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        where.append(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}")  # type: ignore[attr-defined]
        ready.set()
        while not done.is_set():
            await asyncio.sleep(0.02)
        await runner.cleanup()

    thread = Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(20)
        yield where[0]
    finally:
        done.set()
        thread.join(20)


def sent(plan: Plan) -> tuple[list[Outcome], dict[str, int]]:
    found: list[Outcome] = []

    async def main() -> dict[str, int]:
        generator = Generator(plan, found.append)
        await generator.run()
        return dict(generator.counts)

    return found, asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    ("answer", "streams", "result", "detail"),
    [
        (whole, 1.0, "answered", ""),
        (whole, 0.0, "answered", ""),
        (breaks, 1.0, "cut", "ClientPayloadError"),
        (endless, 1.0, "cut", "the stream has no end"),
        (complains, 1.0, "failed", "the stream has an error in it"),
        (refuses, 0.5, "failed", "HTTP 503: b'no healthy upstream'"),
        (page, 0.0, "cut", "the answer is no JSON"),
        (hangs, 0.5, "failed", "TimeoutError"),
        (starts_and_hangs, 1.0, "cut", "TimeoutError"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_answered_what_failed_and_what_was_cut(
    answer: Answer, streams: float, result: str, detail: str
) -> None:
    with serving(answer) as url:
        patience = 3.0 if answer in (hangs, starts_and_hangs) else 60.0  # only what hangs is to be given up
        found, counts = sent(replace(PLAN, url=url, streams=streams, timeout=patience))
    assert found and {one.result for one in found} == {result}
    assert all(one.detail.startswith(detail) for one in found), found[0].detail
    assert counts == {"sent": len(found), result: len(found)}
    assert len({one.id for one in found}) == len(found)
    if answer is whole:
        assert all((one.first is not None) == (streams == 1.0) == one.handover for one in found)
        assert all(one.first is None or one.first <= one.seconds for one in found)


def test_nobody_there_is_a_failure() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        found, counts = sent(replace(PLAN, url=f"http://127.0.0.1:{bound.getsockname()[1]}"))
    assert counts["failed"] == counts["sent"] == len(found) > 0


def test_a_server_that_stalls_is_asked_as_often_and_its_time_counts_from_the_scheduled_moment() -> None:
    """A closed loop would send one request in all; from the moment of sending none would look slow."""
    stalls = 0.6

    async def stalled(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(stalls)
        return await whole(request)

    plan = replace(PLAN, rate=50.0, seconds=0.41, arrivals="fixed")
    with serving(stalled) as url:
        found, _ = sent(replace(plan, url=url))
    assert len(found) == 20
    assert min(one.seconds for one in found) >= stalls

    class Late:
        """A clock that jumps ahead once, as if the generator had not been given the processor for a second."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self) -> float:
            self.calls += 1
            return asyncio.get_running_loop().time() + (1.0 if self.calls > 1 else 0.0)

    found = []
    with serving(whole) as url:
        asyncio.run(Generator(replace(plan, url=url, seconds=0.1), found.append, Late()).run())
    assert found and min(one.late for one in found) > 0.8 and min(one.seconds for one in found) > 0.8


def test_the_last_line_of_the_process_counts_also_when_it_is_ended_early() -> None:
    with serving(whole) as url:
        plan = {"url": url, "host": "h", "model": "m", "rate": 50.0, "seconds": 600.0, "streams": 0.5}
        process = subprocess.Popen(
            [sys.executable, "-m", "sartor_demo.traffic", json.dumps(plan)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        first = [json.loads(process.stdout.readline()) for _ in range(5)]
        process.stdin.close()
        lines = [json.loads(line) for line in process.stdout.read().splitlines()]
        assert process.wait(20) == 0
        process.stdout.close()
    outcomes = [*first, *lines[:-1]]
    assert {one["kind"] for one in outcomes} == {"Outcome"}
    assert lines[-1] == {
        "kind": "Counted", "sent": len(outcomes), "answered": len(outcomes), "failed": 0, "cut": 0,
    }  # fmt: skip


class FakeCluster:
    """Where commands run right here, and whose Gateway is the server."""

    def __init__(self, log: Path) -> None:
        self.access_log = log

    def enter(self, command: list[str]) -> list[str]:
        return command


def test_a_load_has_every_outcome_and_the_arm_that_the_gateway_wrote_when_it_is_stopped(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text('{"start_time": "1.0", "request_id": "of before"}\n')

    async def logged(request: web.Request) -> web.StreamResponse:
        answer = await whole(request)
        found = {
            "start_time": "1700000000.5",
            "request_id": request.headers["X-Request-Id"],
            "upstream_cluster": "team-a_stack_8000",
            "upstream_request_attempt_count": 1,
        }
        with log.open("a") as file:
            file.write(json.dumps(found) + "\n")
        return answer

    told: queue.Queue[dict[str, Any]] = queue.Queue()
    cluster: Any = FakeCluster(log)
    with serving(logged) as url:
        load = Load(cluster, replace(PLAN, url=url, rate=50.0, seconds=60.0), {"stack": "candidate"}, told.put)
        first = [told.get(timeout=20) for _ in range(10)]
        assert not load.failed()
        load.stop()
        load.stop()
    assert not load.failed()
    outcomes = [*first, *(told.get_nowait() for _ in range(told.qsize()))]
    assert outcomes.pop() == {
        "kind": "Counted", "sent": len(outcomes), "answered": len(outcomes), "failed": 0, "cut": 0,
    }  # fmt: skip
    for one in outcomes:
        load.seen.outcome(outcome_of(one))
    load.settle()
    assert load.seen.arms["candidate"].requests == len(outcomes) == load.seen.counts["answered"] >= 10
    assert (load.seen.unlogged, load.seen.duplicated, load.seen.arms["baseline"].requests) == (0, 0, 0)


def test_a_load_that_dies_is_noticed(tmp_path: Path) -> None:
    cluster: Any = FakeCluster(tmp_path / "access.log")
    load = Load(cluster, replace(PLAN, arrivals="fixed", rate=0.0), {}, lambda _: None)  # nobody can be asked so often
    deadline = time.monotonic() + 30
    while not load.failed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert load.failed()
    load.stop()


# --- what makes the planted stack slow --------------------------------------------------------------------------------

_COUNTS = """
import signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
while not stop:
    begun = time.process_time()
    while time.process_time() - begun < 0.01 and not stop: pass
    print("x", flush=True)
print("ended well", flush=True)
sys.exit(7)
"""


def _stopped(pid: int, seconds: float) -> float:
    """The share of the time that the kernel names the process as stopped; what else is computed here changes nothing."""
    looks: list[bool] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        looks.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        time.sleep(0.02)
    return sum(looks) / len(looks)


@pytest.mark.alone
def test_a_stack_is_slow_while_the_file_is_there_and_ends_as_it_would(tmp_path: Path) -> None:
    slow, brake = Path(sartor_demo.__file__).with_name("slow.py"), tmp_path / "slow"
    output = tmp_path / "output"

    with output.open("wb") as out:
        process = subprocess.Popen([sys.executable, str(slow), str(brake), sys.executable, "-c", _COUNTS], stdout=out)
        try:
            deadline = time.monotonic() + 20
            while not output.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.02)
            stack = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            free = _stopped(stack, 1.0)
            brake.touch()
            time.sleep(0.5)
            turn = STANDS + MOST_RUNS * RUNS  # it always has work
            braked = _stopped(stack, turn)
            brake.unlink()
            time.sleep(turn)
            again = _stopped(stack, 1.0)
            brake.touch()
            time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7, "its exit code is the stack's"
    assert output.read_bytes().endswith(b"ended well\n"), "also a stack that stands still is told to end"
    assert (free, again) == (0, 0)
    assert 0.2 < braked < 0.7, "a third of its time; one that has nothing to do stands for nearly all of it"


@pytest.mark.alone
def test_a_stack_without_work_stands_for_most_of_the_time(tmp_path: Path) -> None:
    """However fast it answers: a run is over as soon as nothing is left to do."""
    slow, brake = Path(sartor_demo.__file__).with_name("slow.py"), tmp_path / "slow"
    brake.touch()
    process = subprocess.Popen(
        [sys.executable, str(slow), str(brake), sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    try:
        time.sleep(0.5)
        stack = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        braked = _stopped(stack, 2 * (STANDS + RUNS))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert 0.85 < braked < 1, "nearly all of it"


def test_a_stack_that_a_signal_ended_says_so(tmp_path: Path) -> None:
    slow = Path(sartor_demo.__file__).with_name("slow.py")
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    done = subprocess.run([sys.executable, str(slow), str(tmp_path / "none"), *command], check=False)
    assert done.returncode == 128 + signal.SIGKILL
