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


def accept_prefix(chosen: Tensor, tokens: Tensor, segments: Tensor) -> Tensor:
    """See `kernels_reference.accept_prefix`; a segment may have up to 1024 rows."""
    count = segments.shape[1]
    accepted = torch.empty(count, dtype=torch.int32, device=chosen.device)
    block = max(16, min(1024, triton.next_power_of_2(chosen.shape[0])))
    _accept_prefix[(count,)](chosen, tokens, segments, accepted, count, block=block, num_warps=1)
    return accepted


@triton.jit(do_not_specialize=["count"])
def _accept_prefix(chosen, tokens, segments, accepted, count, block: tl.constexpr):
    segment = tl.program_id(0)
    first = tl.load(segments + segment)
    drafted = tl.load(segments + count + segment) - 1
    item = tl.arange(0, block)
    made = tl.load(chosen + first + item, mask=item < drafted, other=0)
    held = tl.load(tokens + first + 1 + item, mask=item < drafted, other=0)
    wrong = tl.where((item < drafted) & (made != held), item, drafted)
    tl.store(accepted + segment, tl.min(wrong, 0))
