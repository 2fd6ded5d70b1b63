"""What a checkpoint's configuration says about the model, as the spec that building blocks read.

Source: `config.json` and `generation_config.json` as Hugging Face lays them out (transformers 4 and 5 write the rotary
embedding's base differently; both are read).
"""

import json
from pathlib import Path
from typing import Any, cast

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}


class UnsupportedModelError(Exception):
    """The playbook has no blocks for this model; the message names what it has."""


def model_spec(config_dir: Path) -> dict[str, Any]:
    """Spec values of the model in `config_dir`. Raises `UnsupportedModelError` and `OSError`."""
    config = _json(config_dir / "config.json")
    generation_path = config_dir / "generation_config.json"
    generation = _json(generation_path) if generation_path.is_file() else {}
    name = (config.get("architectures") or ["(none)"])[0]
    if name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{config_dir / 'config.json'}: architecture {name} is not supported by the playbook; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    rope = cast(dict[str, Any], config.get("rope_parameters") or config.get("rope_scaling") or {})
    heads = int(config["num_attention_heads"])
    qwen3 = ARCHITECTURES[name] == "qwen3"
    eos = generation.get("eos_token_id", config.get("eos_token_id"))
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    return {
        "ARCHITECTURE": ARCHITECTURES[name],
        "VOCAB_SIZE": int(config["vocab_size"]),
        "HIDDEN_SIZE": int(config["hidden_size"]),
        "LAYERS": int(config["num_hidden_layers"]),
        "HEADS": heads,
        "KV_HEADS": int(config.get("num_key_value_heads") or heads),
        "HEAD_DIM": int(config.get("head_dim") or (128 if qwen3 else int(config["hidden_size"]) // heads)),
        "INTERMEDIATE_SIZE": int(config["intermediate_size"]),
        "RMS_EPS": float(config["rms_norm_eps"]),
        "ROPE_THETA": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        "ROPE_SCALING": rope if scaled else None,
        "QK_NORM": qwen3,
        "ATTENTION_BIAS": bool(config.get("attention_bias", False)),
        "TIED_EMBEDDINGS": bool(config.get("tie_word_embeddings", False)),
        "EOS_TOKEN_IDS": tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
        "BOS_TOKEN_ID": config.get("bos_token_id"),
        "DTYPE": "float32" if (config.get("dtype") or config.get("torch_dtype")) == "float32" else "bfloat16",
    }


def max_positions(config_dir: Path) -> int:
    return int(_json(config_dir / "config.json").get("max_position_embeddings", 2048))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
