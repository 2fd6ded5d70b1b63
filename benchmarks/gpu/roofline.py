"""What bounds a kernel on this device, measured here: bandwidth of memory, rate of matrix products; and kernels
against it.

Every kernel is first compared with its reference at the shapes of a real model, then timed as a graph of many
launches, so that the host is not what is measured, over data that does not fit into the second-level cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sartor_skills.blocks import kernels_attention, kernels_choice, kernels_reference, kernels_rows, spec

_REPEATS = 20
_TRIALS = 9


def seconds_of(run: Callable[[int], object], device: torch.device) -> list[float]:
    """Seconds of one call of `run(i)`, several trials: `_REPEATS` calls with i = 0 … recorded as one graph."""
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
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": list(torch.cuda.get_device_capability(device)),
        "memory_bytes": properties.total_memory,
        "processors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "read_bytes_per_second": (4 << 30) / min(read),
        "copy_bytes_per_second": 2 * (4 << 30) / min(copied),
        "bfloat16_flops": 2 * 8192**3 / min(product),
    }


class Check:
    """A kernel at one shape: `run(module, i)` with set i of the data; `moved`: bytes that it has to move at least."""

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


class _Kernels:
    add_rms_norm = staticmethod(kernels_rows.add_rms_norm)
    rotate_and_store = staticmethod(kernels_rows.rotate_and_store)
    swiglu = staticmethod(kernels_rows.swiglu)
    attend = staticmethod(kernels_attention.attend)
    choose = staticmethod(kernels_choice.choose)


_KERNELS = _Kernels()


def checks(
    device: torch.device, *, rows: int, context: int, drafts: int, block_tokens: int, splits: int
) -> list[Check]:
    """The kernels of a step of `rows` sequences, `drafts` + 1 rows each in attention, at the shapes of `spec`."""
    torch.manual_seed(1)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    hidden, inner, dim = spec.HIDDEN_SIZE, spec.INTERMEDIATE_SIZE, spec.HEAD_DIM
    weight = normal(hidden, dtype=torch.float32)
    deltas = [normal(rows, hidden) for _ in range(_REPEATS)]
    gates = [normal(rows, 2 * inner) for _ in range(_REPEATS)]
    logits = [normal(rows, spec.VOCAB_SIZE, dtype=torch.float32) for _ in range(4)]
    zeros = torch.zeros((rows, hidden), dtype=torch.float32, device=device)
    made = [
        Check(
            "residual-norm",
            rows * hidden * 12,
            lambda module, i: module.add_rms_norm(zeros, deltas[i], weight, 1e-5, torch.bfloat16),
            lambda: zeros,
        ),
        Check("swiglu", rows * inner * 6, lambda module, i: module.swiglu(gates[i]), lambda: zeros),
        Check("argmax", rows * spec.VOCAB_SIZE * 4, lambda module, i: module.choose(logits[i % 4]), lambda: zeros),
    ]
    pages = -(-context // spec.PAGE_TOKENS)
    slots = rows * pages * spec.PAGE_TOKENS
    caches = [(normal(slots, spec.KV_HEADS, dim), normal(slots, spec.KV_HEADS, dim)) for _ in range(4)]
    tables = torch.randperm(rows * pages, device=device).to(torch.int32).reshape(rows, pages)
    width = drafts + 1
    tile_rows = max(1, (16 if drafts == 0 else 64) * spec.KV_HEADS // spec.HEADS)
    tiles = [
        (row * width + done, min(tile_rows, width - done), row, context - width + done)
        for row in range(rows)
        for done in range(0, width, tile_rows)
    ]
    q = normal(rows * width, spec.HEADS, dim)
    out = torch.zeros_like(q)
    cut = torch.tensor(tiles, dtype=torch.int32, device=device).T.contiguous()

    def attend(module: Any, i: int) -> None:
        module.attend(
            q, *caches[i % 4], cut, tables, out, page_tokens=spec.PAGE_TOKENS, tile_rows=tile_rows, splits=splits,
            block_tokens=block_tokens,
        )  # fmt: skip

    made.append(Check("attention", rows * context * spec.KV_HEADS * dim * 4, attend, lambda: out))
    positions = torch.full((rows,), context - 1, dtype=torch.int32, device=device)
    places = torch.arange(rows, dtype=torch.int32, device=device)
    angles = torch.rand((context, dim // 2), device=device)
    qkv = [normal(rows, (spec.HEADS + 2 * spec.KV_HEADS) * dim) for _ in range(_REPEATS)]
    norms = (normal(dim, dtype=torch.float32), normal(dim, dtype=torch.float32)) if spec.QK_NORM else None

    def rotate(module: Any, i: int) -> Tensor:
        return module.rotate_and_store(qkv[i], positions, places, angles.cos(), angles.sin(), *caches[0], norms, 1e-6)

    made.append(Check("rotary-and-cache", 4 * rows * (spec.HEADS + 2 * spec.KV_HEADS) * dim, rotate, lambda: out))
    return made


def measure(check: Check, device: torch.device) -> list[float]:
    """Bytes a second that the kernel moved, trial by trial."""
    return [check.moved / seconds for seconds in seconds_of(lambda i: check.run(_KERNELS, i), device)]
