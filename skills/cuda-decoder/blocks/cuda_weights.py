"""A checkpoint's tensors on the device, fused as the decoder multiplies them.

A tensor goes from the mapped file into its place on the device in one copy; nothing is put together on the host, so that
loading needs no host memory beyond the page cache.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from . import spec
from .weights import Weights, expected_shapes

if spec.WEIGHTS == "fp8":
    from .cuda_fp8 import quantise


class Source(Protocol):
    """Where tensors come from. `into` fills `place`, on the device, with the tensor `name`; shapes have been checked."""

    def into(self, place: Tensor, name: str) -> None: ...


class CheckpointSource:
    """The files of a model folder."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def into(self, place: Tensor, name: str) -> None:
        tensor = self._weights[name]
        data = tensor.as_float32() if place.dtype == torch.float32 else tensor.in_dtype()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a mapped file is read-only, and is only read here
            read = torch.from_numpy(data)
        place.copy_(read.view(torch.bfloat16) if place.dtype == torch.bfloat16 else read)


class Layer:
    """The tensors of one layer; a linear is `[outputs, inputs]`. Vectors are float32, matrices `spec.DTYPE`."""

    def __init__(self, source: Source, index: int, device: torch.device) -> None:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."
        projections = [f"{attention}{kind}_proj" for kind in ("q", "k", "v")]
        self.attention_norm = vector(source, prefix + "input_layernorm.weight", device)
        self.qkv = matrix(source, [f"{name}.weight" for name in projections], device)
        self.out = matrix(source, [attention + "o_proj.weight"], device)
        self.mlp_norm = vector(source, prefix + "post_attention_layernorm.weight", device)
        self.gate_up = matrix(source, [prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"], device)
        self.down = matrix(source, [prefix + "mlp.down_proj.weight"], device)
        self.norms: tuple[Tensor, Tensor] | None = None
        self.qkv_bias: Tensor | None = None
        self.out_bias: Tensor | None = None
        if spec.QK_NORM:
            q_norm, k_norm = (vector(source, f"{attention}{kind}_norm.weight", device) for kind in "qk")
            self.norms = (q_norm, k_norm)
        if spec.ATTENTION_BIAS:
            self.qkv_bias = fused(source, [f"{name}.bias" for name in projections], device)
            self.out_bias = fused(source, [attention + "o_proj.bias"], device)


def matrix(source: Source, names: Sequence[str], device: torch.device) -> Any:
    """`fused` for the matrices of a layer, which may be kept in 8 bits; one at a time is there in full meanwhile."""
    if spec.WEIGHTS == "fp8":
        return quantise(fused(source, names, device))
    else:  # noqa: RET505 - one of the branches is all that a composed stack has
        return fused(source, names, device)


def fused(source: Source, names: Sequence[str], device: torch.device) -> Tensor:
    """The tensors `names` one below the other, in `spec.DTYPE`."""
    shapes = [expected_shapes()[name] for name in names]
    made = torch.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), dtype=model_dtype(), device=device)
    first = 0
    for name, shape in zip(names, shapes, strict=True):
        source.into(made[first : first + shape[0]], name)
        first += shape[0]
    return made


def vector(source: Source, name: str, device: torch.device) -> Tensor:
    """The tensor `name` in float32."""
    made = torch.empty(expected_shapes()[name], dtype=torch.float32, device=device)
    source.into(made, name)
    return made


def model_dtype() -> torch.dtype:
    """The type of `spec.DTYPE`."""
    return torch.bfloat16 if spec.DTYPE == "bfloat16" else torch.float32


def weight_bytes() -> int:
    """Bytes of all weights on the device; norms and biases count as if they were matrices."""
    size = model_dtype().itemsize
    total = sum(torch.Size(shape).numel() for shape in expected_shapes().values()) * size
    if spec.WEIGHTS == "fp8":
        for name, shape in expected_shapes().items():
            if name.endswith("_proj.weight"):
                total -= torch.Size(shape).numel() * (size - 1) - 4 * shape[0]
    return total
