"""`code-edit` at concurrency 1: one stack against plain vLLM and against vLLM's best n-gram speculation.

Both engines are tuned first: vLLM over the documented grid (threads and dtype without speculation, then width and lookup
range of its n-gram speculation), the stack over its number of threads. Then windows are interleaved pair by pair. Every
match rate, kind of edit and the request without a prediction is served by one and the same stack; its own plain decoding is
the same stack composed without speculation.

    python -m benchmarks.code_edit [--size 52m] [--part plain] [--file-tokens 192] [--pairs 8]
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support.arms import Workbench, ratio_row, vllm_settings
from benchmarks.support.record import Bench, Row, median_row
from sartor_agents.measurement.messages import CodeEditParameters, CodeEditScenario, EvaluateResponse
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_api.search.records import Speedup

TARGETS: dict[str, dict[str, float]] = {
    "52m": {"match95": 10.0, "match50": 2.0, "match0": 1.0, "none": 1.0, "ngram": 3.3},
    "500m": {"match95": 5.0, "match50": 1.3, "match0": 1.0, "none": 1.0, "ngram": 2.3},
}
EDITS = ("insert95", "delete95", "move95")
EDIT_SHARE = 0.7
PLAIN_SHARE = 0.97
PAIRS = {"plain": 8, "ngram": 8, "own": 30}
"""What the stack is compared with, and windows of each arm. Its own plain decoding differs by little: many short pairs."""
BASE = {"serving-core": {}, "model-loading": {}}


def scenario(file_tokens: int, *, edits: bool = False, rates: tuple[int, ...] = (0, 50, 90, 95)) -> CodeEditScenario:
    kinds = ("replace", "insert", "delete", "move") if edits else ("replace",)
    return CodeEditScenario(parameters=CodeEditParameters(match_rates=rates, edit_kinds=kinds, file_tokens=file_tokens))


def policy(pairs: int) -> MeasurementPolicy:
    return MeasurementPolicy.thorough(
        replicates_min=pairs, replicates_max=pairs, requests_per_condition=1, warmup_requests=1, maximum_contention=0.9,
        maximum_contention_difference=0.35,
    )  # fmt: skip


def objective(response: EvaluateResponse) -> float:
    assert response.objective is not None
    return response.objective


def at_95(response: EvaluateResponse) -> float:
    return response.arms["match95"].metric


def bench(folder: Path, size: str, part: str, file_tokens: int, pairs: int, *, short_grid: bool) -> None:
    """One part into a file of its own, so that a part can be measured again without the others."""
    work, record = Workbench(folder, size), Bench("code_edit", f"{size}_{part}")
    prefix, targets = f"run/code-edit/{size}/c1", TARGETS[size]
    plain_settings, drafted_settings = vllm_settings("code-edit", all_cores=short_grid)
    once = MeasurementPolicy.quick(maximum_contention=0.9)
    speeds: dict[int, float] = {}
    for threads in (2,) if short_grid else (1, 2):
        with work.stack("code-edit", recipes(threads)) as server:
            speeds[threads] = objective(work.alone(server, scenario(file_tokens), once))
    threads = max(speeds, key=lambda number: speeds[number])
    seen = ", ".join(f"{number}: {speed:.0f}" for number, speed in speeds.items())
    mine = f"stack: {threads} thread(s) ({seen} tok/s); file of {file_tokens} tokens"

    with work.stack("code-edit", recipes(threads)) as stack:
        if part == "own":
            with work.stack("code-edit", {**BASE, "native-decoder": {"THREADS": threads}}) as own:
                response = work.paired(stack, own, scenario(file_tokens, rates=(0,)), policy(pairs))
            for name, ratio, rates in conditions(response):
                bar = f"{prefix}/{name}/vs-own-plain-decoding"
                record.add(ratio_row(bar, ratio, PLAIN_SHARE, f"same stack without speculation; {rates}; {mine}"))
            return
        plain, listed = work.tune(plain_settings, {"plain": scenario(64, rates=(0,))}, once, objective)["plain"]
        if part == "plain":
            with work.baseline(plain) as vllm:
                response = work.paired(stack, vllm, scenario(file_tokens, edits=True), policy(pairs))
            against_plain(record, response, prefix, targets, f"{mine}; vLLM: {plain.name}, of {listed}")
            return
        # One dimension after the other: threads as plain decoding wants them, then width and lookup range.
        drafted_settings = [setting for setting in drafted_settings if setting.environment == plain.environment]
        at95 = scenario(file_tokens, rates=(95,))
        drafted, listed = work.tune(drafted_settings, {"match95": at95}, once, at_95)["match95"]
        with work.baseline(drafted) as vllm:
            response = work.paired(stack, vllm, scenario(file_tokens), policy(pairs))
        for name, ratio, rates in conditions(response):
            target = targets["ngram"] if name == "match95" else None
            note = f"{mine}; vLLM: {drafted.name}, of {listed}; {rates}"
            record.add(ratio_row(f"{prefix}/{name}/vs-vllm-ngram", ratio, target, note))


def recipes(threads: int) -> dict[str, dict[str, int]]:
    return {**BASE, "native-decoder": {"THREADS": threads}, "predicted-outputs": {}}


def against_plain(record: Bench, response: EvaluateResponse, prefix: str, targets: dict[str, float], note: str) -> None:
    for name, ratio, rates in conditions(response):
        record.add(ratio_row(f"{prefix}/{name}/vs-vllm", ratio, targets.get(name), f"{note}; {rates}"))
    mine = {name: rates["candidate"] for name, rates in response.rates.items()}
    for name in EDITS:
        # The same windows: the n-th request of each kind ran within the same seconds.
        shares = [edit / replace for edit, replace in zip(mine[name], mine["match95"], strict=True)]
        record.add(share_row(f"{prefix}/{name}/share-of-match95", shares))


def share_row(bar: str, shares: list[float]) -> Row:
    return median_row(bar, "ratio", "higher", shares, EDIT_SHARE, "speed ÷ speed at 95 % replaced tokens, same window")


def conditions(response: EvaluateResponse) -> Iterator[tuple[str, Speedup, str]]:
    """Name, ratio and the two rates in words, condition by condition."""
    assert response.measurement is not None
    for condition in response.measurement.conditions:
        rates = f"{condition.candidate.metric:.0f} against {condition.baseline.metric:.0f} tok/s"
        yield condition.name, condition.ratio, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=sorted(TARGETS), help="repeatable; default: all")
    parser.add_argument("--file-tokens", type=int, help="default: 192 at 52m, 64 at 500m")
    parser.add_argument("--part", action="append", choices=tuple(PAIRS), help="repeatable; default: all")
    parser.add_argument("--pairs", type=int, help=f"default: {PAIRS}")
    parser.add_argument("--short-grid", action="store_true", help="vLLM on all cores only (see vllm_settings)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        for size in options.size or sorted(TARGETS, reverse=True):
            tokens = options.file_tokens or (192 if size == "52m" else 64)
            for part in options.part or PAIRS:
                pairs = options.pairs or PAIRS[part]
                bench(Path(folder), size, part, tokens, pairs, short_grid=options.short_grid)


if __name__ == "__main__":
    main()
