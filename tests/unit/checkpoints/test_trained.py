"""The tiny trained checkpoint: it learns, and its tokenizer is a real one."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sartor_agents.checkpoints import ModelShape, check_checkpoint, make, trained

SHAPE = ModelShape(512, 64, 2, 4, 2, 16, 128, 512)


@pytest.fixture(scope="module")
def trained_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty steps on a small part of the corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "CORPUS_BYTES", 300_000)
        patch.setattr(trained.standard_library, "__defaults__", (300_000,))
        patch.setattr(trained, "WINDOW", 64)
        folder = tmp_path_factory.mktemp("trained") / "t"
        return make("tinyTrained", "qwen3", SHAPE, 1, folder, steps=40).path


def test_it_learned_and_loads(trained_dir: Path) -> None:
    record = json.loads((trained_dir / "training.json").read_text())
    assert record["steps"] == 40
    assert record["lastLoss"] < record["firstLoss"] - 0.5
    assert check_checkpoint(trained_dir).architecture == "qwen3"
    AutoModelForCausalLM.from_pretrained(trained_dir)


def test_the_tokenizer_round_trips_and_splits_characters(trained_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained_dir)
    for text in ("def f(x):\n    return x  # größer 🙂", "\t\x00 ", "日本語"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("🙂")) > 1
    assert len(tokenizer.encode("    return self")) < 8, "common words have tokens of their own"


def test_time_bounds_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained.standard_library, "__defaults__", (100_000,))
    monkeypatch.setattr(trained, "WINDOW", 16)
    ticks = iter(range(1000))
    (tmp_path / "t").mkdir()
    trained.train(
        tmp_path / "t",
        "llama",
        SHAPE,
        seed=0,
        dtype="bfloat16",
        minutes=0.1,
        clock=lambda: next(ticks),  # type: ignore[arg-type]
    )
    assert json.loads((tmp_path / "t" / "training.json").read_text())["steps"] == 5
