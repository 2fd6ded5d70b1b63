"""What a machine's memory and arithmetic allow at most for one decoder step (roofline, Williams et al. 2009).

A decode step reads every weight that it uses once, whatever the batch, and the keys and values of every sequence; it does
two operations per weight and sequence, and four per key-value element that attention reads. Neither bound is reached; the
larger of the two times tells what to work on, and by how much a measured speed could still rise at most.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor_agents.backends.protocol import HardwareFacts

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "fp8": 1.0, "int4": 0.5}

ACCELERATORS: Mapping[str, tuple[float, float]] = {
    "B200": (8.0e12, 2.25e15),
    "H200": (4.8e12, 9.89e14),
    "H100 PCIe": (2.0e12, 7.56e14),
    "H100": (3.35e12, 9.89e14),
    "A100-SXM4-40GB": (1.555e12, 3.12e14),
    "A100": (2.039e12, 3.12e14),
    "L40S": (8.64e11, 3.62e14),
    "L4": (3.0e11, 1.21e14),
    "A10": (6.0e11, 1.25e14),
    "MI300X": (5.3e12, 1.307e15),
}
"""Bytes per second of memory and dense bfloat16 operations per second, from the makers' data sheets; the first name that a
device's name holds counts."""


class RooflineError(ValueError):
    """The estimate cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class DecoderShape:
    """Parameters of a decoder-only transformer: `matrices` are those that a step multiplies with (of a mixture of experts
    those of the experts of one token), `stored` all of them. `kv_elements` are kept per token of context."""

    matrices: int
    stored: int
    layers: int
    query_elements: int
    kv_elements: int


@dataclass(frozen=True)
class Roofline:
    """Times in seconds of one decode step over `concurrency` sequences with `context` tokens each; None where the machine's
    figure is not known. `bytes_read` and `operations` are those of the step."""

    bytes_read: float
    operations: float
    memory_seconds: float | None
    compute_seconds: float | None
    concurrency: int

    @property
    def bound(self) -> float | None:
        """Tokens per second of all sequences that cannot be exceeded without reading or computing less per token."""
        times = [time for time in (self.memory_seconds, self.compute_seconds) if time is not None]
        return self.concurrency / max(times) if times else None

    @property
    def limited_by(self) -> str:
        if self.memory_seconds is None or self.compute_seconds is None:
            return "memory" if self.memory_seconds is not None else "unknown"
        return "memory" if self.memory_seconds >= self.compute_seconds else "arithmetic"


def decoder_shape(config: Mapping[str, Any]) -> DecoderShape:
    """From a `config.json` of transformers. Raises `RooflineError` for one that is no plain decoder."""
    try:
        hidden, layers, heads = (
            int(config[name]) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        vocab = int(config["vocab_size"])
        experts = int(config.get("num_local_experts") or config.get("num_experts") or 0)
        wide = config.get("moe_intermediate_size") if experts else None
        intermediate = int(wide or config["intermediate_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise RooflineError(
            f"the model's config.json has no {error}; this estimate is for decoder-only transformers"
        ) from None
    if config.get("layer_types") and set(config["layer_types"]) - {"full_attention", "sliding_attention"}:
        raise RooflineError("the model has layers other than attention; this estimate does not know what they read")
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    expert = 3 * hidden * intermediate
    active = int(config.get("num_experts_per_tok") or 1) if experts else 1
    router = hidden * experts
    head = vocab * hidden
    embedding = 0 if config.get("tie_word_embeddings") else head
    return DecoderShape(
        matrices=layers * (attention + router + active * expert) + head,
        stored=layers * (attention + router + max(1, experts) * expert) + head + embedding,
        layers=layers,
        query_elements=layers * heads * head_dim,
        kv_elements=2 * layers * kv_heads * head_dim,
    )


def roofline(
    shape: DecoderShape,
    *,
    weight_bytes: float,
    cache_bytes: float,
    concurrency: int,
    context: int,
    bandwidth: float | None,
    peak: float | None,
) -> Roofline:
    """One decode step. `weight_bytes`, `cache_bytes`: per element; `bandwidth` in bytes, `peak` in operations per second.

    Of a mixture of experts more than one sequence may use up to `concurrency` times the experts of one, at most all.
    """
    read = min(shape.stored, shape.matrices * concurrency) if shape.stored > 2 * shape.matrices else shape.matrices
    bytes_read = read * weight_bytes + concurrency * context * shape.kv_elements * cache_bytes
    operations = concurrency * (2.0 * shape.matrices + 4.0 * context * shape.query_elements)
    return Roofline(
        bytes_read=bytes_read,
        operations=operations,
        memory_seconds=bytes_read / bandwidth if bandwidth else None,
        compute_seconds=operations / peak if peak else None,
        concurrency=concurrency,
    )


def machine(hardware: HardwareFacts) -> tuple[float | None, float | None]:
    """Bytes and bfloat16 operations per second of all accelerators of the machine, or of its memory; None: not known."""
    if hardware.accelerators:
        known = [
            next((figures for name, figures in ACCELERATORS.items() if name.lower() in device.lower()), None)
            for device in hardware.accelerators
        ]
        if any(figures is None for figures in known):
            return hardware.read_bandwidth, None
        return sum(f[0] for f in known if f), sum(f[1] for f in known if f)
    return hardware.read_bandwidth, None


def read_config(model_dir: Path) -> dict[str, Any]:
    """Raises `RooflineError`."""
    try:
        content = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RooflineError(f"the model's config.json cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RooflineError("the model's config.json is no object")
    text = content.get("text_config")
    return text if isinstance(text, dict) else content
