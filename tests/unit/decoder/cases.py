"""Tiny models of many shapes, and how to run a decoder over them step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sartor_skills.blocks.decoder import Decoder, Segment
from sartor_skills.blocks.model_config import read_config
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sartor_skills.blocks import spec

PAGE_TOKENS = 16
STEP_TOKENS = 64
MAX_MODEL_LEN = 96
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Case:
    """A model's shape and the arithmetic to compile for it."""

    name: str
    config: Mapping[str, Any]
    dtype: str = "bfloat16"
    flags: tuple[str, ...] = ("-march=native",)
    tolerance: float = 0.05  # of logits of about 1 to 5; what rounding keys, values and activations to bfloat16 costs
    marks: tuple[pytest.MarkDecorator, ...] = field(default=())

    def parameter(self) -> Any:
        return pytest.param(self, id=self.name, marks=self.marks)


_LLAMA = {"kind": "llama", "vocab_size": 509, "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
# Nothing is a multiple of anything: vocabulary, inner width, head dimension, one key head for six query heads.
_QWEN3 = {"kind": "qwen3", "vocab_size": 131, "hidden_size": 70, "layers": 3, "heads": 6, "kv_heads": 1, "head_dim": 24}
X86 = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="needs an AVX2 processor"
)

CASES = (
    Case("llama-bfloat16", {**_LLAMA, "inner": 192}),
    # Where the processor has no tiles this is the case above.
    Case("llama-without-tiles", {**_LLAMA, "inner": 192}, flags=("-march=native", "-DSARTOR_WITHOUT_TILES")),
    Case("qwen3-float32", {**_QWEN3, "inner": 150, "tied": True, "bias": True}, dtype="float32", tolerance=2e-5),
    Case(
        "qwen3-emulated-tiles",
        {**_QWEN3, "inner": 150},
        flags=("-march=native", "-DSARTOR_EMULATE_DPBF16", "-DSARTOR_EMULATE_TILES"),
    ),
    Case(
        "qwen3-emulated-dot",
        {**_QWEN3, "inner": 150},
        flags=("-march=native", "-DSARTOR_EMULATE_DPBF16", "-DSARTOR_WITHOUT_TILES"),
    ),
    Case("llama-portable", {**_LLAMA, "inner": 90, "rope": LLAMA3_SCALING, "tied": True}, flags=()),
    Case(
        "llama-float32-portable",
        {**_LLAMA, "inner": 90, "rope": {"rope_type": "linear", "factor": 2.0}},
        dtype="float32",
        flags=(),
        tolerance=2e-5,
        marks=(pytest.mark.slow,),
    ),
    Case("qwen3-avx2", {**_QWEN3, "inner": 150}, flags=("-mavx2", "-mfma"), marks=(pytest.mark.slow, X86)),
    Case(
        "llama-emulated-dot-portable",
        {**_LLAMA, "inner": 192},
        flags=("-DSARTOR_EMULATE_DPBF16",),
        marks=(pytest.mark.slow,),
    ),
)


def make_model(folder: Path, config: Mapping[str, Any], shard: str = "5GB") -> Path:
    """Write a seeded random checkpoint as `transformers` does; its logits spread over a few units."""
    shared = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["layers"],
        "num_attention_heads": config["heads"],
        "num_key_value_heads": config["kv_heads"],
        "head_dim": config["head_dim"],
        "intermediate_size": config["inner"],
        "attention_bias": config.get("bias", False),
        "tie_word_embeddings": config.get("tied", False),
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_theta": 5000.0, **config.get("rope", {"rope_type": "default"})},
        "initializer_range": 0.2,
    }
    torch.manual_seed(7)
    if config["kind"] == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**shared))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shared))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    return folder


def specialise(patch: pytest.MonkeyPatch, model_dir: Path, **overrides: Any) -> None:
    """Set `spec` to the model in `model_dir`, small limits, and `overrides`."""
    limits = {
        "PAGE_TOKENS": PAGE_TOKENS,
        "STEP_TOKENS": STEP_TOKENS,
        "MAX_MODEL_LEN": MAX_MODEL_LEN,
        "MAX_SEQUENCES": 4,
    }
    for name, value in {**read_config(model_dir).as_spec(), **limits, **overrides}.items():
        patch.setattr(spec, name, value)


def reference_logits(model_dir: Path, tokens: Sequence[int], dtype: torch.dtype = torch.float32) -> NDArray[np.float32]:
    """float32 `[tokens, vocabulary]` by `transformers` in `dtype`."""
    kind: Any = LlamaForCausalLM if read_config(model_dir).architecture == "llama" else Qwen3ForCausalLM
    model = kind.from_pretrained(model_dir, dtype=dtype)
    with torch.inference_mode():
        return model(torch.tensor([list(tokens)])).logits[0].float().numpy()


def pages_of(sequence: int) -> NDArray[np.int32]:
    """Pages of one of eight sequences: neither in order nor next to each other."""
    count = MAX_MODEL_LEN // PAGE_TOKENS
    return (np.arange(count, dtype=np.int32)[::-1] * 8 + sequence).copy()


KV_PAGES = 8 * (MAX_MODEL_LEN // PAGE_TOKENS)


def one_by_one(decoder: Decoder, sequence: int, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits of every row when each is a step of its own."""
    rows: list[NDArray[np.float32]] = []
    for position, token in enumerate(tokens):
        argmax, logits = decoder.forward([Segment(pages_of(sequence), position, [token], 1, True)])
        assert logits is not None
        assert argmax[0] == logits[0].argmax()
        rows.append(logits[0])
    return np.stack(rows)
