"""Missing, foreign and damaged checkpoints are told apart and named."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sartor_agents.checkpoints import (
    Architecture,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    FolderSource,
    HubSource,
    SyntheticSource,
    UnsupportedArchitectureError,
    check_checkpoint,
    make,
    resolve,
)


@pytest.fixture
def copy(random_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_dir, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_a_good_one(copy: Path) -> None:
    found = check_checkpoint(copy)
    assert found.architecture in Architecture
    assert found.weight_bytes == (copy / "model.safetensors").stat().st_size
    assert "lm_head.weight" in found.tensors


def test_a_missing_folder_and_a_missing_configuration(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        check_checkpoint(tmp_path / "nowhere")
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json"):
        check_checkpoint(copy)


def test_another_architecture_names_those_that_are_supported(copy: Path) -> None:
    edit(copy / "config.json", architectures=["GPT2LMHeadModel"])
    with pytest.raises(UnsupportedArchitectureError, match=r"GPT2LMHeadModel .* LlamaForCausalLM, Qwen3ForCausalLM"):
        check_checkpoint(copy)


@pytest.mark.parametrize("kept", [0, 5, 200, 20_000, -1])
def test_a_truncated_file_is_found_without_reading_it(copy: Path, kept: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors: .*(truncated|too short)"):
        check_checkpoint(copy)


def test_truncation_names_the_tensor(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpointError, match=r"tensor lm_head\.weight"):
        check_checkpoint(copy)


def test_bytes_too_many(copy: Path) -> None:
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedCheckpointError, match="1 bytes too many"):
        check_checkpoint(copy)


def test_a_header_that_contradicts_itself(copy: Path) -> None:
    def grow(header: dict[str, Any]) -> None:
        header["model.norm.weight"]["shape"] = [65]

    edit_header(copy / "model.safetensors", grow)
    with pytest.raises(DamagedCheckpointError, match=r"tensor model\.norm\.weight"):
        check_checkpoint(copy)


def test_a_header_that_is_no_json(copy: Path) -> None:
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8:12] = b"\xff\x00\xff\x00"
    weights.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="header is not valid"):
        check_checkpoint(copy)


def test_more_layers_configured_than_there_are(copy: Path) -> None:
    edit(copy / "config.json", num_hidden_layers=3)
    with pytest.raises(DamagedCheckpointError, match=r"model\.layers\.2\.mlp\.down_proj\.weight"):
        check_checkpoint(copy)


def test_another_vocabulary_configured(copy: Path) -> None:
    edit(copy / "config.json", vocab_size=513)
    with pytest.raises(
        DamagedCheckpointError, match=r"embed_tokens\.weight is \[512, 64\], config\.json says \[513, 64\]"
    ):
        check_checkpoint(copy)


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = make("random", "llama", "tiny", 0, tmp_path / "c", shard_bytes=100_000).path
    check_checkpoint(folder)
    last = max(folder.glob("model-*.safetensors"))
    last.unlink()
    with pytest.raises(DamagedCheckpointError, match=f"{last.name} is missing"):
        check_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json_is_named(copy: Path, name: str) -> None:
    (copy / name).write_text("{")
    with pytest.raises(DamagedCheckpointError, match=name):
        check_checkpoint(copy)


def test_a_synthetic_source_is_made_once(tmp_path: Path) -> None:
    source = SyntheticSource(size="tiny")
    folder = resolve(source, cache=tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(source, cache=tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert resolve(SyntheticSource(size="tiny", seed=1), cache=tmp_path) != folder


def test_a_folder_is_checked(copy: Path, tmp_path: Path) -> None:
    assert resolve(FolderSource(copy)) == copy
    with pytest.raises(CheckpointNotFoundError):
        resolve(FolderSource(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointNotFoundError, match="the hub cannot be reached"):
        resolve(HubSource("owner/name", "0" * 40))
