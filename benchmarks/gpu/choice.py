"""Which kernels a stack gets, from what was measured: Triton's or PyTorch's for each, and the block of attention.

The faster one is taken, summed over the shapes that were timed, and never one that differs from its reference. A Triton
kernel below 80 % of what bounds it stays only where PyTorch's is slower still; its row says that the bar was not met.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ENOUGH = 0.8
MOST_ROUNDINGS, MOST_ROWS = 16.0, 1.0
"""What a right kernel may differ by: roundings of the format at the largest number; where it gives tokens, rows in which
rounding has decided between two of them."""
TOKENS = ("choose", "draw_greedy", "draw_top_p")


@dataclass(frozen=True)
class Timed:
    """One kernel at one shape: medians of seconds, and the share of its bound that each implementation reaches."""

    kernel: str
    rows: int
    context: int
    drafts: int
    block_tokens: int
    error: float
    seconds: Mapping[str, float]
    shares: Mapping[str, tuple[float, ...]]

    @property
    def unit(self) -> str:
        """Of `error`."""
        return "rows" if self.kernel in TOKENS else "roundings"

    @property
    def right(self) -> bool:
        return _right(self.kernel, self.error)


def _right(kernel: str, error: float) -> bool:
    return error <= (MOST_ROWS if kernel in TOKENS else MOST_ROUNDINGS)  # of what is no number neither


def unusable(kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Kernels that are wrong at some shape and that PyTorch has no other for, with what they differ by."""
    return [
        f"{one['kernel']} ({one['rows']} rows, context {one['context']}, {one['drafts']} drafts, block of "
        f"{one['block_tokens']}) by {one['error']:.3g}"
        for one in kernels
        if not _right(one["kernel"], one["error"]) and "torch" not in one["seconds"]
    ]


def timed(kernels: Sequence[Mapping[str, Any]], device: Mapping[str, Any]) -> list[Timed]:
    """What `roofline.compare` measured, against the device's own bandwidth and the time of a launch."""
    bandwidth, launch = float(device["read_bytes_per_second"]), float(device["launch_seconds"])
    return [
        Timed(
            one["kernel"], one["rows"], one["context"], one["drafts"], one["block_tokens"], one["error"],
            {name: statistics.median(values) for name, values in one["seconds"].items()},
            {
                name: tuple(max(one["moved"] / bandwidth, launch) / value for value in values)
                for name, values in one["seconds"].items()
            },
        )
        for one in kernels
    ]  # fmt: skip


def block(found: Sequence[Timed]) -> int:
    """The block of attention that took the least time over all shapes."""
    times: dict[int, float] = {}
    for one in found:
        if one.kernel == "attend":
            times[one.block_tokens] = times.get(one.block_tokens, 0.0) + one.seconds["triton"]
    return min(times, key=lambda size: times[size])


def chosen(found: Sequence[Timed]) -> dict[str, Literal["triton", "torch"]]:
    """The implementation of each kernel."""
    sums: dict[str, dict[str, float]] = {}
    size = block(found)
    for one in found:
        if one.kernel != "attend" or one.block_tokens == size:
            times = sums.setdefault(one.kernel, {})
            for name, seconds in one.seconds.items():
                times[name] = times.get(name, 0.0) + seconds
    wrong = {one.kernel for one in found if not one.right}
    return {
        kernel: "torch" if "torch" in times and (kernel in wrong or times["torch"] < times["triton"]) else "triton"
        for kernel, times in sums.items()
    }


def parameters(found: Sequence[Timed]) -> dict[str, str | int]:
    """The same as parameters of the recipe `cuda-decoder`."""
    kept = sorted(name for name, how in chosen(found).items() if how == "torch")
    return {"TORCH_KERNELS": ",".join(kept), "ATTENTION_BLOCK": block(found)}


def recorded(steps: Path, size: str) -> dict[str, str | int]:
    """The parameters that follow from the steps in `steps`: kernels of this size, else of any; none where none was timed."""
    try:
        device = json.loads((steps / "step-device.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    for path in (steps / f"step-kernels-{size}.json", *sorted(steps.glob("step-kernels-*.json"))):
        try:
            kernels = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if kernels.get("status") == "done":
            return parameters(timed(kernels["kernels"], device))
    return {}


def record(found: Sequence[Timed], device: Mapping[str, Any], size: str) -> dict[str, Any]:
    """The choice with the machine that it was made on, for `kernel-choice-SIZE.json`."""
    machine = {name: device.get(name) for name in ("name", "uuid", "capability", "torch", "triton", "cuda", "driver")}
    return {"machine": machine, "size": size, "parameters": parameters(found), "kernels": chosen(found)}
