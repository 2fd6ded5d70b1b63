"""The probe over real connections: every copy is answered at once, and whatever comes back from an arm has its record."""

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from probe_world import HEAD, Answer, World, chunk, chunked, quiet, says, sends, sse, stream, world

from sartor_agents.probe import arms, server
from sartor_agents.probe.greedy import GENERATION_PATHS

ERROR = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_a_copy_becomes_a_pair_of_records() -> None:
    async def work() -> None:
        async with world(says("a", "b", "c"), says("a", "b", "c")) as w:
            before = time.time()
            pair = await w.pair(
                {"prompt": "p", "temperature": 1}, headers={"Authorization": "Bearer k", "X-Request-Id": "r"}
            )
            after = time.time()
            for name, one in pair.items():
                assert (one.outcome, one.reason, one.output_tokens, one.handed_over) == ("ok", "", 3, False), name
                assert one.first_token is not None and 0 < one.first_token <= one.duration < after - before
                assert one.gaps is not None and sum(count for _, count in one.gaps) == 2
                assert before <= one.arrival <= after
                assert one.bytes == len(sse(chunk("a"))) * 3 + len(
                    sse({"choices": [], "usage": {"completion_tokens": 3}}, "[DONE]")
                )
            assert (pair["candidate"].agreed, pair["baseline"].agreed) == (True, None)
            for one in (w.baseline, w.candidate):
                asked = one.asked[0]
                assert asked.line == "POST /v1/completions HTTP/1.1"
                assert asked.headers["authorization"] == "Bearer k"
                assert asked.headers["x-request-id"] != "r"
                assert (asked.body["temperature"], asked.body["cache_salt"]) == (0, "salt")

    run(work())


def test_another_answer_is_seen() -> None:
    async def work() -> None:
        async with world(says("a", "b"), says("a", "c")) as w:
            assert (await w.pair())["candidate"].agreed is False

    run(work())


def test_the_query_and_both_paths_go_through() -> None:
    async def work() -> None:
        async with world() as w:
            for path in sorted(GENERATION_PATHS):
                await w.pair(path=f"{path}?a=b%20c")
            assert [asked.line for asked in w.candidate.asked] == [
                f"POST {path}?a=b%20c HTTP/1.1" for path in sorted(GENERATION_PATHS)
            ]

    run(work())


def test_a_hand_over_is_seen_and_is_no_agreement() -> None:
    async def work() -> None:
        async with world(says("a"), says("a", headers=b"X-Sartor-Handover: baseline\r\n")) as w:
            pair = await w.pair()
            assert (pair["candidate"].handed_over, pair["candidate"].agreed) == (True, None)
            assert pair["baseline"].handed_over is False

    run(work())


JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 40\r\nconnection: close\r\n\r\n"
USAGE = sse({"choices": [], "usage": {"completion_tokens": 1}}, "[DONE]")
ONE = sse(chunk("a"))

