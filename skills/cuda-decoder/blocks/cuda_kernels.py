"""Which kernels a decoder runs with."""

from types import SimpleNamespace
from typing import Any

import torch

from . import kernels_reference, spec
from .decoder_errors import DecoderError

CHOOSABLE = ("add_rms_norm", "rotate_and_store", "swiglu", "choose")
"""Kernels whose PyTorch form never waits for the host, so that it can be recorded in a graph."""


def kernels_on(device: torch.device) -> Any:
    """Every kernel by the name that `kernels_reference` has: Triton's on a CUDA device, else the references."""
    if device.type != "cuda":
        return kernels_reference
    from . import kernels_attention, kernels_choice, kernels_draw, kernels_rows

    made = SimpleNamespace(
        add_rms_norm=kernels_rows.add_rms_norm,
        rotate_and_store=kernels_rows.rotate_and_store,
        swiglu=kernels_rows.swiglu,
        attend=kernels_attention.attend,
        choose=kernels_choice.choose,
        draw=kernels_draw.draw,
        accept_drafts=kernels_choice.accept_drafts,
    )
    if spec.WEIGHTS == "fp8":
        from . import kernels_fp8

        made.fp8_linear = kernels_fp8.fp8_linear
    return with_torch(made, spec.TORCH_KERNELS)


def with_torch(made: SimpleNamespace, names: str) -> SimpleNamespace:
    """`made` with PyTorch's kernels for `names` (with commas), where measuring found them faster."""
    for name in filter(None, names.split(",")):
        if name not in CHOOSABLE:
            raise DecoderError(f"TORCH_KERNELS names {name}; PyTorch can take the place of {', '.join(CHOOSABLE)}")
        setattr(made, name, getattr(kernels_reference, name))
    return made
