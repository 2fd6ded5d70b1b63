"""Models of the real shapes whose weights are made on the device, and `spec` set to them.

Weights are those of a chain checkpoint (`sartor_agents.checkpoints.weights`: full compute, text that is known in
advance) from PyTorch's generator, tensor by tensor by name. So the same numbers go into the own decoder,
`transformers` and vLLM, and no file of 65 GB is needed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sartor_skills.blocks.weights import expected_shapes
from torch import Tensor

from sartor_skills.blocks import spec

EPSILON = 0.05
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Shape:
    """A model's `config.json`, apart from what all share."""

    architecture: str
    config: dict[str, Any]


SHAPES = {
    "8b": Shape(  # meta-llama/Llama-3.1-8B-Instruct
        "LlamaForCausalLM",
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": {**_LLAMA3, "factor": 8.0},
            "max_position_embeddings": 131072,
        },
    ),
    "32b": Shape(  # Qwen/Qwen3-32B
        "Qwen3ForCausalLM",
        {
            "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 5120, "num_hidden_layers": 64,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 25600,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 40960,
        },
    ),
    "1b": Shape(  # meta-llama/Llama-3.2-1B with a head of its own, which a chain needs
        "LlamaForCausalLM",
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": {**_LLAMA3, "factor": 32.0},
            "max_position_embeddings": 131072,
        },
    ),
    "tiny": Shape(  # for tests without a GPU
        "Qwen3ForCausalLM",
        {
            "model_type": "qwen3", "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048,
        },
    ),
}  # fmt: skip


def write_config(size: str, folder: Path) -> Path:
    """A model folder with `config.json` alone: what engines need besides weights that they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[size]
    shared = {
        "architectures": [shape.architecture], "attention_bias": False, "hidden_act": "silu", "mlp_bias": False,
        "tie_word_embeddings": False, "dtype": "bfloat16", "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
        "use_cache": True, "attention_dropout": 0.0, "initializer_range": 0.02,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**shared, **shape.config}, indent=1) + "\n", encoding="utf-8")
    return folder


def specialise(folder: Path, **values: Any) -> None:
    """Set `spec` to the model in `folder` and to `values`; before the engine is imported, which decides on `spec`."""
    from sartor_skills.blocks.model_config import read_config

    wanted = {**read_config(folder).as_spec(), "DECODER": "cuda", "DTYPE": "bfloat16", "EOS_TOKEN_IDS": (), **values}
    for name, value in wanted.items():
        if not hasattr(spec, name):
            raise KeyError(f"spec has no {name}")
        setattr(spec, name, value)


class ChainSource:
    """`cuda_weights.Source`: fills a tensor with what a chain checkpoint of `spec` has there; token t leads to t + 1."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def into(self, place: Tensor, name: str) -> None:
        """Fill `place`. Made in float32 on its own device, rounded once."""
        place.copy_(self._values(name, expected_shapes()[name], place.device))

    def all(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by name, one at a time, in bfloat16."""
        for name, dims in expected_shapes().items():
            made = torch.empty(dims, dtype=torch.bfloat16, device=device)
            self.into(made, name)
            yield name, made

    def _normal(self, name: str, dims: tuple[int, ...], device: torch.device) -> Tensor:
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
        return torch.randn(dims, generator=generator, dtype=torch.float32, device=device)

    def _embeddings(self, device: torch.device) -> Tensor:
        made = self._normal("embeddings", (spec.VOCAB_SIZE, spec.HIDDEN_SIZE), device)
        return made.mul_(sqrt(spec.HIDDEN_SIZE) / made.norm(dim=1, keepdim=True))

    def _values(self, name: str, dims: tuple[int, ...], device: torch.device) -> Tensor:
        kind = name.split(".")[-2]
        if kind == "embed_tokens":
            return self._embeddings(device)
        if kind == "lm_head":
            root = 1 - 2 * log(spec.VOCAB_SIZE) / spec.HIDDEN_SIZE
            return self._embeddings(device).roll(1, 0).mul_(1 - sqrt(root))
        made = self._normal(name, dims, device)
        if kind in ("q_norm", "k_norm"):
            return made.mul_(0.1).add_(1).mul_(sqrt(2))
        if len(dims) == 1:
            return made.mul_(0.1).add_(1)
        gain = {"o_proj": 4 * EPSILON, "down_proj": EPSILON}.get(kind, 1.0)
        if kind in ("q_proj", "k_proj") and not spec.QK_NORM:
            gain = sqrt(2)
        return made.mul_(gain / sqrt(dims[1]))


def follow(token: int, count: int) -> list[int]:
    """The tokens that greedy decoding writes after `token`."""
    return [(token + 1 + i) % spec.VOCAB_SIZE for i in range(count)]


def chat_prompts(count: int, seed: int, *, prompt: int) -> list[list[int]]:
    """Random prompts of `prompt` tokens; no two begin alike."""
    rng = np.random.default_rng([seed, prompt])
    return [rng.integers(0, spec.VOCAB_SIZE, prompt).tolist() for _ in range(count)]


def edit_prompts(count: int, seed: int, *, prompt: int, output: int) -> list[list[int]]:
    """Prompts that hold the `output` tokens to come somewhere in their middle, as an edit holds its file."""
    rng = np.random.default_rng([seed, prompt, output])
    made: list[list[int]] = []
    for _ in range(count):
        start = int(rng.integers(0, spec.VOCAB_SIZE))
        noise = rng.integers(0, spec.VOCAB_SIZE, prompt - output - 1).tolist()
        made.append([*noise[: len(noise) // 2], *follow(start, output), *noise[len(noise) // 2 :], start])
    return made
