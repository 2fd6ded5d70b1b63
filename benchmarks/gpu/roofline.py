"""Kernels against what bounds them on this device (`sartor_agents.measurement.device_probe`), Triton's and PyTorch's.

Every kernel is first compared with its reference at the shapes of a real model, then timed as a graph of many
launches, so that the host is not what is measured, over data that does not fit into the second-level cache. Small steps move
so few bytes that a launch takes longer: a kernel's bound is the larger of both times.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from sartor_skills.blocks.cuda_kernels import CHOOSABLE
from torch import Tensor

from benchmarks.gpu.choice import TOKENS
from benchmarks.gpu.models import Model
from sartor_agents.measurement.device_probe import REPEATS, seconds_of
from sartor_skills.blocks import kernels_attention, kernels_choice, kernels_draw, kernels_reference, kernels_rows

BLOCKS = (32, 64, 128)
PAGE_TOKENS = 16
TORCH = CHOOSABLE
"""Kernels that PyTorch has too, without waiting for the host. None of its kernels reads pages where they lie."""


class Check:
    """A kernel at one shape: `run(module, i)` with set i of the data; `moved`: bytes that it has to move at least.

    `module` has the kernels by name: the Triton modules together, or `kernels_reference`.
    """

    def __init__(
        self, name: str, moved: int, run: Callable[[Any, int], Tensor | None], results: Callable[[], Tensor]
    ) -> None:
        self.name, self.moved, self.run, self._results = name, moved, run, results

    def error(self) -> float:
        """Largest difference from the reference, in roundings of the format at the largest number; of tokens the rows that
        differ (`choice.TOKENS`)."""
        found: list[Tensor] = []
        for module in (_KERNELS, kernels_reference):
            direct = self.run(module, 0)
            found.append((self._results() if direct is None else direct).float().clone())
        if self.name in TOKENS:
            return float((found[0] != found[1]).sum())
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
    draw = staticmethod(kernels_draw.draw)


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
    deltas = [normal(rows, hidden) for _ in range(REPEATS)]
    gates = [normal(rows, 2 * inner) for _ in range(REPEATS)]
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
    made += _draws(rows, shape.vocab, device)
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
    qkv = [normal(rows, (heads + 2 * kv_heads) * dim) for _ in range(REPEATS)]
    normed = model.architecture == "qwen3"
    norms = (normal(dim, dtype=torch.float32), normal(dim, dtype=torch.float32)) if normed else None

    def rotate(module: Any, i: int) -> Tensor:
        return module.rotate_and_store(qkv[i], positions, places, cosines, sines, *caches[0], norms, 1e-6)

    made.append(Check("rotate_and_store", 4 * rows * (heads + 2 * kv_heads) * dim, rotate, lambda: out))
    return made


def _draws(rows: int, vocabulary: int, device: torch.device) -> list[Check]:
    """Sampling at top_p 0.95, and what it costs rows that are greedy.

    Logits are spread as a trained model's, so that hardly a number lies where rounding decides between two tokens. A row
    has to be read once; the kernel reads it again for every pass of its search.
    """
    logits = [8 * torch.randn((rows, vocabulary), device=device) for _ in range(4)]
    greedy = [kernels_reference.choose(one) for one in logits]
    wishes = torch.zeros((6, rows), device=device)
    wishes[2] = 1.0
    sampled = wishes.clone()
    sampled[0], sampled[2] = 1.0, 0.95
    sampled[4] = (torch.arange(rows, device=device) + 0.5) / rows
    chosen = torch.zeros(rows, dtype=torch.int32, device=device)

    def leave(module: Any, i: int) -> Tensor:
        module.draw(logits[i % 4], greedy[i % 4], wishes)
        return greedy[i % 4]

    def draw(module: Any, i: int) -> Tensor:
        chosen.copy_(greedy[i % 4])  # the last draw is there; this launch is counted too
        module.draw(logits[i % 4], chosen, sampled)
        return chosen

    return [
        Check("draw_greedy", rows * 8, leave, lambda: chosen),
        Check("draw_top_p", rows * vocabulary * 4, draw, lambda: chosen),
    ]


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
