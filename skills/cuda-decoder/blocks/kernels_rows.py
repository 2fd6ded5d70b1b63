"""Triton kernels over the rows of a step: residual and RMSNorm, rotary embedding and cache write, SwiGLU.

Each replaces a handful of PyTorch operations by one pass over its data. What they compute is in `kernels_reference`, with
the same names, arguments and shapes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """See `kernels_reference.add_rms_norm`."""
    rows, width = residual.shape
    out = torch.empty((rows, width), dtype=dtype, device=residual.device)
    block = triton.next_power_of_2(width)
    _add_rms_norm[(rows,)](
        residual,
        residual if delta is None else delta,
        weight,
        out,
        eps,
        width=width,
        block=block,
        adds=delta is not None,
        num_warps=min(16, max(1, block // 512)),
    )
    return out


@triton.jit
def _add_rms_norm(residual, delta, weight, out, eps, width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    x = tl.load(residual + row + column, mask=inside, other=0.0)
    if adds:
        x += tl.load(delta + row + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row + column, x, mask=inside)
    scale = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
    y = x * scale * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row + column, y.to(out.dtype.element_ty), mask=inside)


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
    """See `kernels_reference.rotate_and_store`."""
    rows = qkv.shape[0]
    kv_heads, head_dim = keys.shape[1:]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    out = torch.empty((rows, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    q_norm, k_norm = norms or (cosines, cosines)
    _rotate_and_store[(rows, heads + kv_heads)](
        qkv,
        positions,
        slots,
        cosines,
        sines,
        keys,
        values,
        q_norm,
        k_norm,
        out,
        eps,
        heads=heads,
        kv_heads=kv_heads,
        half=head_dim // 2,
        block=triton.next_power_of_2(head_dim // 2),
        normed=norms is not None,
        num_warps=1,
    )
    return out


@triton.jit
def _rotate_and_store(
    qkv,
    positions,
    slots,
    cosines,
    sines,
    keys,
    values,
    q_norm,
    k_norm,
    out,
    eps,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    block: tl.constexpr,
    normed: tl.constexpr,
):
    """One row and one head: a query head, or a key head together with its values."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.arange(0, block)
    inside = column < half
    source = qkv + row * (heads + 2 * kv_heads) * 2 * half + head * 2 * half
    first = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half + column, mask=inside, other=0.0).to(tl.float32)
    if normed:
        scale = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * half) + eps)
        query = head < heads
        q_weight = tl.load(q_norm + column, mask=inside & query, other=0.0)
        k_weight = tl.load(k_norm + column, mask=inside & (head >= heads), other=0.0)
        first = first * scale * (q_weight + k_weight)  # one of the two is zero
        q_weight = tl.load(q_norm + half + column, mask=inside & query, other=0.0)
        k_weight = tl.load(k_norm + half + column, mask=inside & (head >= heads), other=0.0)
        second = second * scale * (q_weight + k_weight)
    angle = tl.load(positions + row).to(tl.int64) * half + column
    cos = tl.load(cosines + angle, mask=inside, other=0.0)
    sin = tl.load(sines + angle, mask=inside, other=0.0)
    turned = first * cos - second * sin
    turned_second = second * cos + first * sin
    if head < heads:
        target = out + (row * heads + head) * 2 * half
        tl.store(target + column, turned.to(out.dtype.element_ty), mask=inside)
        tl.store(target + half + column, turned_second.to(out.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slots + row).to(tl.int64) * kv_heads * 2 * half + (head - heads) * 2 * half
        tl.store(keys + slot + column, turned.to(keys.dtype.element_ty), mask=inside)
        tl.store(keys + slot + half + column, turned_second.to(keys.dtype.element_ty), mask=inside)
        read = source + kv_heads * 2 * half
        tl.store(values + slot + column, tl.load(read + column, mask=inside, other=0.0), mask=inside)
        tl.store(values + slot + half + column, tl.load(read + half + column, mask=inside, other=0.0), mask=inside)


def swiglu(gate_up: Tensor) -> Tensor:
    """See `kernels_reference.swiglu`."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(width))
    _swiglu[(rows, triton.cdiv(width, block))](gate_up, out, width=width, block=block, num_warps=4)
    return out


@triton.jit
def _swiglu(gate_up, out, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + column, y.to(out.dtype.element_ty), mask=inside)
