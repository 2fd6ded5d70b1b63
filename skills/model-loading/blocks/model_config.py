"""`config.json` of a Llama or Qwen3 checkpoint, as the names that blocks read from `spec`.

A stack is written for one model. The configuration is read again when the stack starts, and a checkpoint that is not the one
it was written for is refused before any weight is touched, with the fields that differ.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import spec

_ARCHITECTURES: dict[str, Literal["llama", "qwen3"]] = {
    "LlamaForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
}


class ModelError(Exception):
    """The model directory cannot be served. The message says which file, what is wrong with it, and what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """The numbers that decide the shape of a decoder; `rope_scaling` is None for the plain rotary embedding."""

    architecture: Literal["llama", "qwen3"]
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    qk_norm: bool
    attention_bias: bool
    tied_embeddings: bool
    max_positions: int

    def as_spec(self) -> dict[str, Any]:
        """The same under the names of `spec`, `max_positions` left out: it bounds `MAX_MODEL_LEN` but is not it."""
        return {
            "ARCHITECTURE": self.architecture,
            "VOCAB_SIZE": self.vocab_size,
            "HIDDEN_SIZE": self.hidden_size,
            "LAYERS": self.layers,
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "HEAD_DIM": self.head_dim,
            "INTERMEDIATE_SIZE": self.intermediate_size,
            "RMS_EPS": self.rms_eps,
            "ROPE_THETA": self.rope_theta,
            "ROPE_SCALING": self.rope_scaling,
            "QK_NORM": self.qk_norm,
            "ATTENTION_BIAS": self.attention_bias,
            "TIED_EMBEDDINGS": self.tied_embeddings,
        }


def read_config(model_dir: Path) -> ModelConfig:
    """Read `config.json`.

    Raises `ModelError` when it is missing, not JSON, of another architecture, or uses something that the decoders do not
    compute (another activation, biases in the MLP, sliding windows, quantised weights, another rotary scaling).
    """
    path = model_dir / "config.json"
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: not found; give a folder with a checkpoint in Hugging Face layout") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return _parse(raw, path)


def check_against_spec(config: ModelConfig, model_dir: Path) -> None:
    """Raise `ModelError`, naming every field that differs, unless the checkpoint is the one the stack was written for."""
    # One comparison per name, so that each can be folded to the literal that it was specialised to.
    expected = {
        "ARCHITECTURE": spec.ARCHITECTURE,
        "VOCAB_SIZE": spec.VOCAB_SIZE,
        "HIDDEN_SIZE": spec.HIDDEN_SIZE,
        "LAYERS": spec.LAYERS,
        "HEADS": spec.HEADS,
        "KV_HEADS": spec.KV_HEADS,
        "HEAD_DIM": spec.HEAD_DIM,
        "INTERMEDIATE_SIZE": spec.INTERMEDIATE_SIZE,
        "RMS_EPS": spec.RMS_EPS,
        "ROPE_THETA": spec.ROPE_THETA,
        "ROPE_SCALING": spec.ROPE_SCALING,
        "QK_NORM": spec.QK_NORM,
        "ATTENTION_BIAS": spec.ATTENTION_BIAS,
        "TIED_EMBEDDINGS": spec.TIED_EMBEDDINGS,
    }
    found = config.as_spec()
    differences = [
        f"{name} is {found[name]!r}, the stack has {value!r}"
        for name, value in expected.items()
        if found[name] != value
    ]
    if differences:
        raise ModelError(
            f"{model_dir / 'config.json'}: not the model this stack was written for: {'; '.join(differences)}. "
            "Serve the model it was written for, or write a stack for this one"
        )


def rope_tables(positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float32 `[positions, HEAD_DIM / 2]`, of the rotary embedding that `spec` describes.

    In float32 throughout, as `transformers` computes them, so that long positions round the same way.
    """
    exponents = np.arange(0, spec.HEAD_DIM, 2, dtype=np.float32) / np.float32(spec.HEAD_DIM)
    frequencies = (1.0 / np.float32(spec.ROPE_THETA) ** exponents).astype(np.float32)
    if spec.ROPE_SCALING is not None:
        frequencies = _scaled(frequencies, spec.ROPE_SCALING)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles), np.sin(angles)


def _scaled(frequencies: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    """Frequencies for a context longer than the one that the model was first trained on."""
    factor = np.float32(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return frequencies / factor
    # Llama 3.1: long wavelengths are stretched by the factor, short ones kept, the band between is interpolated.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    stretched = np.where(wavelengths > original / low, frequencies / factor, between)
    return np.where(wavelengths < original / high, frequencies, stretched).astype(np.float32)


def _parse(raw: dict[str, Any], path: Path) -> ModelConfig:
    names: list[str] = list(raw.get("architectures") or [])
    known = [name for name in names if name in _ARCHITECTURES]
    if not known:
        raise ModelError(
            f"{path}: architectures is {names!r}; the decoders compute {', '.join(sorted(_ARCHITECTURES))}"
        )
    architecture = _ARCHITECTURES[known[0]]
    _refuse_unsupported(raw, path)
    heads = _integer(raw, "num_attention_heads", path)
    hidden = _integer(raw, "hidden_size", path)
    kv_heads = _integer(raw, "num_key_value_heads", path, default=heads)
    if heads % kv_heads:
        raise ModelError(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    # transformers 5 keeps theta and the scaling together in rope_parameters; older checkpoints have them apart.
    rope: dict[str, Any] = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", raw.get("rope_theta", 10000.0))
    return ModelConfig(
        architecture=architecture,
        vocab_size=_integer(raw, "vocab_size", path),
        hidden_size=hidden,
        layers=_integer(raw, "num_hidden_layers", path),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_integer(raw, "head_dim", path, default=128 if architecture == "qwen3" else hidden // heads),
        intermediate_size=_integer(raw, "intermediate_size", path),
        rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=float(theta),
        rope_scaling=_scaling(rope, path),
        qk_norm=architecture == "qwen3",
        attention_bias=bool(raw.get("attention_bias", False)),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        max_positions=_integer(raw, "max_position_embeddings", path, default=2048),
    )


def _refuse_unsupported(raw: dict[str, Any], path: Path) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{path}: hidden_act is {raw['hidden_act']!r}; the decoders compute silu")
    if raw.get("mlp_bias"):
        raise ModelError(f"{path}: mlp_bias is true; the decoders compute MLPs without biases")
    if raw.get("use_sliding_window"):
        raise ModelError(f"{path}: use_sliding_window is true; the decoders compute full attention")
    if raw.get("quantization_config"):
        raise ModelError(f"{path}: quantization_config is set; the decoders read bfloat16, float16 and float32 weights")


def _scaling(rope: dict[str, Any], path: Path) -> dict[str, Any] | None:
    kind = rope.pop("type", None)  # the name that old checkpoints use
    kind = rope.get("rope_type", kind) or "default"
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }.get(kind)
    if needed is None:
        raise ModelError(f"{path}: rotary scaling {kind!r} is not computed; known are default, linear and llama3")
    missing = [name for name in needed if not isinstance(rope.get(name), int | float)]
    if missing:
        raise ModelError(f"{path}: rotary scaling {kind!r} needs the number {' and '.join(missing)}")
    return {"rope_type": kind, **{name: rope[name] for name in needed}} if needed else None


def _integer(raw: dict[str, Any], name: str, path: Path, default: int | None = None) -> int:
    value = raw.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{path}: {name} is {value!r}; expected a positive integer")
    return value
