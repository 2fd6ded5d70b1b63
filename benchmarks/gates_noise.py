"""How noisy this machine is: what the simulations of `gates_statistics` resample.

Two copies of one stack are served. First each of two loads (`chat` at concurrency 16, `code-edit` at 1 without a
prediction) is kept up on one of them for minutes, and its tokens are counted bin by bin: a series from which windows of any
length can be cut. Then the evaluator's own windows are measured in pairs, copy against copy, at several lengths: they show
whether windows cut from the series scatter as real ones do. What the evaluator would have called void is left out here as
well, by the default policy: moments in which others used more of the processors than it allows, and those in which this
process itself was stopped for seconds. How much was left out is in the file.

    python -m benchmarks.gates_noise [--seconds 240] [--pairs 16]

Adds to `benchmarks/data/gates_noise.json` what it lacks; remove the file to measure again.
"""

import argparse
import asyncio
import json
import math
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.support.arms import Workbench
from benchmarks.support.noise import BIN_SECONDS, RECORDED
from benchmarks.support.record import machine
from sartor_agents.measurement import contention
from sartor_agents.measurement.client import LoadClient, discover_model
from sartor_agents.measurement.contention import CpuTimes
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    ScenarioSpec,
)
from sartor_agents.measurement.pairs import disturbed, judge_pair
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.samples import GenerationRequest, Purpose
from sartor_agents.measurement.surroundings import Surroundings
from sartor_agents.measurement.warmup import token_rate_series
from sartor_agents.measurement.windows import WindowRun, WindowRunner
from sartor_agents.run.servers import RunningServer
from sartor_agents.scenarios import open_scenario

RECIPES = {"serving-core": {}, "model-loading": {}, "native-decoder": {"THREADS": 1}}
LOADS: dict[str, ScenarioSpec] = {
    "chat": ChatScenario(parameters=ChatParameters(concurrencies=(16,), prompt_tokens=64, output_tokens=64)),
    "code-edit": CodeEditScenario(parameters=CodeEditParameters(match_rates=(0,), file_tokens=128)),
}
LENGTHS: dict[str, tuple[float, ...]] = {"chat": (4.0, 2.0), "code-edit": (1,)}
"""Seconds of a scored window; for `code-edit` requests per condition."""
STOPPED_SECONDS = 2.0
POLICY = MeasurementPolicy()


async def client_of(name: str, server: RunningServer, load: ScenarioSpec, model_dir: Path) -> tuple[LoadClient, str]:
    """A client of one copy, and a seed of its own for what is sent."""
    _, counter = open_scenario(load, model_dir, "00" * 32)
    endpoint = Endpoint(name=name, url=server.url, pid=server.process.pid)
    model = await discover_model(endpoint)
    client = LoadClient(endpoint, model=model, counter=counter, request_timeout=120, stall_timeout=60)
    return client, secrets.token_hex(32)


