"""Whether a folder holds a checkpoint that can be served: read before anything is built or started on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointNotFoundError, DamagedCheckpointError, UnsupportedArchitectureError
from .safetensors_file import TensorInfo, check_file
from .shapes import Architecture

SUPPORTED = {"LlamaForCausalLM": Architecture.LLAMA, "Qwen3ForCausalLM": Architecture.QWEN3}
"""Model classes in `config.json` that building blocks exist for."""

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a checked folder holds."""

    path: Path
    architecture: Architecture
    tensors: dict[str, TensorInfo]
    files: tuple[Path, ...]
    """The files with weights."""

    @property
    def weight_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def check_checkpoint(folder: Path) -> Inspected:
    """Check a folder in Hugging Face layout by its configuration and the headers of its weights (milliseconds).

    Raises `CheckpointNotFoundError`, `UnsupportedArchitectureError`, or `DamagedCheckpointError`, which names the
    file and, where it can, the tensor.
    """
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"{folder}: no such folder; name the folder that holds config.json")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointNotFoundError(
                f"{folder}: no {name}; a checkpoint in Hugging Face layout has config.json, tokenizer.json and "
                "*.safetensors (one is made by `sartor checkpoint make`)"
            )
    config = _read_json(folder / "config.json")
    classes = config.get("architectures") or []
    architecture = next((SUPPORTED[name] for name in classes if name in SUPPORTED), None)
    if architecture is None:
        raise UnsupportedArchitectureError(
            f"{folder / 'config.json'}: architecture {', '.join(map(str, classes)) or '(none)'} is not supported; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    _read_json(folder / "tokenizer.json")
    tensors, files = _weights(folder)
    _check_complete(folder, config, tensors)
    return Inspected(folder, architecture, tensors, files)


def _weights(folder: Path) -> tuple[dict[str, TensorInfo], tuple[Path, ...]]:
    single = folder / "model.safetensors"
    if not (folder / INDEX).is_file():
        if not single.is_file():
            raise CheckpointNotFoundError(f"{folder}: no model.safetensors and no {INDEX}")
        return check_file(single), (single,)
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DamagedCheckpointError(f"{folder / INDEX}: has no weight_map; fetch it again")
    files = tuple(folder / name for name in sorted({str(name) for name in weight_map.values()}))
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        if not file.is_file():
            raise DamagedCheckpointError(f"{folder}: {file.name} is missing, though {INDEX} names it; fetch it again")
        tensors.update(check_file(file))
    for name, file in weight_map.items():
        if name not in tensors:
            raise DamagedCheckpointError(
                f"{folder / str(file)}: tensor {name} is missing, though {INDEX} places it there"
            )
    return tensors, files


def _check_complete(folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
    """The tensors at both ends and of every layer are there, and the table has the configured size."""
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise DamagedCheckpointError(f"{folder / 'config.json'}: num_hidden_layers is {layers!r}, not a number")
    wanted = ["model.embed_tokens.weight", "model.norm.weight"]
    wanted += [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(layers)]
    if not config.get("tie_word_embeddings", False):
        wanted.append("lm_head.weight")
    for name in wanted:
        if name not in tensors:
            raise DamagedCheckpointError(f"{folder}: the weights lack tensor {name}, which config.json asks for")
    table = tensors["model.embed_tokens.weight"].dims
    expected = (config.get("vocab_size"), config.get("hidden_size"))
    if table != expected:
        raise DamagedCheckpointError(
            f"{folder}: tensor model.embed_tokens.weight is {list(table)}, config.json says {list(expected)}"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DamagedCheckpointError(f"{path}: not a JSON object; fetch it again")
    return content
