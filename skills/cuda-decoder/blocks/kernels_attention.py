"""Attention over a paged cache in Triton, for decoding rows and for rows that verify a draft.

Flash-decoding (Dao et al., 2023) for grouped queries: a program takes one tile of rows of one sequence with all
query heads of one key head, so that keys and values are read once for all of them, and every `splits`-th block of
the context; a second kernel adds up what the splits found.

A row's result has the same bits whatever else is in its tile or in the step: blocks lie at fixed positions and go
to fixed splits, and a block that a row must not see leaves its sums untouched. Only another `splits` or
`block_tokens` rounds differently.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634


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
    """See `kernels_reference.attend`. No tile has more than `tile_rows` rows; `block_tokens` is a power of two from 16."""
    heads, head_dim = q.shape[1:]
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    count = tiles.shape[1]
    block_rows = max(16, triton.next_power_of_2(tile_rows * group))
    block_dim = max(16, triton.next_power_of_2(head_dim))
    partial = torch.empty((count, kv_heads, splits, block_rows, block_dim), dtype=torch.float32, device=q.device)
    sums = torch.empty((2, count, kv_heads, splits, block_rows), dtype=torch.float32, device=q.device)
    shape = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "splits": splits,
        "block_rows": block_rows,
        "block_dim": block_dim,
    }
    _attend_split[(count, kv_heads, splits)](
        q,
        keys,
        values,
        tiles,
        tables,
        partial,
        sums,
        count,
        tables.stride(0),
        head_dim**-0.5 * _LOG2_E,
        page_tokens=page_tokens,
        block_tokens=block_tokens,
        # bfloat16 and float16 multiply as they are; float32 must not be cut to TensorFloat-32.
        wide=q.dtype == torch.float32 or not q.is_cuda,
        **shape,
        **launch_options(block_rows, block_tokens, block_dim, q.element_size()),
    )
    _merge_splits[(count, kv_heads)](tiles, partial, sums, out, count, **shape, num_warps=4)


def launch_options(block_rows: int, block_tokens: int, block_dim: int, element_bytes: int) -> dict[str, int]:
    """Warps, and how many blocks of keys and values are under way at once: they have to fit into shared memory."""
    block_bytes = 2 * block_tokens * block_dim * element_bytes
    stages = 3 if block_bytes <= 32 << 10 else 2 if block_bytes <= 64 << 10 else 1
    return {"num_warps": 4 if block_rows <= 64 else 8, "num_stages": stages}


# Integers are not specialised on: a step with another number of tiles must not compile anything.
@triton.jit(do_not_specialize=["count", "table_stride"])
def _attend_split(
    q,
    keys,
    values,
    tiles,
    tables,
    partial,
    sums,
    count,
    table_stride,
    scale,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    splits: tl.constexpr,
    block_rows: tl.constexpr,
    block_dim: tl.constexpr,
    page_tokens: tl.constexpr,
    block_tokens: tl.constexpr,
    wide: tl.constexpr,
):
    """Softmax sums of one tile, one key head and every `splits`-th block: maximum, sum and weighted values by row."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    rows = tl.load(tiles + count + tile)
    if rows > 0:
        first = tl.load(tiles + tile).to(tl.int64)
        sequence = tl.load(tiles + 2 * count + tile).to(tl.int64)
        position = tl.load(tiles + 3 * count + tile)
        group: tl.constexpr = heads // kv_heads
        item = tl.arange(0, block_rows)  # a row and one of the query heads that share this key head
        row = item // group
        dim = tl.arange(0, block_dim)
        at_q = (first + row) * heads * head_dim + (kv_head * group + item % group) * head_dim
        live = (row < rows)[:, None] & (dim < head_dim)[None, :]
        x = tl.load(q + at_q[:, None] + dim[None, :], mask=live, other=0.0)
        if wide:
            x = x.to(tl.float32)
        most = tl.full((block_rows,), float("-inf"), tl.float32)
        total = tl.zeros((block_rows,), tl.float32)
        mixed = tl.zeros((block_rows, block_dim), tl.float32)
        end = position + rows
        for start in range(split * block_tokens, end, splits * block_tokens):
            token = start + tl.arange(0, block_tokens)
            known = token < end
            page = tl.load(tables + sequence * table_stride + token // page_tokens, mask=known, other=0).to(tl.int64)
            slot = ((page * page_tokens + token % page_tokens) * kv_heads + kv_head) * head_dim
            at = slot[:, None] + dim[None, :]
            readable = known[:, None] & (dim < head_dim)[None, :]
            k = tl.load(keys + at, mask=readable, other=0.0)
            v = tl.load(values + at, mask=readable, other=0.0)
            if wide:
                k = k.to(tl.float32)
                v = v.to(tl.float32)
            scores = tl.dot(x, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(token[None, :] <= (position + row)[:, None], scores, float("-inf"))
            highest = tl.maximum(most, tl.max(scores, 1))
            base = tl.where(highest == float("-inf"), 0.0, highest)  # nothing seen yet: no difference of infinities
            weight = tl.exp2(scores - base[:, None])
            fade = tl.exp2(most - base)
            total = total * fade + tl.sum(weight, 1)
            mixed = mixed * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
            most = highest
        place = (((tile * kv_heads + kv_head) * splits + split) * block_rows + item).to(tl.int64)
        tl.store(sums + place, most)
        tl.store(sums + count * kv_heads * splits * block_rows + place, total)
        tl.store(partial + place[:, None] * block_dim + dim[None, :], mixed)


@triton.jit(do_not_specialize=["count"])
def _merge_splits(
    tiles,
    partial,
    sums,
    out,
    count,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    splits: tl.constexpr,
    block_rows: tl.constexpr,
    block_dim: tl.constexpr,
):
    """Add up the splits of one tile and one key head, and write its rows."""
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    rows = tl.load(tiles + count + tile)
    if rows > 0:
        first = tl.load(tiles + tile).to(tl.int64)
        group: tl.constexpr = heads // kv_heads
        item = tl.arange(0, block_rows)
        row = item // group
        dim = tl.arange(0, block_dim)
        base = (tile * kv_heads + kv_head).to(tl.int64) * splits * block_rows + item
        totals = sums + count * kv_heads * splits * block_rows
        most = tl.full((block_rows,), float("-inf"), tl.float32)
        for split in range(splits):
            most = tl.maximum(most, tl.load(sums + base + split * block_rows))
        total = tl.zeros((block_rows,), tl.float32)
        mixed = tl.zeros((block_rows, block_dim), tl.float32)
        for split in range(splits):
            place = base + split * block_rows
            fade = tl.exp2(tl.load(sums + place) - most)
            total += tl.load(totals + place) * fade
            mixed += tl.load(partial + place[:, None] * block_dim + dim[None, :]) * fade[:, None]
        live = (row < rows)[:, None] & (dim < head_dim)[None, :]
        at = (first + row) * heads * head_dim + (kv_head * group + item % group) * head_dim
        tl.store(out + at[:, None] + dim[None, :], (mixed / total[:, None]).to(out.dtype.element_ty), mask=live)
