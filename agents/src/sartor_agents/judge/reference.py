"""The accuracy reference: `transformers` in fp32, teacher-forced.

Prompt and answer are read in one forward pass. If the model's own choice is the answer's token at every position, then
by induction the answer is exactly what greedy decoding writes. Where it is not, the distance from the best logit to the
answer's token says whether the two were tied.

Cost: 4 bytes of memory per parameter plus activations and 4 · answer · vocabulary bytes of logits; about
2 · parameters · tokens FLOP. One sample per pass: padding a batch changes the order of sums in fp32, and a reference
must not depend on its company. Each reading is kept by the content of weights, prompt and answer (`reference_cache`), so a
sealed set is computed once, whoever asks and however often.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sartor_agents.checkpoints import check_checkpoint, content_digest

from .reference_cache import ReferenceCache
from .reference_check import EMPTY, ReferenceCheck

TOP = 16
"""Alternatives kept per position: more than any server reports (`logprobs` ≤ 5), so that its best are among them."""


class Reference:
    """One model, loaded in fp32 when it is first needed (a check that is in the cache needs no weights)."""

    def __init__(self, model_dir: Path, *, cache_dir: Path | None = None, threads: int | None = None) -> None:
        """`threads` sets PyTorch's for this process; None leaves them. Raises `CheckpointError`."""
        check_checkpoint(model_dir)
        if threads is not None:
            torch.set_num_threads(threads)
        self._model_dir = model_dir
        digest = content_digest(model_dir) if cache_dir is not None else ""
        self._cache = ReferenceCache(digest, cache_dir)
        self._loaded: dict[torch.dtype, Any] = {}
        self._device = torch.device("cpu")

    def _model(self, dtype: torch.dtype = torch.float32) -> Any:
        if dtype not in self._loaded:
            self._loaded[dtype] = AutoModelForCausalLM.from_pretrained(self._model_dir, dtype=dtype).eval()
        return self._loaded[dtype]

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """Hold an answer (token ids) against the model's own greedy choice after a prompt (at least one token)."""
        return self._check(prompt_ids, output_ids)

    def rounded(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> ReferenceCheck:
        """The same reading, rounded to bfloat16: what that arithmetic alone does to the numbers.

        `layers`: weights and activations are, as in engines. `logits`: these are, as in engines whose head computes in
        bfloat16; else the head computes in fp32 from whatever hidden states there are.
        """
        return self._check(prompt_ids, output_ids, layers=layers, logits=logits)

    def products(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """The same reading where matrix products take bfloat16 operands, and sums, norms and residuals stay in fp32.

        That is what kernels for bfloat16 hardware do at their best; whose logits are fp32 need not be further off.
        """
        self._require_prompt(prompt_ids)
        if not output_ids:
            return EMPTY
        known = self._cache.get(_PRODUCTS, prompt_ids, output_ids)
        if known is None:
            linear = [module for module in self._model().modules() if isinstance(module, torch.nn.Linear)]
            hooks = [module.register_forward_pre_hook(_rounded_input) for module in linear]
            try:
                known = _reading(self._logits(prompt_ids, output_ids, layers=False, logits=False), output_ids)
            finally:
                for hook in hooks:
                    hook.remove()
            self._cache.put(_PRODUCTS, prompt_ids, output_ids, known)
        return known

    def _check(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool = False, logits: bool = False
    ) -> ReferenceCheck:
        self._require_prompt(prompt_ids)
        if not output_ids:
            return EMPTY
        known = self._cache.get(_kind(layers, logits), prompt_ids, output_ids)
        if known is not None:
            return known
        exact = self._logits(prompt_ids, output_ids, layers=layers, logits=logits)
        known = _reading(exact, output_ids)
        self._cache.put(_kind(layers, logits), prompt_ids, output_ids, known)
        if not (layers or logits):  # rounding them costs nothing beside the pass, and is often asked for next
            self._cache.put(_kind(layers, True), prompt_ids, output_ids, _reading(_rounded(exact), output_ids))
        return known

    @torch.inference_mode()
    def _logits(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], *, layers: bool, logits: bool
    ) -> torch.Tensor:
        """[answer, vocabulary] float32."""
        tokens, size = torch.tensor([[*prompt_ids, *output_ids[:-1]]], device=self._device), len(output_ids)
        model = self._model(torch.bfloat16 if layers else torch.float32)
        if layers == logits:
            return model(tokens, logits_to_keep=size, use_cache=False).logits[0].float().cpu()
        if logits:
            return _rounded(model(tokens, logits_to_keep=size, use_cache=False).logits[0]).cpu()
        hidden = model.base_model(tokens, use_cache=False).last_hidden_state[0, -size:]
        return self._model().get_output_embeddings()(hidden.float()).cpu()

    @torch.inference_mode()
    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Exactly `tokens` tokens of greedy decoding; end of sequence does not stop it."""
        self._require_prompt(prompt_ids)
        written: list[int] = []
        step, cache = torch.tensor([list(prompt_ids)], device=self._device), None
        while len(written) < tokens:
            result = self._model()(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            written.append(int(result.logits[0, -1].argmax()))
            step, cache = torch.tensor([written[-1:]], device=self._device), result.past_key_values
        return written

    @staticmethod
    def _require_prompt(prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise ValueError("the prompt has no tokens; a causal model predicts nothing from nothing")


_PRODUCTS = "products of bfloat16"


def _rounded_input(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (_rounded(arguments[0]), *arguments[1:])


def _kind(layers: bool, logits: bool) -> str:
    names = {False: "float32", True: "bfloat16"}
    return f"layers in {names[layers]}, logits in {names[logits]}"


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()


@torch.inference_mode()
def _reading(logits: torch.Tensor, output_ids: Sequence[int]) -> ReferenceCheck:
    answer = torch.tensor(list(output_ids))
    best = logits.topk(min(TOP, logits.shape[-1]))
    total = logits.logsumexp(-1, keepdim=True)
    choices = best.indices[:, 0]
    agrees = choices == answer
    of_answer = logits.gather(1, answer[:, None])
    margins = best.values[:, 0] - best.values[:, 1]
    gaps = torch.where(agrees, margins, best.values[:, 0] - of_answer[:, 0])
    # 8 significant bits: 2⁻⁷ of the power of two at or below it.
    steps = torch.exp2(best.values[:, 0].abs().clamp_min(1e-9).log2().floor() - 7)
    return ReferenceCheck(
        tuple(bool(same) for same in agrees.tolist()),
        tuple(gaps.tolist()),
        tuple(choices.tolist()),
        tuple((of_answer - total)[:, 0].tolist()),
        tuple(steps.tolist()),
        tuple(tuple(row) for row in best.indices.tolist()),
        tuple(tuple(row) for row in (best.values - total).tolist()),
    )
