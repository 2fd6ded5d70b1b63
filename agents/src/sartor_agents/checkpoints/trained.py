"""A few million parameters trained on the Python standard library, for demonstrations that read like something.

Text and tokenizer are real: a byte-level BPE trained on the same sources, so words have several tokens and rare
characters are split over them. Bounded by wall-clock time or by a number of steps; only the latter gives the same
weights again (on the same machine and PyTorch).
"""

import math
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE

from . import shapes
from .errors import InvalidRequestError
from .make_config import write_config
from .safetensors_file import write_weights
from .shapes import Architecture, ModelShape, TensorShape
from .tokenizer import FIRST_BYTE, SPECIAL_TOKENS, finish_tokenizer, save_tokenizer, write_json

CORPUS_BYTES = 8_000_000
TOKENIZER_BYTES = 3_000_000
WINDOW = 256
BATCH = 8
PEAK_RATE = 3e-3
WARM_UP_SHARE = 0.05
MAX_PARAMETERS = 60_000_000
_SKIP = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"}


def standard_library(limit_bytes: int = CORPUS_BYTES) -> list[str]:
    """Sources of this Python's standard library, in the order of their paths, up to about `limit_bytes` bytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: list[str] = []
    total = 0
    for path in sorted(root.rglob("*.py")):
        if _SKIP.isdisjoint(path.relative_to(root).parts):
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
            total += len(texts[-1])
            if total >= limit_bytes:
                break
    if not texts:
        raise InvalidRequestError(f"{root}: no sources of the standard library to train on")
    return texts


def train_tokenizer(texts: list[str], vocab: int, architecture: Architecture) -> Tokenizer:
    """A byte-level BPE of at most `vocab` tokens: the special tokens, all bytes, then merges."""
    if vocab < FIRST_BYTE + 256:
        raise InvalidRequestError(f"a vocabulary of {vocab} is too small: it needs at least {FIRST_BYTE + 256} tokens")

    def some() -> Iterator[str]:
        total = 0
        for text in texts[:: max(1, sum(map(len, texts)) // TOKENIZER_BYTES)]:
            yield text
            total += len(text)
            if total >= TOKENIZER_BYTES:
                return

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(some(), trainer)
    finish_tokenizer(tokenizer, architecture)
    return tokenizer


def train(
    folder: Path,
    architecture: Architecture,
    shape: ModelShape,
    *,
    seed: int,
    dtype: str,
    minutes: float,
    steps: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train for `minutes` of `clock`, or exactly `steps` steps, and write the checkpoint and `training.json`."""
    if minutes <= 0:
        raise InvalidRequestError(f"minutes is {minutes}; it must be more than 0")
    if (count := shapes.parameters(architecture, shape)) > MAX_PARAMETERS:
        raise InvalidRequestError(
            f"tinyTrained with {count / 1e6:.0f} M parameters would learn nothing in minutes; "
            f"choose a size below {MAX_PARAMETERS // 10**6} M, such as 4m or 10m"
        )
    texts = standard_library()
    tokenizer = train_tokenizer(texts, shape.vocab, architecture)
    save_tokenizer(tokenizer, architecture, shape.max_positions, folder)
    write_config(folder, architecture, shape, dtype)
    data = np.concatenate(
        [np.asarray(code.ids, dtype=np.int64) for code in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    )
    state, record = _fit(folder, data, seed=seed, seconds=60 * minutes, steps=steps, clock=clock)

    def values(tensor: TensorShape) -> npt.NDArray[np.float32]:
        return state[tensor.name]

    write_weights(folder, shapes.tensors(architecture, shape), values, dtype=dtype)
    write_json(folder / "training.json", {**record, "tokens": int(data.size), "seed": seed})


def _fit(
    folder: Path,
    data: npt.NDArray[np.int64],
    *,
    seed: int,
    seconds: float,
    steps: int | None,
    clock: Callable[[], float],
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, Any]]:
    """AdamW with linear warm-up and cosine decay over the share of the budget that is used up."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    rng = np.random.default_rng(seed)
    started = clock()
    losses: list[float] = []
    while (used := len(losses) / steps if steps is not None else (clock() - started) / seconds) < 1:
        rate = PEAK_RATE * min(used / WARM_UP_SHARE, 1.0) * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * used)))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, PEAK_RATE / 100)
        begins = rng.integers(0, data.size - WINDOW - 1, size=BATCH)
        batch = torch.from_numpy(np.stack([data[begin : begin + WINDOW + 1] for begin in begins]))
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    last = losses[-20:]
    return state, {"steps": len(losses), "firstLoss": losses[0], "lastLoss": sum(last) / len(last)}
