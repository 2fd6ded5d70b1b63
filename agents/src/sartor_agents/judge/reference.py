"""The accuracy reference: `transformers` in float32, teacher-forced.

One forward pass over prompt and answer gives, for every token of the answer, what the reference itself would have written
there. Where that is the answer's token at every position, the answer *is* the greedy text: equivalent to generating it, at
the price of a prefill. Sequences are never padded or batched, so each result is exact for itself.

Results are cached by the hash of weights, prompt and answer.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

CACHED_CHECKS = 1024


@dataclass(frozen=True)
class Check:
    """One answer of n tokens against the reference; every array has shape [n].

    `agrees` bool: the reference's argmax is the answer's token. `gaps` float32: distance of its two best logits.
    `logprobs` float32: natural logarithm of the probability that it gives the answer's token.
    """

    agrees: NDArray[np.bool_]
    gaps: NDArray[np.float32]
    logprobs: NDArray[np.float32]

    @property
    def divergence(self) -> int | None:
        """The first position at which the reference would have written another token."""
        wrong = np.flatnonzero(~self.agrees)
        return int(wrong[0]) if wrong.size else None

    @property
    def agreement(self) -> float:
        """Share of positions (0..1) with the same top choice."""
        return float(self.agrees.mean()) if self.agrees.size else 1.0


class Reference:
    """Holds the model in float32: 4 bytes per parameter. Raises `OSError` or `ValueError` when it cannot be loaded."""

    def __init__(self, model_dir: Path) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
        self._model = model.eval()
        self._vocabulary = int(model.config.vocab_size)
        self._weights = weights_hash(model_dir)
        self._checks: OrderedDict[str, Check] = OrderedDict()

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Check:
        """Compare an answer with greedy decoding. Raises `ValueError` on an empty prompt or an unknown token."""
        if not prompt_ids:
            raise ValueError("the prompt is empty; there is nothing that an answer could follow")
        if any(not 0 <= token < self._vocabulary for token in (*prompt_ids, *output_ids)):
            raise ValueError(f"a token id is outside the vocabulary of {self._vocabulary}")
        key = self._key(prompt_ids, output_ids)
        found = self._checks.get(key)
        if found is None:
            found = self._checks[key] = self._run(prompt_ids, output_ids)
            if len(self._checks) > CACHED_CHECKS:
                self._checks.popitem(last=False)
        return found

    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """`tokens` greedy tokens, end-of-text ignored."""
        out: list[int] = []
        ids, cache = torch.tensor([list(prompt_ids)]), None
        with torch.inference_mode():
            for _ in range(tokens):
                result = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = result.past_key_values
                out.append(int(result.logits[0, -1].argmax()))
                ids = torch.tensor([[out[-1]]])
        return out

    def _key(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> str:
        digest = hashlib.sha256(self._weights.encode())
        digest.update(np.asarray([len(prompt_ids), *prompt_ids, *output_ids], dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _run(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Check:
        count = len(output_ids)
        if count == 0:
            empty = np.zeros(0, dtype=np.float32)
            return Check(np.zeros(0, dtype=np.bool_), empty, empty)
        ids = torch.tensor([[*prompt_ids, *output_ids[:-1]]])
        answer = torch.tensor(list(output_ids))
        with torch.inference_mode():
            logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=count).logits[0].float()
            top = logits.topk(2, dim=-1)
            chosen = logits.gather(1, answer[:, None])[:, 0] - logits.logsumexp(dim=-1)
        return Check(
            agrees=(top.indices[:, 0] == answer).numpy(),
            gaps=(top.values[:, 0] - top.values[:, 1]).numpy(),
            logprobs=chosen.numpy(),
        )


def weights_hash(model_dir: Path) -> str:
    """SHA-256 (hexadecimal) over the names and contents of the checkpoint's weight files.

    Raises `FileNotFoundError` when there are none.
    """
    files = sorted(path for path in model_dir.iterdir() if path.suffix == ".safetensors")
    if not files:
        raise FileNotFoundError(f"{model_dir} has no *.safetensors; is it a checkpoint's folder?")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + os.fsencode("\0"))
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()
