"""Writing and checking safetensors files without holding a model in memory.

The format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length of the header, the header
as JSON (name → dtype, shape, [begin, end) in the data), then the data without gaps.
"""

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DamagedCheckpointError
from .shapes import TensorShape
from .tokenizer import write_json

SHARD_BYTES = 2 * 1000**3
"""A checkpoint larger than this is written as several files and an index."""
_MAX_HEADER_BYTES = 100_000_000
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

DTYPES = {"bfloat16": "BF16", "float32": "F32"}
"""Data types that weights are written in: name in `config.json` → name in safetensors."""


def to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round finite float32 to bfloat16 (nearest, ties to even), as the 16 bits of each value."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)


def _plan_shards(tensors: Iterable[TensorShape], item_bytes: int, shard_bytes: int) -> list[list[TensorShape]]:
    shards: list[list[TensorShape]] = [[]]
    filled = 0
    for tensor in tensors:
        size = tensor.elements * item_bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def write_weights(
    folder: Path,
    tensors: Iterable[TensorShape],
    make: Callable[[TensorShape], npt.NDArray[np.float32] | npt.NDArray[np.uint16]],
    *,
    dtype: str,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write all tensors, each made when its turn comes (float32, or the bits of bfloat16); returns the bytes of tensor data.

    One tensor is in memory at a time. Names the files as the hub does: `model.safetensors`, or numbered shards with
    `model.safetensors.index.json`.
    """
    item_bytes = _ITEM_BYTES[DTYPES[dtype]]
    shards = _plan_shards(tensors, item_bytes, shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in shard:
            end = offset + tensor.elements * item_bytes
            header[tensor.name] = {
                "dtype": DTYPES[dtype], "shape": list(tensor.dims), "data_offsets": [offset, end],
            }  # fmt: skip
            weight_map[tensor.name] = name
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the data is aligned
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            for tensor in shard:
                values = make(tensor)
                if values.shape != tensor.dims:
                    raise ValueError(f"{tensor.name}: made {values.shape}, planned {tensor.dims}")
                if values.dtype == np.float32 and dtype == "bfloat16":
                    values = to_bfloat16(values.view(np.float32))
                if values.nbytes != tensor.elements * item_bytes:
                    raise ValueError(f"{tensor.name}: made as {values.dtype}, planned in {dtype}")
                file.write(np.ascontiguousarray(values).data.cast("B"))
        total += offset
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    return total


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str
    dims: tuple[int, ...]


def check_file(path: Path) -> dict[str, TensorInfo]:
    """The tensors in one safetensors file, after checking header and length against each other.

    Reads the header only. Raises `DamagedCheckpointError` naming the file and, where it can, the tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise DamagedCheckpointError(
                    f"{path}: {size} bytes is too short for a safetensors file; fetch it again"
                )
            (length,) = struct.unpack("<Q", prefix)
            if length > min(size - 8, _MAX_HEADER_BYTES):
                raise DamagedCheckpointError(
                    f"{path}: the header should have {length} bytes but the file has {size}; "
                    "it is truncated or no safetensors file: fetch it again"
                )
            text = file.read(length)
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = {
            name: (TensorInfo(str(entry["dtype"]), tuple(entry["shape"])), *entry["data_offsets"])
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path}: the header is not valid ({error!r}); fetch the file again") from error
    return _check_spans(path, spans, data_bytes=size - 8 - length)


def _check_spans(
    path: Path, spans: dict[str, tuple[TensorInfo, int, int]], *, data_bytes: int
) -> dict[str, TensorInfo]:
    expected = 0
    for name, (info, begin, end) in sorted(spans.items(), key=lambda item: item[1][1]):
        if info.dtype not in _ITEM_BYTES:
            raise DamagedCheckpointError(f"{path}: tensor {name} has the unknown dtype {info.dtype!r}")
        size = prod(info.dims) * _ITEM_BYTES[info.dtype]
        if begin != expected or end - begin != size:
            raise DamagedCheckpointError(
                f"{path}: tensor {name} ({info.dtype} {list(info.dims)}, {size} bytes) is said to lie at "
                f"{begin}…{end}; expected {expected}…{expected + size}: the file is damaged, fetch it again"
            )
        if end > data_bytes:
            raise DamagedCheckpointError(
                f"{path}: truncated in tensor {name}: it needs data up to byte {end}, the file has {data_bytes}; "
                "fetch it again"
            )
        expected = end
    if expected != data_bytes:
        raise DamagedCheckpointError(f"{path}: {data_bytes - expected} bytes too many after the last tensor")
    return {name: info for name, (info, _, _) in spans.items()}
