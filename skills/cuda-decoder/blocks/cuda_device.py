"""The NVIDIA device that a decoder is to run on: whether it can, and how much of its memory is left for the cache.

Everything is asked before a weight is read, so that a pod on the wrong node says so within a second. `cuda` is the module
`torch.cuda`, or what stands for it.
"""

from typing import Any

import torch

from . import spec
from .cuda_graphs import buckets
from .decoder_errors import DecoderError
from .kv_pages import pages_for

_CAPABILITY = (8, 0)  # bfloat16 in tensor cores, and what Triton's kernels are written for
_MARGIN = 2 << 30  # bytes for what PyTorch, cuBLAS and attention take for themselves


def require_device(cuda: Any = torch.cuda) -> str:
    """Name and compute capability of the device, for the log. Raises `DecoderError` where the kernels cannot run."""
    if not cuda.is_available():
        raise DecoderError(
            f"no CUDA device: PyTorch {torch.__version__} sees none. Give the pod nvidia.com/gpu and the runtime class "
            "nvidia, check the driver with nvidia-smi, or serve with a decoder for the CPU"
        )
    capability = tuple(cuda.get_device_capability())
    name = cuda.get_device_name()
    if capability < _CAPABILITY:
        raise DecoderError(
            f"{name} has compute capability {capability[0]}.{capability[1]}, and the kernels need "
            f"{_CAPABILITY[0]}.{_CAPABILITY[1]} or newer (Ampere): run on another node, or hand everything to the baseline"
        )
    return f"{name}, compute capability {capability[0]}.{capability[1]}"


def cache_pages(wanted: int, weights: int, cuda: Any = torch.cuda) -> int:
    """How many pages to reserve: `wanted`, or as many as fit beside `weights` bytes and a step of the largest size.

    Fewer pages admit fewer sequences at a time, and no request is lost. Raises `DecoderError` when the weights do not
    fit, or what is left does not hold one sequence of `MAX_MODEL_LEN`.
    """
    free, total = cuda.mem_get_info()
    needed = weights + step_bytes() + _MARGIN
    least = pages_for(spec.MAX_MODEL_LEN)
    if needed > free:
        used = total - free
        others = f"; {_gib(used)} are in use by others" if used > _MARGIN else ""
        raise DecoderError(
            f"the checkpoint is larger than the device: weights and a step need {_gib(needed)}, and {_gib(free)} of "
            f"{_gib(total)} are free{others}. Take a device with more memory, a smaller model, or a lower STEP_TOKENS"
        )
    pages = min(wanted, (free - needed) // page_bytes())
    if pages < least:
        raise DecoderError(
            f"beside the weights there is room for {pages * spec.PAGE_TOKENS} tokens of keys and values, and one sequence "
            f"of MAX_MODEL_LEN = {spec.MAX_MODEL_LEN} needs {least * spec.PAGE_TOKENS}: lower MAX_MODEL_LEN, or take a "
            f"device with more memory ({_gib(free)} of {_gib(total)} were free)"
        )
    return int(pages)


def page_bytes() -> int:
    """Bytes of one page over all layers."""
    return 2 * spec.LAYERS * spec.PAGE_TOKENS * spec.KV_HEADS * spec.HEAD_DIM * element_bytes()


def step_bytes() -> int:
    """Bytes that the largest step takes besides weights and cache: activations, logits, one sequence's keys and values."""
    size = element_bytes()
    row = 4 * spec.HIDDEN_SIZE  # the residual stream is float32
    row += size * (3 * spec.HIDDEN_SIZE + 3 * spec.INTERMEDIATE_SIZE)
    row += size * spec.HEAD_DIM * (3 * spec.HEADS + 2 * spec.KV_HEADS)
    outputs = min(spec.STEP_TOKENS, spec.MAX_SEQUENCES * (1 + spec.DRAFT_WIDTH))
    outputs += 2 * sum(buckets())  # every recorded step keeps its own
    gathered = 2 * spec.MAX_MODEL_LEN * spec.KV_HEADS * spec.HEAD_DIM * size
    if spec.WEIGHTS == "fp8":  # the largest matrix made bfloat16 again, for recorded steps and for others
        gathered += 2 * size * 2 * spec.INTERMEDIATE_SIZE * spec.HIDDEN_SIZE
    return spec.STEP_TOKENS * row + outputs * spec.VOCAB_SIZE * 8 + gathered


def element_bytes() -> int:
    """Bytes of one number of `spec.DTYPE`."""
    return 2 if spec.DTYPE == "bfloat16" else 4


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
