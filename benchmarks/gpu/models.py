"""Chain checkpoints of the real shapes, made on the device: checkpoint, tokenizer and answer key are of the same kind as
everywhere (`sartor_agents.checkpoints`); random numbers are the device's, since NumPy's would take minutes for 32 billion.

The shapes are those of Llama-3.2-1B, Llama-3.1-8B and Qwen3-32B; the head is untied and positions are rotated without
Llama's scaling, which costs a step nothing.
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.gpu.plan import CannotRunError
from sartor_agents.checkpoints import (
    Architecture,
    CheckpointExistsError,
    ModelShape,
    check_checkpoint,
    make,
    parameters,
)
from sartor_agents.checkpoints.make import ChainMaker, Fill
from sartor_agents.checkpoints.shapes import TensorShape
from sartor_agents.checkpoints.weights import ATTENTION_OVER_MLP, NORM_DEVIATION, SCORE_DEVIATION, head_gain

ROOM = 4 << 30
"""Bytes of a file system that are left free."""
MEMORY_ROOM = 16 << 30
"""The same of the host's memory, where a file system lies in it."""


@dataclass(frozen=True)
class Model:
    """A shape by the name that the figures use."""

    name: str
    architecture: Architecture
    shape: ModelShape

    @property
    def weight_bytes(self) -> int:
        return 2 * parameters(self.architecture, self.shape)

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token, over all layers, in bfloat16."""
        return 4 * self.shape.layers * self.shape.kv_heads * self.shape.head_dim

    @property
    def step_bytes(self) -> int:
        """What a decode step reads of the weights: of the embedding table one row."""
        return self.weight_bytes - 2 * self.shape.vocab * self.shape.hidden


MODELS = {
    model.name: model
    for model in (
        Model("1b", Architecture.LLAMA, ModelShape(128256, 2048, 16, 32, 8, 64, 8192, 32768)),
        Model("8b", Architecture.LLAMA, ModelShape(128256, 4096, 32, 32, 8, 128, 14336, 32768)),
        Model("32b", Architecture.QWEN3, ModelShape(151936, 5120, 64, 64, 8, 128, 25600, 32768)),
        # For dry runs on a processor.
        Model("tiny", Architecture.QWEN3, ModelShape(1024, 128, 2, 4, 2, 32, 256, 2048)),
    )
}


class NoRoomError(CannotRunError):
    """No folder has room for a checkpoint; the message lists those that were tried."""


def checkpoint(model: Model, folder: Path, device: torch.device) -> Path:
    """The checkpoint below `folder`, made if it is not there whole."""
    place = folder / f"chain-{model.name}-{device.type}"
    if not place.is_dir():
        with suppress(CheckpointExistsError):
            make("chain", model.architecture, model.shape, 0, place, initialiser=device_chain(device))
    check_checkpoint(place)
    return place


def folder_with_room(wanted: int, places: Sequence[Path], held: Sequence[str] = ()) -> Path:
    """The first of `places` that holds one of the checkpoints `held`, or has room for `wanted` bytes.

    Raises `NoRoomError`.
    """
    for place in places:
        if any((place / name).is_dir() for name in held):
            return place
    tried: list[str] = []
    for place in places:
        existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free - ROOM
        if existing.is_relative_to("/dev/shm"):
            free = min(free, psutil.virtual_memory().available - MEMORY_ROOM)
        if free >= wanted:
            return place
        tried.append(f"{place}: {max(0, free) / 2**30:.0f} GiB")
    raise NoRoomError(
        f"a checkpoint of {wanted / 2**30:.0f} GiB fits nowhere ({'; '.join(tried)}); give --models FOLDER; "
        "where the host has the memory, one that lies in it: mount -t tmpfs -o size=100g tmpfs FOLDER"
    )


def device_chain(device: torch.device) -> ChainMaker:
    """`checkpoints.weights.chain_initialiser` with random numbers of `device`, rounded there; for chains without an end."""

    def maker(
        architecture: Architecture,
        shape: ModelShape,
        seed: int,
        /,
        *,
        successor: "np.ndarray[Any, np.dtype[np.int32]]",
        eos: int,
        epsilon: float,
    ) -> Fill:
        if (successor == eos).any():
            raise ValueError("chains that end are made by the processor's initialiser")
        chain = _DeviceChain(
            architecture, shape, seed, epsilon, torch.from_numpy(successor.astype(np.int64)).to(device)
        )
        return lambda tensor: chain.values(tensor).to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)

    return maker


@dataclass(frozen=True)
class _DeviceChain:
    """See `checkpoints.weights`: the same distributions, tensor by tensor, in float32 on the device of `successor`."""

    architecture: Architecture
    shape: ModelShape
    seed: int
    epsilon: float
    successor: Tensor

    def values(self, tensor: TensorShape) -> Tensor:
        kind = tensor.name.split(".")[-2]
        if kind == "embed_tokens":
            return self._embeddings()
        if kind == "lm_head":
            return self._head(tensor)
        made = self._normal(tensor.name, tensor.dims)
        if kind in ("q_norm", "k_norm"):
            return made.mul_(NORM_DEVIATION).add_(1).mul_(sqrt(SCORE_DEVIATION))
        if len(tensor.dims) == 1:
            return made.mul_(NORM_DEVIATION).add_(1)
        gain = {"o_proj": ATTENTION_OVER_MLP * self.epsilon, "down_proj": self.epsilon}.get(kind, 1.0)
        if kind in ("q_proj", "k_proj") and self.architecture is Architecture.LLAMA:
            gain = sqrt(SCORE_DEVIATION)
        return made.mul_(gain / sqrt(tensor.dims[1]))

    def _normal(self, name: str, dims: tuple[int, ...]) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        device = self.successor.device
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
        return torch.randn(dims, generator=generator, dtype=torch.float32, device=device)

    def _embeddings(self) -> Tensor:
        made = self._normal("embeddings", (self.shape.vocab, self.shape.hidden))
        return made.mul_(sqrt(self.shape.hidden) / made.norm(dim=1, keepdim=True))

    def _head(self, tensor: TensorShape) -> Tensor:
        own = self._embeddings()
        rows = torch.zeros_like(own).index_add_(0, self.successor, own)
        empty = torch.ones(len(own), dtype=torch.bool, device=own.device)
        empty[self.successor] = False
        rows[empty] = self._normal("head of tokens that follow nothing", tensor.dims)[empty]
        return rows.mul_(head_gain(self.shape))
