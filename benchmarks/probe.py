"""What a rollout's probe adds to what it measures, and what it takes itself.

Two arms in a process of their own stream answers of 100 tokens, one each 10 ms, and note on the same clock when they sent
what. The probe is kept saturated (four pairs at a time) by 30 copies a second of a 16 kB prompt, while it is polled every
two seconds. What it reports of TTFT and gaps is compared with what the arms noted; its processor time and memory are its
own process's. A last part sends copies that are not sampled.

    python -m benchmarks.probe [--seconds 60]
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.support.record import Bench, Row, median_row
from sartor_api.probe import GAP_STEP, ProbePage, ProbeRecord

TOKENS, GAP_SECONDS, PREFILL_SECONDS = 100, 0.010, 0.050
COPIES_PER_SECOND, UNSAMPLED_PER_SECOND, POLL_SECONDS = 30, 200, 2.0
PROMPT = "x " * 8192
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
KEPT = 100_000

_CHUNK = {"id": "cmpl-" + "0" * 32, "object": "text_completion", "created": 0, "model": "model" * 4}


def _event(**fields: Any) -> bytes:
    """An event of a stream, as a chunk of the body."""
    data = f"data: {json.dumps({**_CHUNK, **fields})}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def arms(pipe: Connection) -> None:
    """Serve until told to end; then tell (TTFT, gaps) of every answer, seconds."""
    noted: list[tuple[float, list[float]]] = []
    piece = _event(choices=[{"index": 0, "text": " word", "logprobs": None, "finish_reason": None}])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
        await reader.readexactly(int(length.partition(b": ")[2]))
        asked, sent = time.perf_counter(), list[float]()
        writer.write(HEAD)
        for number in range(TOKENS):
            await asyncio.sleep(max(0.0, asked + PREFILL_SECONDS + number * GAP_SECONDS - time.perf_counter()))
            sent.append(time.perf_counter())
            writer.write(piece)
        writer.write(_event(choices=[], usage={"completion_tokens": TOKENS}) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()
        noted.append((sent[0] - asked, [b - a for a, b in pairwise(sent)]))

    async def serve() -> None:
        servers = [await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 20) for _ in range(2)]
        pipe.send([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers])
        await asyncio.to_thread(pipe.recv)
        pipe.send(noted)

    asyncio.run(serve())


@contextmanager
def probe(baseline: str, candidate: str) -> Iterator[tuple[psutil.Process, str, str]]:
    """The process, and the addresses of both of its ports."""
    command = [sys.executable, "-m", "sartor_agents.probe.main", "--baseline", baseline, "--candidate", candidate]
    ports = ["--listen", "127.0.0.1", "--copies-port", "0", "--control-port", "0"]
    process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        copies, control = (f"http://{part.split(' on ')[1].strip()}" for part in process.stdout.readline().split(","))
        yield psutil.Process(process.pid), copies, control
    finally:
        process.terminate()
        process.wait(30)


async def load(copies: str, control: str, *, rate: float, share: float, seconds: float) -> list[ProbeRecord]:
    """Send copies for `seconds`, polling meanwhile; the records that came."""
    found: list[ProbeRecord] = []
    begun = time.perf_counter()
    body = json.dumps({"model": "model", "prompt": PROMPT, "max_tokens": TOKENS}).encode()

    found_at: dict[str, Any] = {"next": 0, "boot": None}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as http:

        async def poll(asked: float) -> None:
            after, boot, more = (found_at["next"], found_at["boot"], True)
            while more:
                ask = {"boot": boot, "after": after, "share": asked}
                async with http.post(control + "/poll", json=ask) as response:
                    page = ProbePage.model_validate_json(await response.read())
                found.extend(page.records)
                after, boot, more = page.next, page.boot, page.more
            found_at.update(next=after, boot=boot)

        async def one() -> None:
            async with http.post(copies + "/v1/completions", data=body) as response:
                await response.read()

        async with asyncio.TaskGroup() as group:
            polled = -math.inf
            for number in range(round(rate * seconds)):
                if time.perf_counter() - polled >= POLL_SECONDS:
                    polled = time.perf_counter()
                    await poll(share)
                await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
                group.create_task(one())
        await poll(0.0)
        await asyncio.sleep(2 * (PREFILL_SECONDS + TOKENS * GAP_SECONDS) + 0.5)  # pairs under way end
        await poll(0.0)
    return found


def busy(process: psutil.Process) -> float:
    """Processor seconds that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def gaps_of(records: Iterable[ProbeRecord]) -> np.ndarray:
    """Gaps in the middles of their cells, seconds."""
    cells = [(cell, count) for record in records for cell, count in record.gaps or ()]
    return np.repeat([GAP_STEP ** (cell - 0.5) for cell, _ in cells], [count for _, count in cells])


