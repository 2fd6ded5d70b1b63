"""What every kernel of the CUDA decoder computes, in plain PyTorch: on any device, and what the Triton ones are held to.

Shapes are named once for all: R rows of a step, H hidden size, Q and K query and key heads, D head dimension, S slots of
the cache (a slot holds one position), T tiles (see `cuda_batch`), V vocabulary. Sums are float32 throughout.
"""

import torch
from torch import Tensor
from torch.nn import functional


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Add `delta` [R, H] to `residual` (float32 [R, H], in place); return its RMSNorm in `dtype` (arXiv 1910.07467)."""
    if delta is not None:
        residual += delta.float()
    return _rms_norm(residual, weight, eps).to(dtype)


def rotate_and_store(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Rotate the queries and keys of `qkv` [R, (Q + 2 K) * D], write keys and values into `slots`; return [R, Q, D].

    `positions` and `slots` are int32 [R]; `cosines` and `sines` float32 [positions, D / 2]; `keys` and `values` [S, K, D],
    written in place. `norms` are the weights of Qwen3's query and key norms, float32 [D]. The halves of a head rotate
    together, as Hugging Face lays them out (arXiv 2104.09864).
    """
    kv_heads, head_dim = keys.shape[1:]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    q, k, v = qkv.float().unflatten(1, (-1, head_dim)).split([heads, kv_heads, kv_heads], 1)
    if norms is not None:
        q, k = _rms_norm(q, norms[0], eps), _rms_norm(k, norms[1], eps)
    cos, sin = cosines[positions.long(), None], sines[positions.long(), None]
    keys[slots.long()] = _rotate(k, cos, sin).to(keys.dtype)
    values[slots.long()] = v.to(values.dtype)
    return _rotate(q, cos, sin).to(qkv.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of `gate_up` [R, 2 I] → [R, I] (arXiv 2002.05202)."""
    gate, up = gate_up.float().chunk(2, 1)
    return (functional.silu(gate) * up).to(gate_up.dtype)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: Tensor,
    tables: Tensor,
    out: Tensor,
    *,
    page_tokens: int,
    tile_rows: int,
    splits: int,
    block_tokens: int,
) -> None:
    """Causal attention of the rows in `tiles` over their pages, written into those rows of `out` [R, Q, D].

    `tiles` is int32 [4, T]: first row, number of rows (0: an empty tile), row of `tables`, position of the first row.
    `tables` is int32 [sequences, pages]. The keywords after `page_tokens` are how the kernel divides its work, and change
    nothing here but rounding.
    """
    del tile_rows, splits, block_tokens
    for first, rows, sequence, position in tiles.T.tolist():
        if rows == 0:
            continue
        end = position + rows
        at = torch.arange(end, device=q.device)
        slots = tables[sequence].long()[at // page_tokens] * page_tokens + at % page_tokens
        seen = at[None, :] <= torch.arange(position, end, device=q.device)[:, None]
        mixed = functional.scaled_dot_product_attention(
            q[first : first + rows].transpose(0, 1)[None],
            keys[slots].transpose(0, 1)[None],
            values[slots].transpose(0, 1)[None],
            attn_mask=seen,
            enable_gqa=True,
        )
        out[first : first + rows] = mixed[0].transpose(0, 1)


def choose(logits: Tensor) -> Tensor:
    """The token of the largest logit of every row of [R, V], the lowest of equal ones; −1 where a logit is not a number."""
    broken = logits.isnan().any(1)
    return torch.where(broken, -1, logits.argmax(1)).to(torch.int32)


def draw(logits: Tensor, chosen: Tensor, wishes: Tensor) -> None:
    """Sample the rows of `logits` (float32 [R, V]) that want it: their tokens take the place of the largest logits' in
    `chosen` (int32 [R], as `choose` left it).

    `wishes` is float32 [6, R]: temperature (0 or less: greedy, the row stays as it is), top_k (0: off), top_p (1: off),
    min_p (0: off), and the number in [0, 1) that draws, as two parts whose sum in float64 it is. A row without a finite
    largest logit stays as it is, and so does one whose choice is −1.

    What is kept and drawn is `sampling.draw`'s, but that a weight below 2^-64 of the largest is none. A kernel whose weights
    are float32 may draw another token where the number lies within 1e-6 of the boundary between the two.
    """
    for row, (temperature, top_k, top_p, min_p, coarse, fine) in enumerate(wishes.double().T.tolist()):
        best = int(chosen[row])
        if temperature <= 0 or best < 0 or logits[row, best].isinf():
            continue
        x = logits[row].double()
        weights = ((x - x[best]) / temperature).exp()
        weights[weights < max(min_p, 2.0**-64)] = 0.0
        if 0 < top_k < len(x):
            weights[x < x.topk(int(top_k)).values[-1]] = 0.0
        if top_p < 1:
            ordered, order = x.sort(descending=True)
            sums = weights[order].cumsum(0)
            kept = (sums - weights[order] < top_p * sums[-1]).sum().clamp(min=1)
            weights[x < ordered[kept - 1]] = 0.0
        sums = weights.cumsum(0)
        token = torch.searchsorted(sums, (coarse + fine) * sums[-1], right=True)
        chosen[row] = torch.minimum(token, weights.nonzero()[-1, 0])


def accept_drafts(chosen: Tensor, tokens: Tensor, segments: Tensor) -> Tensor:
    """How many drafted tokens of every segment the model chose itself, and what it makes of the row behind them: int32
    [2, segments] (arXiv 2211.17192, greedy).

    `chosen` and `tokens` are int32 [R]: what the model makes of each row, and what the row holds. `segments` is int32
    [2, segments]: first row and number of rows, the newest token and then its draft; without rows the result is 0 and −1.
    """
    accepted: list[int] = []
    behind: list[int] = []
    for first, rows in segments.T.tolist():
        right = chosen[first : first + max(0, rows - 1)] == tokens[first + 1 : first + max(1, rows)]
        accepted.append(int(right.int().cumprod(0).sum()))
        behind.append(int(chosen[first + accepted[-1]]) if rows else -1)
    return torch.tensor([accepted, behind], dtype=torch.int32, device=chosen.device)


def fp8_linear(x: Tensor, data: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """x [R, K] times weights [N, K] in e4m3, each channel with its scale (float32 [N]), plus bias → [R, N] in x's type."""
    product = x.float() @ data.float().T * scales
    return (product if bias is None else product + bias.float()).to(x.dtype)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)
