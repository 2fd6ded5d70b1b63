"""`chat` at concurrency 1 and 16: output tokens/s, time to first token and inter-token latency against tuned vLLM.

For each concurrency vLLM runs with its own best setting of the documented grid. The stack is the same one for all: of its
settings (threads, prompt rows beside decoding rows) within 15 % of the fastest, the one with the lowest tails, by the
product of its p99s of inter-token latency and of time to first token: prompt rows move time from the one to the other.

    python -m benchmarks.chat [--size 52m] [--pairs 6] [--window 8]
"""

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from benchmarks.support.arms import Workbench, ratio_row, vllm_settings
from benchmarks.support.record import Bench, Row
from sartor_agents.measurement.messages import ChatParameters, ChatScenario, EvaluateResponse
from sartor_agents.measurement.policy import MeasurementPolicy

TARGETS = {"52m": {1: 1.9, 16: 2.1}, "500m": {1: 1.1, 16: 1.3}}
CONCURRENCIES = (1, 16)
CHUNKS = (32, 128)
LATENCIES = {"ttftP99": "ttft-p99", "interTokenLatencyP99": "inter-token-p99"}
BASE = {"serving-core": {}, "model-loading": {}}


def scenario(*concurrencies: int) -> ChatScenario:
    return ChatScenario(parameters=ChatParameters(concurrencies=concurrencies))


def rate(response: EvaluateResponse) -> float:
    assert response.objective is not None
    return response.objective


def bench(folder: Path, size: str, loads: Sequence[int], pairs: int, window: float, *, short_grid: bool) -> None:
    """Each concurrency of `loads` into a file of its own; the stack's setting is chosen over all of them."""
    work = Workbench(folder, size)
    once = MeasurementPolicy.quick(window_seconds=window, maximum_contention=0.9)
    policy = MeasurementPolicy.thorough(
        replicates_min=pairs, replicates_max=pairs, window_seconds=window, warmup_requests=1, maximum_contention=0.9,
        maximum_contention_difference=0.35,
    )  # fmt: skip
    records = {c: Bench("chat", f"{size}_c{c}") for c in loads}  # now, since they count the seconds
    settings, _ = vllm_settings("chat", all_cores=short_grid)
    best = work.tune(settings, {c: scenario(c) for c in loads}, once, rate)
    tried: dict[tuple[int, int], tuple[float, tuple[float, float]]] = {}
    for threads, chunk in product((2,) if short_grid else (1, 2), CHUNKS):
        with work.stack("chat", recipes(threads, chunk)) as server:
            response = work.alone(server, scenario(*CONCURRENCIES), once)
        tried[threads, chunk] = rate(response), tails(response)
    threads, chunk = chosen(tried)
    seen = "; ".join(
        f"{t}, {c}: {r:.0f} tok/s, {1000 * gap:.0f} and {1000 * first:.0f} ms"
        for (t, c), (r, (gap, first)) in tried.items()
    )
    mine = f"stack: {threads} thread(s), {chunk} prompt rows (alone, with worst inter-token and ttft p99: {seen})"
    with work.stack("chat", recipes(threads, chunk)) as stack:
        for concurrency, (setting, listed) in best.items():
            with work.baseline(setting) as vllm:
                response = work.paired(stack, vllm, scenario(concurrency), policy)
            prefix = f"run/chat/{size}/c{concurrency}"
            note = f"{mine}; vLLM: {setting.name}, of {listed}"
            records[concurrency].add(*rows(response, prefix, TARGETS[size][concurrency], note))


def recipes(threads: int, chunk: int) -> dict[str, dict[str, int]]:
    return {**BASE, "serving-core": {"PREFILL_CHUNK": chunk}, "native-decoder": {"THREADS": threads}}


def tails(response: EvaluateResponse) -> tuple[float, float]:
    """The worst p99 over the concurrencies, seconds: between tokens, and to the first one."""
    arms = response.arms.values()
    return max(arm.inter_token_p99 or 0.0 for arm in arms), max(arm.ttft_p99 or 0.0 for arm in arms)


def chosen(tried: Mapping[tuple[int, int], tuple[float, tuple[float, float]]]) -> tuple[int, int]:
    fastest = max(speed for speed, _ in tried.values())
    fast = [setting for setting, (speed, _) in tried.items() if speed >= 0.85 * fastest]
    return min(fast, key=lambda setting: math.prod(tried[setting][1]))


def rows(response: EvaluateResponse, prefix: str, target: float, note: str) -> list[Row]:
    assert response.measurement is not None
    (condition,) = response.measurement.conditions
    rates = f"{condition.candidate.metric:.0f} against {condition.baseline.metric:.0f} tok/s"
    found = [ratio_row(f"{prefix}/output-rate-vs-vllm", condition.ratio, target, f"{rates}; {note}")]
    for name, guardrail in response.guardrails[condition.name].items():
        bar = f"{prefix}/{LATENCIES.get(name, name)}-vs-vllm"
        bound = 1.0 if name in LATENCIES else None
        found.append(Row(bar, "ratio", "lower", bound, guardrail.value, guardrail.low, guardrail.high, guardrail.n))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=sorted(TARGETS), help="repeatable; default: all")
    parser.add_argument("--concurrency", action="append", type=int, choices=CONCURRENCIES, help="default: all")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--window", type=float, default=8.0, help="seconds of a scored window")
    parser.add_argument("--short-grid", action="store_true", help="vLLM on all cores only (see vllm_settings)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        for size in options.size or sorted(TARGETS, reverse=True):
            loads = options.concurrency or CONCURRENCIES
            bench(Path(folder), size, loads, options.pairs, options.window, short_grid=options.short_grid)


if __name__ == "__main__":
    main()