class Ticker:
    """Reads the processors' counters every bin, and shows with it whether this process was stopped in between."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self.noted: list[tuple[float, CpuTimes]] = []
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            times = contention.read(self._pids)
            if times is None:
                raise SystemExit("this system does not tell what else uses its processors (/proc/stat)")
            self.noted.append((time.perf_counter(), times))
            await asyncio.sleep(BIN_SECONDS)

    def close(self) -> None:
        self._task.cancel()

    def void(self, start: float, end: float) -> bool:
        """Whether nothing was noted for `STOPPED_SECONDS` within [start, end), or others used too much meanwhile."""
        times = [start, *(at for at, _ in self.noted if start < at < end), end]
        if max(after - before for before, after in pairwise(times)) > STOPPED_SECONDS:
            return True
        inside = [one for at, one in self.noted if start <= at <= end]
        found = contention.between(inside[0], inside[-1], arm="", servers_known=True)
        return found.share > POLICY.maximum_contention


async def series(server: RunningServer, load: ScenarioSpec, model_dir: Path, seconds: float) -> dict[str, Any]:
    """Tokens in each bin; warm-up, drain and what is void cut out, and the share of the latter."""
    client, seed = await client_of("one", server, load, model_dir)
    scenario, _ = open_scenario(load, model_dir, seed)
    (stage,) = scenario.stages
    fresh = (request for request in scenario.stream(stage, "scored", 0) if request.body.get("prediction") is None)
    requests: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "scored") for request in fresh)
    begun, ticker = client.clock(), Ticker({"one": server.process.pid})
    sent = await client.closed_loop([requests] * stage.concurrency, until=lambda: begun + seconds + 4)
    ticker.close()
    arrivals = [one for each in sent for one in each.sample("one", client.counter).arrivals]
    start = begun + 3
    bins = int((max(at for at, _ in arrivals) - 2 - start) / BIN_SECONDS)
    edges = start + BIN_SECONDS * np.arange(bins + 1)
    tokens = token_rate_series(arrivals, start, float(edges[-1]), bins)
    counts = [not ticker.void(edge - 2, edge + 2) for edge in edges[:-1]]
    return {
        "tokens": [count for count, kept in zip(tokens, counts, strict=True) if kept],
        "left_out": round(1 - sum(counts) / len(counts), 3),
    }


async def pairs(
    first: RunningServer, second: RunningServer, load: ScenarioSpec, model_dir: Path, length: float, number: int
) -> dict[str, object]:
    """Log ratios of the evaluator's windows, copy against copy, and seconds from one pair to the next."""
    one, seed = await client_of("one", first, load, model_dir)
    other, _ = await client_of("other", second, load, model_dir)
    scenario, _ = open_scenario(load, model_dir, seed)
    counted = scenario.stages[0].kind == "counted"
    sizes = {"requests_per_condition": int(length)} if counted else {"window_seconds": length}
    policy = POLICY.model_copy(update=sizes)

    async def oracle(_: Sequence[GenerationRequest]) -> list[str]:
        raise SystemExit("a chain checkpoint's answers are known")

    pids = {"one": first.process.pid, "other": second.process.pid}
    runner = WindowRunner(scenario, policy, oracle, seed=seed, surroundings=Surroundings(pids, len(pids)))
    logs, took = list[float](), list[float]()
    tried = 0
    while len(logs) < number and tried < 4 * number:
        begun = time.perf_counter()
        runs: dict[str, WindowRun] = {}
        for client, name in ((one, "one"), (other, "other"))[:: 1 if tried % 2 == 0 else -1]:
            runs[name] = await runner.run(client, tried, warmup=1)
        tried += 1
        if disturbed(runs["one"], runs["other"], policy)[0] or judge_pair(runs["one"], runs["other"], policy)[0]:
            continue
        rates = {name: run.rates() for name, run in runs.items()}
        log = [math.log(rates["one"][c] / rates["other"][c]) for c in rates["one"]]
        logs.append(round(sum(log) / len(log), 4))
        took.append(time.perf_counter() - begun)
    if not logs:
        raise SystemExit(f"none of {tried} pairs was undisturbed; try again when the machine does less")
    return {"length": length, "pair_seconds": round(float(np.median(took)), 2), "tried": tried, "logs": logs}


class Recording:
    """The file, written after each part; parts that it has already are not measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.loads: dict[str, Any] = {}
        if path.is_file():
            self.loads = json.loads(path.read_text(encoding="utf-8"))["loads"]

    def add(self, load: str, **parts: Any) -> None:
        self.loads[load] = {"pairs": [], **self.loads.get(load, {}), **parts}
        content = {"bin_seconds": BIN_SECONDS, "machine": machine(), "loads": self.loads}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(load, parts, flush=True)


def record(seconds: float, number: int, recording: Recording) -> None:
    """Measure what `recording` lacks."""
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        work = Workbench(Path(folder), "52m")
        for name, load in LOADS.items():
            with work.stack(name, RECIPES) as first, work.stack(name, RECIPES) as second:
                if name not in recording.loads:
                    recording.add(name, **uvloop.run(series(first, load, work.model_dir, seconds)))
                for length in LENGTHS[name]:
                    known: list[dict[str, object]] = recording.loads[name]["pairs"]
                    if all(one["length"] != length for one in known):
                        one = uvloop.run(pairs(first, second, load, work.model_dir, length, number))
                        recording.add(name, pairs=[*known, one])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="of each series")
    parser.add_argument("--pairs", type=int, default=16, help="at each length")
    parser.add_argument("--output", type=Path, default=RECORDED)
    options = parser.parse_args()
    record(options.seconds, options.pairs, Recording(options.output))


if __name__ == "__main__":
    main()
