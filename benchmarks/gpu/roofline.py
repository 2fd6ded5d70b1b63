"""What bounds a kernel on this device, measured here: bandwidth of memory, rate of matrix products, the time of a launch;
and kernels against it, Triton's and PyTorch's.

Every kernel is first compared with its reference at the shapes of a real model, then timed as a graph of many
launches, so that the host is not what is measured, over data that does not fit into the second-level cache. Small steps move
so few bytes that a launch takes longer: a kernel's bound is the larger of both times.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
from sartor_skills.blocks.cuda_decoder import CHOOSABLE
from torch import Tensor

from benchmarks.gpu.models import Model
from sartor_skills.blocks import kernels_attention, kernels_choice, kernels_reference, kernels_rows

_REPEATS = 20
_TRIALS = 9
BLOCKS = (32, 64, 128)
PAGE_TOKENS = 16
TORCH = CHOOSABLE
"""Kernels that PyTorch has too, without waiting for the host. None of its kernels reads pages where they lie."""


def seconds_of(run: Callable[[int], object], device: torch.device) -> list[float]:
    """Seconds of one call of `run(i)`, several trials: `_REPEATS` calls with i = 0 … recorded as one graph.

    On a processor (dry runs) one call by the clock.
    """
    if device.type == "cpu":
        begun = time.perf_counter()
        run(0)
        return [time.perf_counter() - begun]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(_REPEATS):
            run(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(_REPEATS):
            run(index)
    found: list[float] = []
    for _ in range(_TRIALS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize(device)
        found.append(begin.elapsed_time(end) / 1000 / _REPEATS)
    return found


def device_rates(device: torch.device) -> dict[str, Any]:
    """Bytes a second read (a sum over 4 GiB) and written back (a copy), and bfloat16 operations a second (8192³)."""
    half = torch.empty(2 << 30, dtype=torch.bfloat16, device=device).normal_()
    other = torch.empty_like(half)
    read = seconds_of(lambda _, source=half: source.view(1024, -1).sum(1, dtype=torch.float32), device)
    copied = seconds_of(lambda _, source=half, target=other: target.copy_(source), device)
    del half, other
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device=device) for _ in range(2))
    product = seconds_of(lambda _: a @ b, device)
    one = torch.zeros(1, device=device)
    launch = seconds_of(lambda _: one.add_(1), device)
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": list(torch.cuda.get_device_capability(device)),
        "memory_bytes": properties.total_memory,
        "processors": properties.multi_processor_count,
        "uuid": str(getattr(properties, "uuid", "")),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "read_bytes_per_second": (4 << 30) / min(read),
        "copy_bytes_per_second": 2 * (4 << 30) / min(copied),
        "bfloat16_flops": 2 * 8192**3 / min(product),
        "launch_seconds": statistics.median(launch),
    }


class Check:
    """A kernel at one shape: `run(module, i)` with set i of the data; `moved`: bytes that it has to move at least.

    `module` has the kernels by name: the Triton modules together, or `kernels_reference`.
    """

    def __init__(
        self, name: str, moved: int, run: Callable[[Any, int], Tensor | None], results: Callable[[], Tensor]
    ) -> None:
        self.name, self.moved, self.run, self._results = name, moved, run, results

    def error(self) -> float:
        """Largest difference from the reference, in roundings of the format at the largest number."""
        found: list[Tensor] = []
        for module in (_KERNELS, kernels_reference):
            direct = self.run(module, 0)
            found.append((self._results() if direct is None else direct).float().clone())
        scale = float(found[1].abs().max()) * torch.finfo(torch.bfloat16).eps
        return float((found[0] - found[1]).abs().max()) / max(scale, 1e-30)

    def seconds(self, device: torch.device) -> dict[str, list[float]]:
        """Seconds of Triton's kernel and, where there is one, of PyTorch's."""
        modules: dict[str, Any] = {"triton": _KERNELS}
        if self.name in TORCH:
            modules["torch"] = kernels_reference
        return {
            name: seconds_of(lambda i, module=module: self.run(module, i), device) for name, module in modules.items()
        }


class _Kernels:
    add_rms_norm = staticmethod(kernels_rows.add_rms_norm)
    rotate_and_store = staticmethod(kernels_rows.rotate_and_store)
    swiglu = staticmethod(kernels_rows.swiglu)
    attend = staticmethod(kernels_attention.attend)
    choose = staticmethod(kernels_choice.choose)


_KERNELS = _Kernels()


def checks(
    model: Model, device: torch.device, *, rows: int, context: int, drafts: int, block_tokens: int, splits: int
) -> list[Check]:
    """The kernels of a step of `rows` sequences, `drafts` + 1 rows each in attention, at the shapes of `model`."""
    torch.manual_seed(1)

    def normal(*dims: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(dims, dtype=dtype, device=device)

    shape = model.shape
    hidden, inner, dim, heads, kv_heads = (
        shape.hidden, shape.intermediate, shape.head_dim, shape.heads, shape.kv_heads,
    )  # fmt: skip
    weight = normal(hidden, dtype=torch.float32)
    deltas = [normal(rows, hidden) for _ in range(_REPEATS)]
    gates = [normal(rows, 2 * inner) for _ in range(_REPEATS)]
    logits = [normal(rows, shape.vocab, dtype=torch.float32) for _ in range(4)]
    zeros = torch.zeros((rows, hidden), dtype=torch.float32, device=device)

    def norm(module: Any, i: int) -> Tensor:
        # The residual grows from call to call; what is compared begins anew.
        return module.add_rms_norm(zeros if i else zeros.zero_(), deltas[i], weight, 1e-5, torch.bfloat16)

    made = [
        Check("add_rms_norm", rows * hidden * 12, norm, lambda: zeros),
        Check("swiglu", rows * inner * 6, lambda module, i: module.swiglu(gates[i]), lambda: zeros),
        Check("choose", rows * shape.vocab * 4, lambda module, i: module.choose(logits[i % 4]), lambda: zeros),
    ]
    pages = -(-context // PAGE_TOKENS)
    slots = rows * pages * PAGE_TOKENS
    caches = [(normal(slots, kv_heads, dim), normal(slots, kv_heads, dim)) for _ in range(4)]
    tables = torch.randperm(rows * pages, device=device).to(torch.int32).reshape(rows, pages)
    width = drafts + 1
    tile_rows = max(1, (16 if drafts == 0 else 64) * kv_heads // heads)
    tiles = [
        (row * width + done, min(tile_rows, width - done), row, context - width + done)
        for row in range(rows)
        for done in range(0, width, tile_rows)
    ]
    q = normal(rows * width, heads, dim)
    out = torch.zeros_like(q)
    cut = torch.tensor(tiles, dtype=torch.int32, device=device).T.contiguous()

    def attend(module: Any, i: int) -> None:
        module.attend(
            q, *caches[i % 4], cut, tables, out, page_tokens=PAGE_TOKENS, tile_rows=tile_rows, splits=splits,
            block_tokens=block_tokens,
        )  # fmt: skip

    made.append(Check("attend", rows * context * kv_heads * dim * 4, attend, lambda: out))
    positions = torch.full((rows,), context - 1, dtype=torch.int32, device=device)
    places = torch.arange(rows, dtype=torch.int32, device=device)
    angles = torch.rand((context, dim // 2), device=device)
    cosines, sines = angles.cos(), angles.sin()
    qkv = [normal(rows, (heads + 2 * kv_heads) * dim) for _ in range(_REPEATS)]
    normed = model.architecture == "qwen3"
    norms = (normal(dim, dtype=torch.float32), normal(dim, dtype=torch.float32)) if normed else None

    def rotate(module: Any, i: int) -> Tensor:
        return module.rotate_and_store(qkv[i], positions, places, cosines, sines, *caches[0], norms, 1e-6)

    made.append(Check("rotate_and_store", 4 * rows * (heads + 2 * kv_heads) * dim, rotate, lambda: out))
    return made


def compare(model: Model, device: torch.device, cases: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """Each kernel of each case: its error, and the seconds of Triton's and of PyTorch's. Attention at each block size."""
    found: list[dict[str, Any]] = []
    for case in cases:
        for block_tokens in BLOCKS:
            found += [
                {
                    "kernel": check.name, **case, "block_tokens": block_tokens, "error": check.error(),
                    "moved": check.moved, "seconds": check.seconds(device),
                }
                for check in checks(model, device, block_tokens=block_tokens, **case)
                if block_tokens == 64 or check.name == "attend"
            ]  # fmt: skip
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found
