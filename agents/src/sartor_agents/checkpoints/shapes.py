"""The shapes that checkpoints are made in: named sizes, and the tensors that a shape has.

A named size is the same for both architectures. Vocabularies are small on purpose: the embedding table is not read
in a decode step, so a small one keeps a checkpoint's size close to the bytes that a step has to read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .errors import InvalidRequestError


class Architecture(StrEnum):
    """Model families that checkpoints can be made for."""

    LLAMA = "llama"
    QWEN3 = "qwen3"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer, in elements. Separate (untied) embedding and head."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    max_positions: int = 8192

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise InvalidRequestError(f"shape: {name} is {getattr(self, name)}; it must be at least 1")
        if self.heads % self.kv_heads:
            raise InvalidRequestError(f"shape: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise InvalidRequestError(f"shape: head_dim ({self.head_dim}) must be even (rotary embedding)")


SIZES: dict[str, ModelShape] = {
    "tiny": ModelShape(512, 64, 2, 4, 2, 32, 192, 2048),
    "4m": ModelShape(2048, 192, 6, 6, 2, 32, 640, 2048),
    "10m": ModelShape(4096, 256, 8, 4, 2, 64, 1024),
    "52m": ModelShape(8192, 512, 16, 8, 4, 64, 1408),
    "150m": ModelShape(8192, 768, 20, 12, 4, 64, 2304),
    "500m": ModelShape(8192, 1024, 28, 16, 8, 128, 3072),
    "1b": ModelShape(8192, 2048, 16, 32, 8, 64, 8192),
}
"""Sizes by name. `52m` and `500m` are the sizes of the benchmarks (`500m` has the layers of Qwen3-0.6B)."""


def shape_of(size: str) -> ModelShape:
    """The shape of a named size; `InvalidRequestError` names the sizes there are."""
    try:
        return SIZES[size]
    except KeyError:
        raise InvalidRequestError(f"unknown size {size!r}; there are: {', '.join(SIZES)}") from None


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of a checkpoint, named as `transformers` names it; a matrix is [outputs, inputs]."""

    name: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count


def tensors(architecture: Architecture, shape: ModelShape) -> Iterator[TensorShape]:
    """Every tensor, in the order in which a forward pass reads them."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield TensorShape("model.embed_tokens.weight", (shape.vocab, shape.hidden))
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield TensorShape(f"{prefix}.input_layernorm.weight", (shape.hidden,))
        yield TensorShape(f"{prefix}.self_attn.q_proj.weight", (query, shape.hidden))
        yield TensorShape(f"{prefix}.self_attn.k_proj.weight", (key, shape.hidden))
        yield TensorShape(f"{prefix}.self_attn.v_proj.weight", (key, shape.hidden))
        if architecture is Architecture.QWEN3:
            yield TensorShape(f"{prefix}.self_attn.q_norm.weight", (shape.head_dim,))
            yield TensorShape(f"{prefix}.self_attn.k_norm.weight", (shape.head_dim,))
        yield TensorShape(f"{prefix}.self_attn.o_proj.weight", (shape.hidden, query))
        yield TensorShape(f"{prefix}.post_attention_layernorm.weight", (shape.hidden,))
        yield TensorShape(f"{prefix}.mlp.gate_proj.weight", (shape.intermediate, shape.hidden))
        yield TensorShape(f"{prefix}.mlp.up_proj.weight", (shape.intermediate, shape.hidden))
        yield TensorShape(f"{prefix}.mlp.down_proj.weight", (shape.hidden, shape.intermediate))
    yield TensorShape("model.norm.weight", (shape.hidden,))
    yield TensorShape("lm_head.weight", (shape.vocab, shape.hidden))


def parameters(architecture: Architecture, shape: ModelShape) -> int:
    """Number of parameters, embedding and head included."""
    return sum(tensor.elements for tensor in tensors(architecture, shape))


def config(architecture: Architecture, shape: ModelShape, *, dtype: str, bos: int | None, eos: int) -> dict[str, Any]:
    """`config.json` as the hub has it for this architecture."""
    common: dict[str, Any] = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }
    if architecture is Architecture.LLAMA:
        own: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "mlp_bias": False,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        }
    else:
        own = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "max_window_layers": shape.layers,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        }
    return dict(sorted((common | own).items()))
