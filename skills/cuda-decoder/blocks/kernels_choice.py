"""Triton kernels over logits and drafts: the largest logit of a row, and how much of a draft was right.

See `kernels_reference` for what they compute. With them a greedy step hands four bytes a row to the host, not a vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_NONE = 0x7FFFFFFF


def choose(logits: Tensor) -> Tensor:
    """See `kernels_reference.choose`."""
    rows, vocabulary = logits.shape
    block = min(4096, triton.next_power_of_2(vocabulary))
    parts = triton.cdiv(vocabulary, block)
    best = torch.empty((rows, parts), dtype=torch.float32, device=logits.device)
    place = torch.empty((rows, parts), dtype=torch.int32, device=logits.device)
    chosen = torch.empty(rows, dtype=torch.int32, device=logits.device)
    _choose_part[(rows, parts)](
        logits, best, place, logits.stride(0), vocabulary=vocabulary, parts=parts, block=block, none=_NONE, num_warps=8
    )
    _choose_row[(rows,)](best, place, chosen, parts=parts, block=triton.next_power_of_2(parts), none=_NONE, num_warps=1)
    return chosen


@triton.jit(do_not_specialize=["stride"])
def _choose_part(
    logits,
    best,
    place,
    stride,
    vocabulary: tl.constexpr,
    parts: tl.constexpr,
    block: tl.constexpr,
    none: tl.constexpr,
):
    """Largest number of one stretch of one row and where it stands; −1 where one is not a number."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    column = part * block + tl.arange(0, block)
    x = tl.load(logits + row * stride + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
    broken = tl.max((x != x).to(tl.int32), 0)
    x = tl.where(x != x, float("-inf"), x)
    most = tl.max(x, 0)
    found = tl.min(tl.where((x == most) & (column < vocabulary), column, none), 0)
    tl.store(best + row * parts + part, most)
    tl.store(place + row * parts + part, tl.where(broken > 0, -1, found))


@triton.jit
def _choose_row(best, place, chosen, parts: tl.constexpr, block: tl.constexpr, none: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, block)
    x = tl.load(best + row * parts + part, mask=part < parts, other=float("-inf"))
    where = tl.load(place + row * parts + part, mask=part < parts, other=none)
    first = tl.min(tl.where(x == tl.max(x, 0), where, none), 0)
    tl.store(chosen + row, tl.where(tl.min(where, 0) < 0, -1, first))


def accept_drafts(chosen: Tensor, tokens: Tensor, segments: Tensor) -> Tensor:
    """See `kernels_reference.accept_drafts`; a segment may have up to 1024 rows."""
    count = segments.shape[1]
    found = torch.empty((2, count), dtype=torch.int32, device=chosen.device)
    block = max(16, min(1024, triton.next_power_of_2(chosen.shape[0])))
    _accept_drafts[(count,)](chosen, tokens, segments, found, count, block=block, num_warps=1)
    return found


@triton.jit(do_not_specialize=["count"])
def _accept_drafts(chosen, tokens, segments, found, count, block: tl.constexpr):
    segment = tl.program_id(0)
    first = tl.load(segments + segment)
    rows = tl.load(segments + count + segment)
    drafted = tl.maximum(rows - 1, 0)
    item = tl.arange(0, block)
    # Beyond the draft both are the same, so only a drafted token can be wrong.
    made = tl.load(chosen + first + item, mask=item < drafted, other=0)
    held = tl.load(tokens + first + 1 + item, mask=item < drafted, other=0)
    accepted = tl.min(tl.where(made != held, item, drafted), 0)
    tl.store(found + segment, accepted)
    behind = tl.load(chosen + first + accepted, mask=rows > 0, other=-1)
    tl.store(found + count + segment, behind)
