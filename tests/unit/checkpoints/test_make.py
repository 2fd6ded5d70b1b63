"""Making: layout, determinism, shards, and that nothing half-done is ever left."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from sartor_agents.checkpoints import (
    SIZES,
    Architecture,
    CheckpointExistsError,
    CheckpointWriteError,
    InvalidRequestError,
    ModelShape,
    make,
    parameters,
)
from sartor_agents.checkpoints import make as make_function
from sartor_agents.checkpoints.safetensors_file import to_bfloat16

make_module = sys.modules[make_function.__module__]


def test_transformers_loads_every_tensor(random_dir: Path) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(random_dir, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    count = sum(weight.numel() for weight in model.parameters())
    assert count == parameters(Architecture(random_dir.name), SIZES["tiny"])
    assert model.dtype == torch.bfloat16


def test_random_logits_are_finite_and_differ(random_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_dir, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.arange(64)[None]).logits[0]
    assert logits.isfinite().all() and 1 < float(logits.std()) < 10


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, same, other = (
        make("chain", "qwen3", "tiny", seed, tmp_path / name) for seed, name in [(4, "a"), (4, "b"), (5, "c")]
    )
    assert one.sha256 == same.sha256 != other.sha256
    assert one.bytes >= one.parameters * 2
    assert json.loads((one.path / "checkpoint.json").read_text())["sha256"] == one.sha256


def test_shards_hold_the_same_weights(tmp_path: Path) -> None:
    whole = make("random", "llama", "tiny", 0, tmp_path / "whole").path
    parts = make("random", "llama", "tiny", 0, tmp_path / "parts", shard_bytes=100_000).path
    assert len(list(parts.glob("model-*-of-*.safetensors"))) > 1
    a, b = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_explicit_shape_and_float32(tmp_path: Path) -> None:
    shape = ModelShape(300, 96, 1, 3, 1, 32, 80, 256)
    folder = make("chain", "llama", shape, 0, tmp_path / "c", dtype="float32").path
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == 256
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.get_tensor("lm_head.weight").dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "chains"}, "random, chain, tinyTrained"),
        ({"architecture": "gpt2"}, "llama, qwen3"),
        ({"size": "53m"}, "52m"),
        ({"dtype": "int8"}, "bfloat16"),
        ({"seed": -1}, "negative"),
        ({"kind": "random", "eos_every": 4}, "chain only"),
        ({"size": ModelShape(32000, 16, 1, 1, 1, 16, 16)}, "hidden size of at least"),
        ({"kind": "tinyTrained", "size": "500m"}, "choose a size below"),
        ({"kind": "tinyTrained", "size": "4m", "minutes": 0.0}, "more than 0"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    request: dict[str, object] = {"kind": "chain", "architecture": "llama", "size": "tiny", "seed": 0}
    with pytest.raises(InvalidRequestError, match=message):
        make(out_dir=tmp_path / "c", **(request | changes))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="multiple of kv_heads"):
        ModelShape(512, 64, 2, 4, 3, 32, 192)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(CheckpointExistsError, match="exists already"):
        make("chain", "llama", "tiny", 0, tmp_path / "c")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(make_module, "write_weights", full)
    with pytest.raises(CheckpointWriteError, match=r"disk is full .* free some space"):
        make("chain", "llama", "tiny", 0, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointWriteError, match="cannot be written"):
        make("chain", "llama", "tiny", 0, tmp_path / "file" / "c")


def test_a_killed_maker_leaves_no_checkpoint(tmp_path: Path) -> None:
    """Killed after the weights were written and before the rename: there is no folder of that name."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sartor_agents.checkpoints import make\n"
        "module = sys.modules[make.__module__]\n"
        "module.content_digest = lambda folder: os.kill(os.getpid(), signal.SIGKILL)\n"
        "make('chain', 'llama', 'tiny', 0, Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "c")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "c").exists()
    assert make("chain", "llama", "tiny", 0, tmp_path / "c").path.is_dir(), "and the next one can"
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "and swept up behind the killed one"


def test_of_two_makers_at_once_the_first_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = make_module.content_digest

    def another_finishes_first(folder: Path) -> str:
        monkeypatch.setattr(make_module, "content_digest", real)
        make("chain", "llama", "tiny", 0, tmp_path / "c")
        return real(folder)

    monkeypatch.setattr(make_module, "content_digest", another_finishes_first)
    with pytest.raises(CheckpointExistsError, match="by someone else meanwhile"):
        make("random", "llama", "tiny", 0, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c" / "chain.json").is_file()


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99), min_size=1
    )
)
def test_bfloat16_is_rounded_as_pytorch_rounds_it(values: list[float]) -> None:
    array = np.asarray(values, dtype=np.float32)
    ours = torch.from_numpy(to_bfloat16(array).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours, torch.from_numpy(array).to(torch.bfloat16))
