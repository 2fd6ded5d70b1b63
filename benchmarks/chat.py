"""`chat` at concurrency 1 and 16: output tokens/s, time to first token and inter-token latency against tuned vLLM.

For each concurrency vLLM runs with its own best setting of the documented grid; the stack is one and the same for both.

    python -m benchmarks.chat [--size 52m] [--pairs 6] [--window 8]
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.support.arms import Workbench, ratio_row, vllm_settings
from benchmarks.support.record import Bench, Row
from sartor_agents.measurement.messages import ChatParameters, ChatScenario, EvaluateResponse, MeasurementPolicy

TARGETS = {"52m": {1: 1.9, 16: 2.1}, "500m": {1: 1.1, 16: 1.3}}
CONCURRENCIES = (1, 16)
LATENCIES = {"ttftP99": "ttft-p99", "interTokenLatencyP99": "inter-token-p99"}
BASE = {"serving-core": {}, "model-loading": {}}


def scenario(*concurrencies: int) -> ChatScenario:
    return ChatScenario(parameters=ChatParameters(concurrencies=concurrencies))


def rate(response: EvaluateResponse) -> float:
    assert response.objective is not None
    return response.objective


def bench(record: Bench, folder: Path, size: str, pairs: int, window: float, *, short_grid: bool) -> None:
    work = Workbench(folder, size)
    once = MeasurementPolicy.quick(window_seconds=window, maximum_contention=0.9)
    policy = MeasurementPolicy.thorough(
        replicates_min=pairs, replicates_max=pairs, window_seconds=window, warmup_requests=1, maximum_contention=0.9,
        maximum_contention_difference=0.35,
    )  # fmt: skip
    settings, _ = vllm_settings("chat", all_cores=short_grid)
    best = work.tune(settings, {c: scenario(c) for c in CONCURRENCIES}, once, rate)
    speeds: dict[int, float] = {}
    for threads in (2,) if short_grid else (1, 2):
        with work.stack("chat", {**BASE, "native-decoder": {"THREADS": threads}}) as server:
            speeds[threads] = rate(work.alone(server, scenario(*CONCURRENCIES), once))
    threads = max(speeds, key=lambda number: speeds[number])
    seen = ", ".join(f"{number}: {speed:.0f}" for number, speed in speeds.items())
    mine = f"stack: {threads} thread(s) ({seen} tok/s over both concurrencies)"
    with work.stack("chat", {**BASE, "native-decoder": {"THREADS": threads}}) as stack:
        for concurrency, (setting, listed) in best.items():
            with work.vllm(setting) as vllm:
                response = work.paired(stack, vllm, scenario(concurrency), policy)
            prefix = f"run/chat/{size}/c{concurrency}"
            record.add(
                *rows(response, prefix, TARGETS[size][concurrency], f"{mine}; vLLM: {setting.name}, of {listed}")
            )


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
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--window", type=float, default=8.0, help="seconds of a scored window")
    parser.add_argument("--short-grid", action="store_true", help="vLLM on all cores only (see vllm_settings)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        for size in options.size or sorted(TARGETS, reverse=True):
            bench(Bench("chat", size), Path(folder), size, options.pairs, options.window, short_grid=options.short_grid)


if __name__ == "__main__":
    main()
