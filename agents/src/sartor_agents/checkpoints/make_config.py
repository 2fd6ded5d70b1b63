"""config.json and generation_config.json of a made checkpoint."""

from pathlib import Path

from . import shapes, tokenizer
from .shapes import Architecture, ModelShape


def write_config(folder: Path, architecture: Architecture, shape: ModelShape, dtype: str) -> None:
    """config.json and generation_config.json (greedy by default, so that all engines agree on defaults)."""
    bos = tokenizer.BOS if tokenizer.begins_with_bos(architecture) else None
    settings = shapes.config(architecture, shape, dtype=dtype, bos=bos, eos=tokenizer.EOS)
    tokenizer.write_json(folder / "config.json", settings)
    generation = {"bos_token_id": bos, "eos_token_id": tokenizer.EOS, "pad_token_id": tokenizer.PAD, "do_sample": False}
    tokenizer.write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
