"""Reading checkpoints: what is in them, and what is said of damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sartor_skills.blocks.model_config import ModelError
from sartor_skills.blocks.weights import Tensor, Weights, expected_shapes

from sartor_skills.blocks import spec

from .cases import CASES, make_model


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "model"))


def test_every_tensor_is_read_as_written(llama: Path) -> None:
    weights = Weights(llama)
    written = load_file(llama / "model.safetensors")
    assert set(weights.names()) == set(written)
    for name, tensor in written.items():
        assert weights[name].kind == "BF16"
        np.testing.assert_array_equal(weights[name].as_float32(), tensor.float().numpy())
        np.testing.assert_array_equal(weights[name].in_dtype(), tensor.view(torch.uint16).numpy())


def test_shards(llama: Path, tmp_path: Path) -> None:
    make_model(tmp_path, CASES[0].config, shard="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    whole, parts = Weights(llama), Weights(tmp_path)
    for name in expected_shapes():
        np.testing.assert_array_equal(whole[name].data, parts[name].data)


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1))
def test_rounding_to_bfloat16_is_torchs(values: list[float]) -> None:
    data = np.array(values, np.float32)
    ours = Tensor("x", "F32", data).as_bfloat16()
    theirs = torch.from_numpy(data).to(torch.bfloat16)
    back = Tensor("x", "BF16", ours).as_float32()
    np.testing.assert_array_equal(back, theirs.float().numpy())  # NaN equals NaN here, whatever its bits


def test_half_precision_is_converted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "model.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    monkeypatch.setattr(spec, "DTYPE", "float32")
    weights = Weights(copy)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(weights[name].in_dtype(), tensor.float().numpy())


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)


def cut_to(size: int) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(size)

    return cut


def overwrite(data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(data)

    return write


def with_header(header: Any) -> Callable[[Path], None]:
    raw = json.dumps(header).encode()
    return overwrite(len(raw).to_bytes(8, "little") + raw + bytes(64))


def drop(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path)


def reshape(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, path)


def index(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")

    return write


ENTRY = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated: .* ends 10 bytes behind the end of the file"),
        (cut_to(0), r"truncated or not a safetensors file \(0 bytes\)"),
        (cut_to(200), r"truncated or not a safetensors file \(200 bytes\)"),
        (overwrite(b"\xff" * 100), "truncated or not a safetensors file"),
        (overwrite((20).to_bytes(8, "little") + b"{" * 92), "the header is not JSON"),
        (overwrite((20).to_bytes(8, "little") + b"\xff" * 92), "the header is not JSON"),
        (with_header([1]), "the header is not a JSON object"),
        (with_header({"x": {**ENTRY, "shape": "wide"}}), "entry for x is damaged"),
        (with_header({"x": [1]}), "entry for x is damaged"),
        (with_header({"x": {**ENTRY, "shape": [5]}}), "entry for x contradicts itself"),
        (with_header({"x": {**ENTRY, "data_offsets": [-8, 0]}}), "entry for x contradicts itself"),
        (with_header({"x": {**ENTRY, "dtype": "I64"}}), "tensor x is I64; readable are BF16, F16, F32"),
        (drop, "tensor model.norm.weight is missing"),
        (reshape, r"model.norm.weight has shape \[63\], expected \[64\]"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (index("{"), "not an index"),
        (index('{"weight_map": {"x": "../secret"}}'), "not a file name in the model's own folder"),
        (index('{"weight_map": {"x": "gone.safetensors"}}'), "gone.safetensors: cannot be read: No such file"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=message):
        Weights(copy)