def off_row(
    name: str, unit: str, scale: float, measured: np.ndarray, noted: np.ndarray, level: float, note: str
) -> Row:
    """A quantile as measured less as noted, with the bootstrap interval of values that are taken as independent."""
    random = np.random.default_rng(0)

    def quantiles(values: np.ndarray) -> np.ndarray:
        return np.array([np.quantile(random.choice(values, len(values)), level) for _ in range(300)])

    drawn = scale * (quantiles(measured) - quantiles(noted))
    value = scale * (np.quantile(measured, level) - np.quantile(noted, level))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Row(f"rollout/probe/{name}", unit, "lower", None, float(value), float(low), float(high), len(measured), note)


def memory_of_records() -> float:
    """Megabytes that `KEPT` records of answers like these take, by the growth of a process that holds them."""
    code = (
        "import os, psutil\n"
        "from sartor_agents.probe.ring import Ring\n"
        "from sartor_api.probe import ProbeRecord\n"
        "cells = tuple((cell, 3) for cell in range(-240, -210))\n"
        "made = [ProbeRecord(pair=1, arm=arm, arrival=1.7e9 + 1 / 3, position=1, outcome='ok', duration=1.234567,\n"
        "        first_token=0.123456, gaps=cells, output_tokens=100, bytes=25000) for arm in ('baseline', 'candidate')]\n"
        "before = psutil.Process().memory_info().rss\n"
        f"ring = Ring('boot', {KEPT})\n"
        f"for number in range({KEPT} // 2): ring.add((made[0], made[1]))\n"
        "print((psutil.Process().memory_info().rss - before) / 1e6)\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def bench(record: Bench, seconds: float) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    serving = multiprocessing.get_context("spawn").Process(target=arms, args=(theirs,), daemon=True)
    serving.start()
    baseline, candidate = ours.recv()
    with probe(baseline, candidate) as (process, copies, control):
        before, begun = busy(process), time.perf_counter()
        records = asyncio.run(load(copies, control, rate=COPIES_PER_SECOND, share=1.0, seconds=seconds))
        loaded = 100 * (busy(process) - before) / (time.perf_counter() - begun)
        resident = process.memory_info().rss / 1e6
        before = busy(process)
        idle = asyncio.run(load(copies, control, rate=UNSAMPLED_PER_SECOND, share=0.0, seconds=seconds / 4))
        unsampled = 1e6 * (busy(process) - before) / (UNSAMPLED_PER_SECOND * seconds / 4)
    ours.send(None)
    noted: list[tuple[float, list[float]]] = ours.recv()
    serving.join(30)
    wrong = [one for one in records if one.outcome != "ok" or (one.arm == "candidate" and not one.agreed)]
    if wrong or len(idle) != len(records) or len(records) != len(noted):
        raise SystemExit(
            f"{len(wrong)} bad records of {len(records)}, {len(noted)} answers, {len(idle)} after the idle part"
        )
    gaps = np.array([gap for _, found in noted for gap in found])
    first = np.array([ttft for ttft, _ in noted])
    measured_first = np.array([one.first_token for one in records], dtype=float)
    note = f"{len(records)} answers, four pairs at a time; cells are 2 % wide"
    for level in (0.5, 0.99):
        name = f"p{100 * level:g}"
        record.add(off_row(f"gap-{name}-off", "us", 1e6, gaps_of(records), gaps, level, note))
    record.add(off_row("ttft-p50-off", "us", 1e6, measured_first, first, 0.5, "from sending to the first event read"))
    record.add(median_row("rollout/probe/processor/saturated", "% of a core", "lower", [loaded], None, note))
    record.add(
        median_row("rollout/probe/processor/unsampled", "us a copy", "lower", [unsampled], None, "16 kB prompts")
    )
    record.add(median_row("rollout/probe/memory/at-work", "MB", "lower", [resident], None, "resident set, few records"))
    held = [memory_of_records() for _ in range(3)]
    record.add(median_row(f"rollout/probe/memory/{KEPT}-records", "MB", "lower", held, None, "30 cells each"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    bench(Bench("probe"), parser.parse_args().seconds)


if __name__ == "__main__":
    main()
