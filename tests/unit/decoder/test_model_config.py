"""`config.json`: what it says, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sartor_skills.blocks.model_config import ModelError, check_against_spec, read_config, rope_tables
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sartor_skills.blocks import spec

from .cases import LLAMA3_SCALING

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def write(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_defaults_are_those_of_the_format(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, LLAMA))
    assert config.kv_heads == 4
    assert config.head_dim == 16
    assert config.rope_theta == 10000.0
    assert config.rope_scaling is None
    assert not config.qk_norm
    qwen = read_config(write(tmp_path, {**LLAMA, "architectures": ["Qwen3ForCausalLM"]}))
    assert qwen.qk_norm
    assert qwen.head_dim == 128


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3_SCALING}},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3_SCALING, "type": "llama3"}},
    ],
    ids=["transformers 4", "transformers 5", "both names"],
)
def test_rotary_scaling_old_and_new(tmp_path: Path, rope: dict[str, Any]) -> None:
    config = read_config(write(tmp_path, {**LLAMA, **rope}))
    assert config.rope_theta == 5e5
    assert config.rope_scaling == LLAMA3_SCALING


@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3_SCALING], ids=["none", "linear", "llama3"]
)
def test_rotary_tables_are_those_of_transformers(
    monkeypatch: pytest.MonkeyPatch, scaling: dict[str, Any] | None
) -> None:
    for name, value in {"HEAD_DIM": 64, "ROPE_THETA": 5e5, "ROPE_SCALING": scaling}.items():
        monkeypatch.setattr(spec, name, value)
    parameters = {"rope_theta": 5e5, **(scaling or {"rope_type": "default"})}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, head_dim=64, rope_parameters=parameters)
    cosines, sines = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(4096)[None])
    ours = rope_tables(4096)
    # Angles go up to 4095 radians in fp32, where one unit in the last place is 2.4e-4.
    np.testing.assert_allclose(ours[0], cosines[0, :, :32].numpy(), atol=5e-4)
    np.testing.assert_allclose(ours[1], sines[0, :, :32].numpy(), atol=5e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "decoders compute LlamaForCausalLM, Qwen3ForCausalLM"),
        ({"architectures": None}, r"architectures is \[\]"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"use_sliding_window": True}, "use_sliding_window is true"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"hidden_size": "64"}, "hidden_size is '64'; expected a positive integer"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rotary scaling 'yarn' is not computed"),
        ({"rope_scaling": {"rope_type": "linear"}}, "needs the number factor"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_config(write(tmp_path, {**LLAMA, **change}))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"], ids=["cut", "binary", "a list"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: not found; give a folder"):
        read_config(tmp_path)


def test_another_model_than_the_stack_was_written_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(write(tmp_path, LLAMA))
    for name, value in config.as_spec().items():
        monkeypatch.setattr(spec, name, value)
    check_against_spec(config, tmp_path)
    monkeypatch.setattr(spec, "LAYERS", 3)
    monkeypatch.setattr(spec, "ROPE_THETA", 1e6)
    with pytest.raises(
        ModelError, match=r"LAYERS is 2, the stack has 3; ROPE_THETA is 10000.0, the stack has 1000000.0"
    ):
        check_against_spec(config, tmp_path)
