"""Weights of the layers in 8 bits: half the bytes that a decode step reads, and less accurate numbers.

Each output channel is scaled so that its largest weight is the largest number of e4m3 (arXiv 2209.05433, 448); activations
and sums stay what they are. The embedding table and the head are left alone. Whether a model bears it is for the judge to
say: no stack has it unless its plan asks for it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 448.0
NARROW = 64
"""Up to so many rows the kernel reads the 8 bits once; for more they are made bfloat16 again and multiplied as ever."""
SLICE = 4096
"""Rows of a matrix that are float32 at a time while it is made bfloat16 again."""


class Quantised(NamedTuple):
    """[N, K] in e4m3 and float32 [N]: a weight is the product."""

    data: Tensor
    scales: Tensor


def quantise(weight: Tensor) -> Quantised:
    """The nearest numbers; a channel of zeros keeps the scale 1. The error of a weight is at most 1/16 of it, or for small
    ones 2⁻¹⁰ of its channel's scale."""
    largest = weight.abs().amax(1).float()
    # A weight that is not a number makes its scale one too: the 8 bits alone would not carry it through the kernel.
    scales = torch.where(largest == 0, 1.0, largest / LARGEST)
    return Quantised((weight.float() / scales[:, None]).to(torch.float8_e4m3fn), scales)


def restore(weight: Quantised, dtype: torch.dtype) -> Tensor:
    """[N, K] in `dtype`. In slices: whole, the float32 numbers of a matrix would take eight times its 8 bits."""
    made = torch.empty(weight.data.shape, dtype=dtype, device=weight.data.device)
    for begin in range(0, len(made), SLICE):
        end = begin + SLICE
        made[begin:end] = weight.data[begin:end].float() * weight.scales[begin:end, None]
    return made


def linear(kernels: Any, x: Tensor, weight: Quantised, bias: Tensor | None = None) -> Tensor:
    """x [R, K] → [R, N]; `kernels` as `cuda_kernels.kernels_on` gives them."""
    if len(x) > NARROW:
        return functional.linear(x, restore(weight, x.dtype), bias)
    return kernels.fp8_linear(x, weight.data, weight.scales, bias)
