"""From what the steps left to rows of figures, a roofline table, and `benchmarks/results/gpu.json`. A figure that was
not measured has no row.

A decode step's bound is the bytes of all weights but the embedding table (of which a step reads one row) over the
bandwidth that was measured for reading. Ratios of two engines that ran one after the other are medians with a
bootstrap interval over both.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.record import RESULTS, ROOT, Row, machine, median_row

IN_PROCESS = "engines in the process, without HTTP, one after the other"
_WITHIN = 1.15
Results = Mapping[str, Mapping[str, Any]]


def rows(results: Results) -> list[Row]:
    """Every figure that `results` (by step) holds."""
    done = {name: result for name, result in results.items() if result.get("status") == "done"}
    return [*_kernels(done), *_gates(done), *_decode(done), *_edit(done), *_chat(done)]


def ratio_row(
    bar: str, mine: Sequence[float], theirs: Sequence[float], target: float | None, note: str = IN_PROCESS
) -> Row:
    """The ratio of medians with its bootstrap interval, both sides drawn anew."""
    draws = np.random.default_rng(0)
    tops, bottoms = (np.median(draws.choice(np.asarray(one), (2000, len(one))), axis=1) for one in (mine, theirs))
    low, high = np.quantile(tops / bottoms, [0.025, 0.975])
    value = float(np.median(mine) / np.median(theirs))
    return Row(bar, "ratio", "higher", target, value, float(low), float(high), min(len(mine), len(theirs)), note)


def _kernels(done: Results) -> list[Row]:
    found: list[Row] = []
    for name in ("kernels-8b", "kernels-32b"):
        best: dict[tuple[str, int], Mapping[str, Any]] = {}
        for one in done.get(name, {}).get("kernels", ()):
            key = (one["kernel"], one["rows"])
            if key not in best or max(one["bytes_per_second"]) > max(best[key]["bytes_per_second"]):
                best[key] = one
        bandwidth = done["device"]["read_bytes_per_second"] if best else 1.0
        for (kernel, count), one in best.items():
            shares = [rate / bandwidth for rate in one["bytes_per_second"]]
            note = (
                f"context {one['context']}, drafts {one['drafts']}, block of {one['block_tokens']}; "
                f"error {one['error']:.1f} roundings"
            )
            bar = f"cuda/kernel/{kernel}/{name.removeprefix('kernels-')}/rows{count}/of-bandwidth"
            found.append(median_row(bar, "ratio", "higher", shares, 0.8, note))
    return found


def _gates(done: Results) -> list[Row]:
    found: list[Row] = []
    for size in ("1b", "8b"):
        gate = done.get(f"gate-{size}")
        if gate is None:
            continue
        for how in ("alone", "batched", "drafted"):
            seen = gate[how]
            count = seen["agreed"] + seen["ties"] + seen["wrong_count"]
            wrong = float(seen["wrong_count"])
            note = f"of {count} tokens against transformers, {seen['ties']} of them ties"
            found.append(
                Row(f"cuda/gate/{size}/{how}/wrong-tokens", "tokens", "lower", 0.0, wrong, wrong, wrong, 1, note)
            )
    return found


def _decode(done: Results) -> list[Row]:
    found: list[Row] = []
    for size, step, hidden in (("8b", "own-8b-decode", 128256 * 4096), ("32b", "own-32b-edit", 151936 * 5120)):
        own = done.get(step)
        if own is not None:
            bound = (own["weight_bytes"] - 2 * hidden) / done["device"]["read_bytes_per_second"]
            over = [1 / rate / bound for rate in own["plain"]]
            note = f"weights in {1000 * bound:.2f} ms at the bandwidth measured; context about 2,200"
            found.append(median_row(f"cuda/decode/{size}/c1/over-bound", "ratio", "lower", over, _WITHIN, note))
    own, other = done.get("own-8b-decode"), done.get("transformers-8b-decode")
    if own is not None and other is not None:
        note = f"transformers {other['version']} with its static cache; {IN_PROCESS}"
        found.append(ratio_row("cuda/decode/8b/c1/vs-transformers", own["plain"], other["plain"], None, note))
    return found


def _edit(done: Results) -> list[Row]:
    own = done.get("own-32b-edit")
    if own is None:
        return []
    found = [
        ratio_row(f"cuda/code-edit/32b/match{match}/vs-own-plain", seen["rates"], own["plain"], None)
        for match, seen in own["edit"].items()
    ]
    for engine in ("vllm", "transformers"):
        baseline = done.get(f"{engine}-32b-edit")
        if baseline is None:
            continue
        note = f"{engine} {baseline['version']}; {IN_PROCESS}"
        best = max(baseline.get("ngram", ()), key=lambda one: float(np.median(one["rates"])), default=None)
        for match, seen in own["edit"].items():
            target = {"95": 6.0, "0": 0.97}.get(match) if engine == "vllm" else None
            found.append(
                ratio_row(
                    f"cuda/code-edit/32b/match{match}/vs-{engine}", seen["rates"], baseline["plain"], target, note
                )
            )
        if best is not None:
            bar = "cuda/code-edit/32b/match95/vs-vllm-ngram"
            found.append(ratio_row(bar, own["edit"]["95"]["rates"], best["rates"], 2.0, note))
    return found


def _chat(done: Results) -> list[Row]:
    own, baseline = done.get("own-8b-chat"), done.get("vllm-8b-chat")
    if own is None:
        return []
    found: list[Row] = []
    widest = max(own["chat"], key=int)
    for concurrency, seen in own["chat"].items():
        rate = seen["output_tokens_per_second"]
        found.append(
            Row(
                f"cuda/chat/8b/c{concurrency}/tokens-per-second",
                "tokens/s",
                "higher",
                None,
                rate,
                rate,
                rate,
                1,
                IN_PROCESS,
            )
        )
        if baseline is not None and concurrency in baseline["chat"]:
            ratio = rate / baseline["chat"][concurrency]["output_tokens_per_second"]
            target = 1.15 if concurrency == "1" else 1.10 if concurrency == widest else None
            note = f"vllm {baseline['version']}; {IN_PROCESS}; one run each, no interval"
            found.append(
                Row(f"cuda/chat/8b/c{concurrency}/vs-vllm", "ratio", "higher", target, ratio, ratio, ratio, 1, note)
            )
    return found


def roofline_table(results: Results) -> str:
    """The device and its kernels as Markdown; without a device step only a sentence."""
    device = results.get("device")
    if device is None or device.get("status") != "done":
        return "The device was not measured.\n"
    lines = [
        f"{device['name']}, PyTorch {device['torch']}, CUDA {device['cuda']}: "
        f"read {device['read_bytes_per_second'] / 1e12:.2f} TB/s, "
        f"copy {device['copy_bytes_per_second'] / 1e12:.2f} TB/s, bfloat16 {device['bfloat16_flops'] / 1e12:.0f} Tflop/s.",
        "",
        "| kernel | shapes | rows | context | block | TB/s | of reading | error, roundings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("kernels-8b", "kernels-32b"):
        for one in results.get(name, {}).get("kernels", ()):
            rate = float(np.median(one["bytes_per_second"]))
            share = rate / device["read_bytes_per_second"]
            lines.append(
                f"| {one['kernel']} | {name.removeprefix('kernels-')} | {one['rows']} | {one['context']} | "
                f"{one['block_tokens']} | {rate / 1e12:.2f} | {share:.2f} | {one['error']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def write(results: Results, folder: Path, *, seconds: float, command: str, record: bool) -> list[Row]:
    """Rows and roofline table into `folder`; with `record` also `benchmarks/results/gpu.json`."""
    found = rows(results)
    host = {**machine(), "accelerator": results.get("device", {}).get("name", "")}
    content = {
        "bench": "gpu",
        "commit": _commit(),
        "machine": host,
        "command": command,
        "seconds": round(seconds, 1),
        "rows": [{**asdict(row), "met": row.met} for row in found],
    }
    text = json.dumps(content, indent=1) + "\n"
    (folder / "rows.json").write_text(text, encoding="utf-8")
    (folder / "roofline.md").write_text(roofline_table(results), encoding="utf-8")
    if record and found:
        (RESULTS / "gpu.json").write_text(text, encoding="utf-8")
    return found


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""  # a bare machine may have no git
    return done.stdout.strip()