OUTCOMES: dict[str, tuple[Answer, str, str]] = {
    "error status": (sends(ERROR), "failed", "503"),
    "client error": (sends(ERROR.replace(b"503", b"400")), "failed", "400"),
    "no content": (sends(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"), "failed", "204"),
    "error status cut": (sends(ERROR.replace(b"4\r", b"9\r"), then="reset"), "failed", "503"),
    "nothing at all": (sends(), "failed", "reset"),
    "reset": (sends(then="reset"), "failed", "reset"),
    "no HTTP": (sends(b"SSH-2.0-x\r\n\r\n"), "failed", "protocol"),
    "hangs": (sends(then="hang"), "failed", "timeout"),
    "hangs in the headers": (sends(HEAD, then="hang"), "failed", "timeout"),
    "hangs before text": (sends(stream(end=b""), then="hang"), "failed", "timeout"),
    "hangs in the stream": (sends(stream(ONE, end=b""), then="hang"), "cut", "timeout"),
    "hangs at the end": (sends(stream(ONE, USAGE, end=b""), then="hang"), "cut", "timeout"),
    "cut before text": (sends(stream(end=b""), then="reset"), "failed", "reset"),
    "cut": (sends(stream(ONE, b"data: {", end=b"")), "cut", "reset"),
    "cut in a chunk": (sends(stream(ONE, end=b"ff\r\ndata"), then="reset"), "cut", "reset"),
    "bad chunk": (sends(stream(ONE, end=b"zz\r\n")), "cut", "protocol"),
    "ends without [DONE]": (sends(stream(ONE)), "cut", "stream"),
    "empty stream": (sends(stream()), "failed", "stream"),
    "malformed": (sends(stream(b"data: {]\n\n", USAGE)), "failed", "stream"),
    "malformed later": (sends(stream(ONE, b"data: {]\n\n", USAGE)), "cut", "stream"),
    "error event": (sends(stream(sse({"error": {"code": 500}}, "[DONE]"))), "failed", "error"),
    "error event later": (sends(stream(ONE, sse({"error": "x"}))), "cut", "error"),
    "not streamed": (sends(JSON + json.dumps(chunk("a")).encode().ljust(40)), "failed", "protocol"),
    "too large": (sends(stream(end=b""), *[chunked(b"x" * 65536)] * 300), "failed", "large"),
    "endless headers": (sends(HEAD, *[b"x: " + b"y" * 65536 + b"\r\n"] * 300), "failed", "large"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_whatever_an_arm_does_has_its_record(name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, outcome, reason = OUTCOMES[name]

    async def work() -> None:
        async with world(says("a"), answer, timeout=5.0 if "hangs" in name else 60.0) as w:
            pair = await w.pair()
            one = pair["candidate"]
            assert (one.outcome, one.reason) == (outcome, reason)
            assert (one.agreed, one.output_tokens, one.gaps) == (None, None, None)
            assert one.duration < 30
            assert (one.first_token is None) == (outcome == "failed")
            assert pair["baseline"].outcome == "ok", "what one arm does is not the other's fault"
            w.candidate.answer = says("a")
            assert (await w.pair())["candidate"].agreed is True, "the next pair is none the worse"

    run(work())
    assert quiet(caplog.records)


def test_an_arm_that_is_not_there() -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            gone = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with world(candidate_url=gone) as w:
            one = (await w.pair())["candidate"]
            assert (one.outcome, one.reason, one.first_token) == ("failed", "connect", None)

    run(work())


def test_the_time_out_is_kept() -> None:
    async def work() -> None:
        async with world(says("a"), sends(stream(ONE, end=b""), then="hang"), timeout=0.5) as w:
            assert 0.5 <= (await w.pair())["candidate"].duration < 5
            async with asyncio.timeout(10):
                while not w.candidate.closed_by_client:  # the arm is not left at work
                    await asyncio.sleep(0.01)

    run(work())


def test_arms_are_asked_one_after_the_other_and_either_first() -> None:
    async def work() -> None:
        at_work = 0

        async def alone(writer: asyncio.StreamWriter, asked: Any) -> None:
            nonlocal at_work
            at_work += 1
            assert at_work == 1
            await asyncio.sleep(0.005)
            await says("a")(writer, asked)
            at_work -= 1

        async with world(alone, alone) as w:
            orders = [tuple(await w.pair()) for _ in range(40)]
            first = sum(order == ("baseline", "candidate") for order in orders)
            assert 8 <= first <= 32, "by chance: a fair coin lies outside once in 10,000"
            pages = await w.poll()
            assert [record.position for record in pages.records] == [1, 2] * 40
            assert all(record.outcome == "ok" for record in pages.records)

    run(work())


def test_copies_are_answered_at_once_and_only_so_many_are_at_work() -> None:
    async def work() -> None:
        release = asyncio.Event()

        async def slow(writer: asyncio.StreamWriter, asked: Any) -> None:
            await release.wait()
            await says("a")(writer, asked)

        async with world(slow, slow, concurrency=2) as w:
            begun = time.time()
            for _ in range(5):
                assert await asyncio.wait_for(w.copy(), 2) == 202
            page = await w.poll()
            assert (page.seen, page.chosen, page.dropped, page.records) == (5, 5, 3, ())
            assert begun <= page.complete_until < page.now, "two pairs are under way"
            release.set()
            records = await w.records(4)
            assert {record.pair for record in records} == {0, 1}
            page = await w.poll()
            assert page.complete_until == page.now, "none is under way any more"
            assert await w.copy() == 202
            assert (await w.records(6))[-1].pair == 2, "places are given back"

    run(work())


def test_what_is_not_a_generation_is_only_counted() -> None:
    async def work() -> None:
        async with world() as w:
            for method, path in (
                ("GET", "/v1/completions"),
                ("POST", "/v1/embeddings"),
                ("PUT", "/"),
                ("DELETE", "/%00/.."),
            ):
                assert await w.copy(method=method, path=path) == 202
            async with w.http.get(w.copies + "/health") as response:
                assert response.status == 200
            page = await w.poll()
            assert (page.seen, page.chosen) == (4, 0)
            assert not w.baseline.asked

    run(work())


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[" * 100_000, b"\x00\xff", b'{"use_beam_search": 1}'], ids=range(5)
)
def test_what_cannot_be_compared_is_unfit(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with world(concurrency=1) as w:
            assert await w.copy(body) == 202
            page = await w.poll()
            assert (page.chosen, page.unfit, page.dropped) == (1, 1, 0)
            await w.pair()  # the only place is free again

    run(work())
    assert quiet(caplog.records)


@pytest.mark.parametrize("coding", ["gzip", "br", "x"])
def test_a_compressed_body_is_unfit(coding: str) -> None:
    async def work() -> None:
        async with world() as w:
            assert await w.copy(gzip.compress(b"{}"), headers={"Content-Encoding": coding}) == 202
            assert (await w.poll()).unfit == 1

    run(work())


def test_a_body_that_is_too_large_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST_BODY", 100_000)

    async def work() -> None:
        async with world(concurrency=1) as w:
            assert await w.copy({"prompt": "x" * 200_000}) == 202
            page = await w.poll()
            assert (page.chosen, page.dropped, page.unfit) == (1, 1, 0)
            await w.pair({"prompt": "x" * 90_000})

    run(work())


async def raw(w: World, *parts: bytes, reset: bool = False) -> bytes:
    """Send these bytes to the copies' port; what comes back until the connection ends, or ours does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(w.copies.rsplit(":", 1)[1]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        if reset:
            writer.transport.abort()
            return b""
        writer.write_eof()
        with suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), 20)
        return b""
    finally:
        writer.close()


POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-secret: hush\r\n"


@pytest.mark.parametrize(
    ("parts", "reset", "counted"),
    [
        ((POST + b"content-length: 100\r\n\r\n", b'{"prompt": "hush'), True, True),
        ((POST + b"content-length: 100\r\n\r\n", b'{"prompt": "hush'), False, True),
        ((POST + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhush{\r\nzz\r\n"), False, True),
        ((b"hush hush hush\r\n\r\n",), False, False),
        ((b"\x16\x03\x01\x02\x00\x01hush",), False, False),
        ((POST + b"bad header hush\r\n\r\n",), False, False),
        ((POST + b"content-length: hush\r\n\r\n",), False, False),
        ((POST + b"h: " + b"hush" * 100_000 + b"\r\n\r\n",), False, False),
    ],
    ids=["reset", "half closed", "bad chunk", "no HTTP", "TLS", "bad header", "bad length", "long header"],
)
def test_clients_that_break_off_or_speak_nonsense_leave_one_line_at_most(
    parts: tuple[bytes, ...], reset: bool, counted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with world(concurrency=1) as w:
            await raw(w, *parts, reset=reset)
            async with asyncio.timeout(10):
                while (await w.poll()).dropped < counted:
                    await asyncio.sleep(0.01)
            await w.pair()  # the only place is free, and the server answers

    with caplog.at_level(logging.INFO):
        run(work())
    assert quiet(caplog.records)
    assert "hush" not in caplog.text
    assert len(caplog.records) <= 1


def test_bodies_may_come_in_chunks() -> None:
    async def work() -> None:
        async with world() as w:
            answer = await raw(
                w,
                POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n",
                chunked(b'{"prom'),
                chunked(b'pt": "p"}', b""),
            )
            assert answer.startswith(b"HTTP/1.1 202")
            await w.records(2)
            assert w.baseline.asked[0].body["prompt"] == "p"
            assert "transfer-encoding" not in w.baseline.asked[0].headers

    run(work())


def test_a_body_that_never_ends_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)

    async def work() -> None:
        async with world(concurrency=1) as w:
            _, writer = await asyncio.open_connection("127.0.0.1", int(w.copies.rsplit(":", 1)[1]))
            writer.write(POST + b"content-length: 100\r\n\r\n{")
            async with asyncio.timeout(10):
                while (await w.poll()).dropped < 1:
                    await asyncio.sleep(0.01)
            await w.pair()
            writer.close()

    run(work())


def test_only_the_share_is_sampled_and_it_lapses() -> None:
    async def work() -> None:
        async with world() as w:
            await w.poll(share=0.0)
            assert await w.copy() == 202
            assert (await w.poll(share=0.5)).chosen == 0
            for number in range(100):
                await w.copy(b"", headers={"X-Request-Id": f"id-{number}"})
            assert 25 <= (await w.poll(share=1.0)).chosen <= 75
            w.time.ahead = server.SHARE_SECONDS + 1
            before = w.ring.counts.chosen
            assert await w.copy() == 202
            assert w.ring.counts.chosen == before, "nobody has asked for a minute"

    run(work())


def test_a_probe_that_was_never_asked_samples_nothing() -> None:
    async def work() -> None:
        async with world() as w:
            fresh = server.Probe(
                server.Settings(baseline="http://x", candidate="http://x", concurrency=1, timeout=1),
                server.Surroundings(clock=w.time, wall=time.time, draw=lambda: 0.0),
                w.ring,
                salt="s",
            )
            assert fresh.share == 0.0

    run(work())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/poll", b"{", 400, "Invalid JSON"),
        ("POST", "/poll", b'{"share": 2}', 400, "share: "),
        ("POST", "/poll", b'{"share": 0.5, "x": 1}', 400, "x: Extra inputs"),
        ("POST", "/poll", b" " * 100_000, 400, "larger than"),
        ("GET", "/poll", b"", 405, "POST /poll"),
        ("POST", "/health", b"", 405, "GET /health"),
        ("GET", "/", b"", 404, "POST /poll"),
        ("GET", "/health", b"", 200, "ok"),
    ],
)
def test_the_control_port_says_what_is_wrong(method: str, path: str, body: bytes, status: int, words: str) -> None:
    async def work() -> None:
        async with world() as w:
            async with w.http.request(method, w.control + path, data=body) as response:
                assert response.status == status
                assert words in await response.text()
            assert w.probe.share == 1.0, "a bad question changes nothing"

    run(work())


def test_nothing_of_a_request_or_an_answer_is_kept_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        secret = "hush-" * 3
        async with world(says(secret), says(secret + "!")) as w:
            await w.pair({"prompt": secret}, headers={"Authorization": f"Bearer {secret}", "X-Request-Id": secret})
            async with w.http.post(w.control + "/poll", json={"share": 0}) as response:
                page = await response.text()
            assert '"agreed":false' in page
            assert secret not in page

    with caplog.at_level(logging.DEBUG):
        run(work())
    assert "hush" not in caplog.text


def test_closing_ends_pairs_at_once() -> None:
    async def work() -> None:
        hang = sends(stream(end=b""), then="hang")
        async with world(hang, hang) as w:
            await w.copy()
            async with asyncio.timeout(10):
                while not (w.baseline.asked or w.candidate.asked):
                    await asyncio.sleep(0.005)
            begun = time.perf_counter()
            await w.probe.close()
            assert time.perf_counter() - begun < 5  # the arms would hang for 10
            assert (await w.poll()).records == ()

    run(work())


def test_the_answers_limit_is_a_limit_on_memory() -> None:
    assert arms.LARGEST_ANSWER < 300 * 65536, "the tests of too large answers send more than is allowed"
