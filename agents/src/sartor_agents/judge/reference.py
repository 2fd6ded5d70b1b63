"""The accuracy reference: `transformers` in fp32, teacher-forced.

Prompt and answer are read in one forward pass. If the model's own choice is the answer's token at every position, then
by induction the answer is exactly what greedy decoding writes. Where it is not, the distance from the best logit to the
answer's token says whether the two were tied.

Cost: 4 bytes of memory per parameter plus activations and 4 · answer · vocabulary bytes of logits; about
2 · parameters · tokens FLOP. One sample per pass: padding a batch changes the order of sums in fp32, and a reference
must not depend on its company. Results are cached by the content of weights, prompt and answer.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from sartor_agents.checkpoints import check_checkpoint, content_digest

CACHE_VERSION = 1


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """What the reference says of one answer; one entry per token of the answer."""

    agrees: tuple[bool, ...]
    """Whether its own choice (argmax) is the answer's token."""
    gaps: tuple[float, ...]
    """Logits: where it agrees, best minus second best; where not, best minus the answer's token (never smaller)."""
    choices: tuple[int, ...]
    """Its own choice, given the answer up to there."""
    logprobs: tuple[float, ...]
    """Natural-log probability of the answer's token."""

    @property
    def divergence(self) -> int | None:
        """The first position where it would have written something else, tie or not."""
        return next((place for place, same in enumerate(self.agrees) if not same), None)

    @property
    def agreement(self) -> float:
        """Share of positions that agree (top-1 agreement); 1 for an empty answer."""
        return sum(self.agrees) / len(self.agrees) if self.agrees else 1.0

    def exact(self, tolerance: float) -> bool:
        """Greedy up to ties: at every disagreement the answer's token lies less than `tolerance` below the best."""
        return all(same or gap < tolerance for same, gap in zip(self.agrees, self.gaps, strict=True))


class Reference:
    """One model, loaded in fp32 when it is first needed (a check that is in the cache needs no weights)."""

    def __init__(self, model_dir: Path, *, cache_dir: Path | None = None, threads: int | None = None) -> None:
        """`threads` sets PyTorch's for this process; None leaves them. Raises `CheckpointError`."""
        check_checkpoint(model_dir)
        if threads is not None:
            torch.set_num_threads(threads)
        self._model_dir = model_dir
        self._cache_dir = cache_dir
        self._digest = content_digest(model_dir) if cache_dir is not None else ""
        self._loaded: torch.nn.Module | None = None

    def _model(self) -> torch.nn.Module:
        if self._loaded is None:
            model = AutoModelForCausalLM.from_pretrained(self._model_dir, dtype=torch.float32)
            self._loaded = model.eval()
        return self._loaded

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        """Hold an answer (token ids) against the model's own greedy choice after a prompt (at least one token)."""
        self._require_prompt(prompt_ids)
        if not output_ids:
            return ReferenceCheck((), (), (), ())
        path = self._cache_path(prompt_ids, output_ids)
        if path is not None and (known := _read(path)) is not None:
            return known
        result = self._forward(prompt_ids, output_ids)
        if path is not None:
            _write(path, result)
        return result

    @torch.inference_mode()
    def _forward(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck:
        tokens = torch.tensor([[*prompt_ids, *output_ids[:-1]]])
        logits = self._model()(tokens, logits_to_keep=len(output_ids), use_cache=False).logits[0].float()
        answer = torch.tensor(list(output_ids))
        best = logits.topk(2)
        choices = best.indices[:, 0]
        agrees = choices == answer
        of_answer = logits.gather(1, answer[:, None])[:, 0]
        gaps = torch.where(agrees, best.values[:, 0] - best.values[:, 1], best.values[:, 0] - of_answer)
        logprobs = of_answer - logits.logsumexp(-1)
        return ReferenceCheck(
            tuple(bool(same) for same in agrees.tolist()),
            tuple(gaps.tolist()),
            tuple(choices.tolist()),
            tuple(logprobs.tolist()),
        )

    @torch.inference_mode()
    def generate(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        """Exactly `tokens` tokens of greedy decoding; end of sequence does not stop it."""
        self._require_prompt(prompt_ids)
        written: list[int] = []
        step, cache = torch.tensor([list(prompt_ids)]), None
        while len(written) < tokens:
            result = self._model()(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            written.append(int(result.logits[0, -1].argmax()))
            step, cache = torch.tensor([written[-1:]]), result.past_key_values
        return written

    @staticmethod
    def _require_prompt(prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise ValueError("the prompt has no tokens; a causal model predicts nothing from nothing")

    def _cache_path(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Path | None:
        if self._cache_dir is None:
            return None
        key = json.dumps([CACHE_VERSION, self._digest, list(prompt_ids), list(output_ids)])
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._cache_dir / name[:2] / f"{name}.json"


def _read(path: Path) -> ReferenceCheck | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ReferenceCheck(
            *(tuple(content[name]) for name in ("agrees", "gaps", "choices", "logprobs"))  # type: ignore[arg-type]
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: it is computed again


def _write(path: Path, result: ReferenceCheck) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as file:
        json.dump(asdict(result), file)
    Path(file.name).replace(path)
