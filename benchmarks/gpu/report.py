"""From what the steps left to rows of figures, a roofline table, and `benchmarks/results/gpu.json`. A figure that was
not measured has no row.

A decode step's bound is the bytes of all weights but the embedding table (of which a step reads one row) over the
bandwidth that was measured for reading. What a dry run gives carries another name throughout (`dry-run/…`) and is never
written among the results.
"""

import json
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.choice import ENOUGH, Timed, block, chosen, timed
from benchmarks.gpu.choice import record as choice_record
from benchmarks.support.record import RESULTS, ROOT, Row, machine, median_row

_WITHIN = 1.15
DRY = "dry-run/"
DRY_NOTE = "a dry run on a processor with a tiny model: no figure of any device"
Results = Mapping[str, Mapping[str, Any]]


def rows(results: Results) -> list[Row]:
    """Every figure that `results` (by step) holds."""
    done = _done(results)
    return [*_kernels(done), *_decode(done), *_served(done)]


def _done(results: Results) -> Results:
    return {name: result for name, result in results.items() if result.get("status") == "done"}


def _served(done: Results) -> list[Row]:
    """What the evaluator and the judge said, as the steps wrote it."""
    return [
        Row(**row)
        for name, result in done.items()
        if name.partition("-")[0] in ("gate_edit", "gate_chat", "edit", "ngram", "chat")
        for row in result.get("rows", ())
    ]


def _timed(done: Results) -> dict[str, list[Timed]]:
    """The kernels by size of model."""
    return {
        name.partition("-")[2]: timed(result["kernels"], done["device"])
        for name, result in done.items()
        if name.startswith("kernels-") and "device" in done
    }


def _kernels(done: Results) -> list[Row]:
    found: list[Row] = []
    for size, kernels in _timed(done).items():
        best, kept = block(kernels), chosen(kernels)
        for one in kernels:
            if one.kernel == "attend" and one.block_tokens != best:
                continue
            how = kept[one.kernel]
            others = "; ".join(f"{name} {seconds * 1e6:.1f} µs" for name, seconds in one.seconds.items())
            note = (
                f"{how}'s kernel is kept ({others}); context {one.context}, drafts {one.drafts}"
                + (f", block of {one.block_tokens}" if one.kernel == "attend" else "")
                + f"; Triton's differs from its reference by {one.error:.1f} {one.unit}"
                + ("" if one.right else ": it is wrong and not used")
            )
            bar = f"cuda/kernel/{one.kernel.replace('_', '-')}/{size}/rows{one.rows}/of-bound"
            found.append(median_row(bar, "ratio", "higher", one.shares[how], ENOUGH, note))
    return found


def _decode(done: Results) -> list[Row]:
    found: list[Row] = []
    for name, own in done.items():
        if name.startswith("decode-") and "device" in done:
            bound = own["step_bytes"] / done["device"]["read_bytes_per_second"]
            over = [seconds / bound for seconds in own["step_seconds"]]
            alone = 1000 * statistics.median(own["alone_seconds"])
            note = (
                f"the decoder alone, in the process, a step begun before the last one ended (else {alone:.2f} ms); "
                f"weights in {1000 * bound:.2f} ms at the bandwidth measured; "
                f"context {own['context']}; {own['arithmetic']}; loaded in {own['load_seconds']:.0f} s"
            )
            bar = f"cuda/decode/{name.partition('-')[2]}/c1/over-bound"
            found.append(median_row(bar, "ratio", "lower", over, _WITHIN, note))
    return found


def roofline_table(results: Results) -> str:
    """The device and its kernels as Markdown; without a device step only a sentence."""
    done = _done(results)
    device = done.get("device")
    if device is None:
        return "The device was not measured.\n"
    lines = [
        f"{device['name']}, PyTorch {device['torch']}, CUDA {device['cuda']}: "
        f"read {device['read_bytes_per_second'] / 1e12:.2f} TB/s, "
        f"copy {device['copy_bytes_per_second'] / 1e12:.2f} TB/s, bfloat16 {device['bfloat16_flops'] / 1e12:.0f} Tflop/s, "
        f"a launch {device['launch_seconds'] * 1e6:.1f} µs.",
        "",
        "A share is that of the kernel's bound: its bytes over the bandwidth for reading, or a launch where that is longer.",
        "",
        "| kernel | shapes | rows | context | block | Triton, µs | share | PyTorch, µs | share | kept | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, kernels in _timed(done).items():
        best, kept = block(kernels), chosen(kernels)
        for one in kernels:
            cells = [f"{one.kernel} | {size} | {one.rows} | {one.context} | {one.block_tokens}"]
            for how in ("triton", "torch"):
                seconds = one.seconds.get(how)
                cells.append("– | –" if seconds is None else f"{1e6 * seconds:.1f} | {max(one.shares[how]):.2f}")
            left = one.kernel == "attend" and one.block_tokens != best
            cells.append(f"{'' if left else kept[one.kernel]} | {one.error:.1f} {one.unit}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(
    results: Results, folder: Path, *, seconds: float, command: str, record: bool, dry: bool = False
) -> list[Row]:
    """Rows, roofline table and choice of kernels into `folder`; with `record` also `benchmarks/results/gpu.json`.

    Raises `ValueError` for a dry run that is to be recorded.
    """
    if dry and record:
        raise ValueError("a dry run is no measurement and is not recorded")
    found = rows(results)
    if dry:
        found = [
            replace(row, bar=DRY + row.bar, target=None, note=f"{DRY_NOTE}; {row.note}") for row in found
        ]  # fmt: skip
    done = _done(results)
    content = {
        "bench": "gpu-dry-run" if dry else "gpu",
        "commit": _commit(),
        "machine": {**machine(), "accelerator": None if dry else done.get("device", {}).get("name", "")},
        "command": command,
        "seconds": round(seconds, 1),
        "rows": [{**asdict(row), "met": row.met} for row in found],
    }
    text = json.dumps(content, indent=1) + "\n"
    (folder / "rows.json").write_text(text, encoding="utf-8")
    (folder / "roofline.md").write_text((f"{DRY_NOTE}.\n\n" if dry else "") + roofline_table(results), encoding="utf-8")
    for size, kernels in _timed(done).items():
        kept = {**choice_record(kernels, done["device"], size), "dry_run": dry}
        (folder / f"kernel-choice-{size}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if record and found:
        (RESULTS / "gpu.json").write_text(text, encoding="utf-8")
    return found


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""  # a bare machine may have no git
    return done.stdout.strip()
