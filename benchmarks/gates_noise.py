"""How noisy this machine is: what the simulations of `gates_statistics` resample.

Two copies of one stack are served. First each of two loads (`chat` at concurrency 16, `code-edit` at 1 without a
prediction) is kept up on one of them for minutes, and its tokens are counted bin by bin: a series from which windows of any
length can be cut. Then the evaluator's own windows are measured in pairs, copy against copy, at several lengths: they show
whether windows cut from the series scatter as real ones do. Nothing is void for contention: the simulation shall meet
that too. What is left out is only what no measurement survives: this process itself stopped for seconds.

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
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop

from benchmarks.support.arms import Workbench
from benchmarks.support.noise import BIN_SECONDS, RECORDED
from benchmarks.support.record import machine
from sartor_agents.measurement.client import LoadClient, discover_model
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    ScenarioSpec,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.samples import GenerationRequest, Purpose
from sartor_agents.measurement.warmup import token_rate_series
from sartor_agents.measurement.windows import WindowRunner
from sartor_agents.run.servers import RunningServer
from sartor_agents.scenarios import open_scenario

RECIPES = {"serving-core": {}, "model-loading": {}, "native-decoder": {"THREADS": 1}}
LOADS: dict[str, ScenarioSpec] = {
    "chat": ChatScenario(parameters=ChatParameters(concurrencies=(16,), prompt_tokens=64, output_tokens=64)),
    "code-edit": CodeEditScenario(parameters=CodeEditParameters(match_rates=(0,), file_tokens=128)),
}
LENGTHS: dict[str, tuple[float, ...]] = {"chat": (2.0, 1.0, 4.0), "code-edit": (1, 2)}
"""Seconds of a scored window; for `code-edit` requests per condition."""
STOPPED_SECONDS = 2.0


def steal() -> float:
    """Seconds of stolen processor time since the start of the machine, all cores together."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


async def client_of(server: RunningServer, load: ScenarioSpec, model_dir: Path) -> tuple[LoadClient, str]:
    """A client of one copy, and a seed of its own for what is sent."""
    _, counter = open_scenario(load, model_dir, "00" * 32)
    endpoint = Endpoint(url=server.url, pid=server.process.pid)
    model = await discover_model(endpoint)
    client = LoadClient(endpoint, model=model, counter=counter, request_timeout=120, stall_timeout=60)
    return client, secrets.token_hex(32)


class Ticker:
    """Notes the stolen time every bin, and with it whether this process was stopped in between."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, float]] = []
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.noted.append((time.perf_counter(), steal()))
            await asyncio.sleep(BIN_SECONDS)

    def close(self) -> None:
        self._task.cancel()

    def stopped(self, start: float, end: float) -> bool:
        """Whether nothing was noted for `STOPPED_SECONDS` within [start, end)."""
        times = [start, *(at for at, _ in self.noted if start < at < end), end]
        return max(after - before for before, after in pairwise(times)) > STOPPED_SECONDS


async def series(server: RunningServer, load: ScenarioSpec, model_dir: Path, seconds: float) -> dict[str, list[float]]:
    """Tokens and stolen processor seconds in each bin, warm-up, drain and stops of this process cut out."""
    client, seed = await client_of(server, load, model_dir)
    scenario, _ = open_scenario(load, model_dir, seed)
    (stage,) = scenario.stages
    fresh = (request for request in scenario.stream(stage, "scored", 0) if request.body.get("prediction") is None)
    requests: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "scored") for request in fresh)
    begun, ticker = client.clock(), Ticker()
    sent = await client.closed_loop([requests] * stage.concurrency, until=lambda: begun + seconds + 4)
    ticker.close()
    arrivals = [one for each in sent for one in each.sample("copy", client.counter).arrivals]
    start = begun + 3
    bins = int((max(at for at, _ in arrivals) - 2 - start) / BIN_SECONDS)
    edges = start + BIN_SECONDS * np.arange(bins + 1)
    tokens = token_rate_series(arrivals, start, float(edges[-1]), bins)
    times, values = np.asarray(ticker.noted).T
    stolen = np.diff(np.interp(edges, times, values))
    running = [not ticker.stopped(edge - 3, edge + 3) for edge in edges[:-1]]
    return {
        "tokens": [count for count, kept in zip(tokens, running, strict=True) if kept],
        "stolen": [round(float(share), 3) for share, kept in zip(stolen, running, strict=True) if kept],
    }


async def pairs(
    first: RunningServer, second: RunningServer, load: ScenarioSpec, model_dir: Path, length: float, number: int
) -> dict[str, object]:
    """Log ratios of the evaluator's windows, copy against copy, and seconds from one pair to the next."""
    one, seed = await client_of(first, load, model_dir)
    other, _ = await client_of(second, load, model_dir)
    scenario, _ = open_scenario(load, model_dir, seed)
    counted = scenario.stages[0].kind == "counted"
    sizes = {"requests_per_condition": int(length)} if counted else {"window_seconds": length}
    policy = MeasurementPolicy(warmup_requests=1, **sizes)

    async def oracle(_: Sequence[GenerationRequest]) -> list[str]:
        raise SystemExit("a chain checkpoint's answers are known")

    runner = WindowRunner(scenario, policy, oracle, seed=seed, pids=[first.process.pid, second.process.pid])
    ticker, logs, took = Ticker(), list[float](), list[float]()
    for index in range(4 * number):
        begun = time.perf_counter()
        rates: dict[str, dict[str, float]] = {}
        for client, name in ((one, "one"), (other, "other"))[:: 1 if index % 2 == 0 else -1]:
            rates[name] = (await runner.run(client, index, warmup=1)).rates()
        log = [math.log(rates["one"][c] / rates["other"][c]) for c in rates["one"]]
        if not ticker.stopped(begun, time.perf_counter()):
            logs.append(round(sum(log) / len(log), 4))
            took.append(time.perf_counter() - begun)
        if len(logs) == number:
            break
    ticker.close()
    return {"length": length, "pair_seconds": round(float(np.median(took)), 2), "logs": logs}


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
