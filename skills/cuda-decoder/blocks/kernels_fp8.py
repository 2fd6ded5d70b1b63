"""A matrix product of few rows with weights in 8 bits, in Triton: bound by reading them, once.

What it computes is in `kernels_reference.fp8_linear`. The 8 bits of e4m3, moved into a half-precision number, are that
number times 2⁻⁸ (subnormal ones too), so no device needs instructions for them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_SHIFTED = 256.0  # e4m3 in the bits of a half-precision number is so much too small


def fp8_linear(x: Tensor, data: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels_reference.fp8_linear`; for up to 64 rows."""
    rows, inner = x.shape
    outer = data.shape[0]
    out = torch.empty((rows, outer), dtype=x.dtype, device=x.device)
    block_rows = max(16, triton.next_power_of_2(rows))
    block_outer, block_inner = 32, min(256, max(16, triton.next_power_of_2(inner)))
    _fp8_linear[(triton.cdiv(outer, block_outer),)](
        x,
        data.view(torch.uint8),
        scales,
        scales if bias is None else bias,
        out,
        rows,
        inner=inner,
        outer=outer,
        block_rows=block_rows,
        block_outer=block_outer,
        block_inner=block_inner,
        biased=bias is not None,
        # bfloat16 and float16 multiply as they are; float32 must not be cut to TensorFloat-32.
        wide=x.dtype == torch.float32 or not x.is_cuda,
        shifted=_SHIFTED,
        num_warps=4,
        num_stages=4,
    )
    return out


@triton.jit(do_not_specialize=["rows"])
def _fp8_linear(
    x,
    data,
    scales,
    bias,
    out,
    rows,
    inner: tl.constexpr,
    outer: tl.constexpr,
    block_rows: tl.constexpr,
    block_outer: tl.constexpr,
    block_inner: tl.constexpr,
    biased: tl.constexpr,
    wide: tl.constexpr,
    shifted: tl.constexpr,
):
    channel = tl.program_id(0) * block_outer + tl.arange(0, block_outer)
    row = tl.arange(0, block_rows)
    inside = channel < outer
    at = channel.to(tl.int64) * inner
    total = tl.zeros((block_rows, block_outer), tl.float32)
    for start in range(0, inner, block_inner):
        place = start + tl.arange(0, block_inner)
        known = place < inner
        bits = tl.load(data + at[:, None] + place[None, :], mask=inside[:, None] & known[None, :], other=0).to(tl.int16)
        half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        weight = half.to(tl.float16, bitcast=True)
        reads = (row < rows)[:, None] & known[None, :]
        held = tl.load(x + row[:, None] * inner + place[None, :], mask=reads, other=0.0)
        weight = weight.to(tl.float32) if wide else weight.to(held.dtype)
        held = held.to(tl.float32) if wide else held
        total += tl.dot(held, tl.trans(weight), input_precision="ieee")
    total = total * (tl.load(scales + channel, mask=inside, other=0.0) * shifted)[None, :]
    if biased:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    target = out + row[:, None] * outer + channel[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & inside[None, :])
