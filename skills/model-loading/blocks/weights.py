"""Reading a checkpoint's tensors without a framework.

safetensors files are mapped, not read: a tensor is a numpy view of the file, and only what a decoder packs is ever paged in.
numpy has no bfloat16, so such tensors come as `uint16`, the bits themselves. Format: https://github.com/huggingface/safetensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import spec
from .model_config import ModelError

_NUMPY_TYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_LONGEST_HEADER = 100_000_000  # what the reference implementation allows


@dataclass(frozen=True)
class Tensor:
    """A tensor in a mapped file. `data` has the stored type; bfloat16 is `uint16`."""

    name: str
    kind: Literal["BF16", "F16", "F32"]
    data: np.ndarray

    def as_float32(self) -> np.ndarray:
        """float32 of the same shape; exact."""
        if self.kind == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32)

    def as_bfloat16(self) -> np.ndarray:
        """uint16 bits of the same shape, rounded to nearest even where the checkpoint is wider."""
        if self.kind == "BF16":
            return self.data
        bits = self.as_float32().view(np.uint32)
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(self.as_float32()), np.uint16(0x7FC0), rounded)

    def in_dtype(self) -> np.ndarray:
        """C-contiguous in the type that `spec.DTYPE` computes with: uint16 bits of bfloat16, or float32."""
        return np.ascontiguousarray(self.as_bfloat16() if spec.DTYPE == "bfloat16" else self.as_float32())


class Weights:
    """The tensors of a model directory, checked against the shapes that `spec` says."""

    def __init__(self, model_dir: Path) -> None:
        """Map every file. Raises `ModelError` for a missing or damaged file, a missing tensor or a wrong shape."""
        self._tensors: dict[str, Tensor] = {}
        for path in _files(model_dir):
            self._tensors.update(_map_file(path))
        problems = [problem for name, shape in expected_shapes().items() if (problem := self._check(name, shape))]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise ModelError(f"{model_dir}: {shown}. The weights do not belong to this config.json")

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def names(self) -> list[str]:
        """The tensors that a decoder of this `spec` reads."""
        return list(expected_shapes())

    def _check(self, name: str, shape: tuple[int, ...]) -> str | None:
        tensor = self._tensors.get(name)
        if tensor is None:
            return f"tensor {name} is missing"
        if tensor.data.shape != shape:
            return f"tensor {name} has shape {list(tensor.data.shape)}, expected {list(shape)}"
        return None


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a decoder of this `spec` reads, in Hugging Face's names."""
    hidden, inner = spec.HIDDEN_SIZE, spec.INTERMEDIATE_SIZE
    queries, keys = spec.HEADS * spec.HEAD_DIM, spec.KV_HEADS * spec.HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (spec.VOCAB_SIZE, hidden),
        "model.norm.weight": (hidden,),
    }
    if not spec.TIED_EMBEDDINGS:
        shapes["lm_head.weight"] = (spec.VOCAB_SIZE, hidden)
    for layer in range(spec.LAYERS):
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[attention + "q_proj.weight"] = (queries, hidden)
        shapes[attention + "k_proj.weight"] = (keys, hidden)
        shapes[attention + "v_proj.weight"] = (keys, hidden)
        shapes[attention + "o_proj.weight"] = (hidden, queries)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
        if spec.QK_NORM:
            shapes[attention + "q_norm.weight"] = (spec.HEAD_DIM,)
            shapes[attention + "k_norm.weight"] = (spec.HEAD_DIM,)
        if spec.ATTENTION_BIAS:
            shapes[attention + "q_proj.bias"] = (queries,)
            shapes[attention + "k_proj.bias"] = (keys,)
            shapes[attention + "v_proj.bias"] = (keys,)
            shapes[attention + "o_proj.bias"] = (hidden,)
    return shapes


def _files(model_dir: Path) -> list[Path]:
    index = model_dir / "model.safetensors.index.json"
    single = model_dir / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            raise ModelError(f"{model_dir}: neither model.safetensors nor model.safetensors.index.json is there")
        return [single]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of safetensors files: {error!r}") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ModelError(f"{index}: {outside[0]!r} is not a file name in the model's own folder")
    return [model_dir / name for name in names]


def _map_file(path: Path) -> Mapping[str, Tensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ModelError(f"{path}: truncated or not a safetensors file ({size} bytes); fetch it again")
            header: Any = json.loads(file.read(length))
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path}: the header is not JSON; fetch the file again") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: the header is not a JSON object; fetch the file again")
    start = 8 + length
    return {name: _view(path, data[start:], name, entry) for name, entry in header.items() if name != "__metadata__"}


def _view(path: Path, data: np.ndarray, name: str, entry: Any) -> Tensor:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the header's entry for {name} is damaged; fetch the file again") from error
    if kind not in _NUMPY_TYPES:
        raise ModelError(f"{path}: tensor {name} is {kind}; readable are {', '.join(_NUMPY_TYPES)}")
    element = np.dtype(_NUMPY_TYPES[kind])
    if begin < 0 or min(shape, default=0) < 0 or end - begin != int(np.prod(shape, dtype=np.int64)) * element.itemsize:
        raise ModelError(f"{path}: the header's entry for {name} contradicts itself; fetch the file again")
    if end > len(data):
        raise ModelError(
            f"{path}: truncated: {name} ends {end - len(data)} bytes behind the end of the file; fetch it again"
        )
    view = data[begin:end]
    # The format aligns data to 8 bytes, but writers exist that do not: such a tensor is copied.
    aligned = view if view.ctypes.data % element.itemsize == 0 else view.copy()
    return Tensor(name, kind, aligned.view(element).reshape(shape))
