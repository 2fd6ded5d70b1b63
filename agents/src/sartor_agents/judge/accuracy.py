"""Exact greedy match: an answer is right when the reference, given the answer itself, would have written every token of it.

The reference reads prompt and answer in one forward pass (teacher forcing). Where its own choice is the answer's token at
every position, the answer is exactly the greedy text. Another choice is allowed only at a *tie*: where the reference's two
best logits are closer than the tolerance, so that the order of a sum decides. Every position is held to that, not only the
first divergence, since behind a tie the reference judges along the answer's own path.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter


class ReferenceCheck(Protocol):
    """What the reference says of one answer; arrays have one entry per token of the answer."""

    @property
    def agrees(self) -> Sequence[bool] | NDArray[np.bool_]:
        """Whether the reference's own choice is the answer's token."""
        ...

    @property
    def gaps(self) -> Sequence[float] | NDArray[np.float32]:
        """Distance of the reference's two best logits."""
        ...


class Checker(Protocol):
    """A reference; `sartor_agents.judge.reference.Reference` is the real one."""

    def check(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> ReferenceCheck: ...


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """One answer: `divergence` is the first position that is neither the reference's choice nor a tie."""

    request: GenerationRequest
    output_ids: tuple[int, ...]
    agreed: int
    ties: int
    divergence: int | None
    gap: float = 0.0

    @property
    def right(self) -> bool:
        return self.divergence is None


def check_answer(
    reference: Checker, request: GenerationRequest, text: str, counter: TokenCounter, *, tolerance: float
) -> AnswerVerdict:
    """Judge the text of one answer. `tolerance` is the largest top-2 logit gap of a tie."""
    ids = counter.encode(text)
    check = reference.check(request.prompt_ids, ids)
    ties = 0
    agrees = np.asarray(check.agrees, dtype=bool)
    agreed = int(agrees.sum())
    for position in np.flatnonzero(~agrees):
        gap = float(check.gaps[int(position)])
        if gap >= tolerance:
            return AnswerVerdict(request, tuple(ids), agreed, ties, int(position), gap)
        ties += 1
    return AnswerVerdict(request, tuple(ids), agreed, ties, None)


def same_answer(
    reference: Checker, request: GenerationRequest, one: str, other: str, counter: TokenCounter, *, tolerance: float
) -> bool:
    """Whether two answers to one request are equal, or differ only from a tie of the reference on."""
    if one == other:
        return True
    a, b = counter.encode(one), counter.encode(other)
    split = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if split >= min(len(a), len(b)):
        return False
    check = reference.check(request.prompt_ids, a[: split + 1])
    return float(check.gaps[split]) < tolerance


def describe(verdict: AnswerVerdict, counter: TokenCounter) -> dict[str, Any]:
    """Evidence for people and for the implementer: where and how an answer went wrong."""
    if verdict.divergence is None:
        return {}
    at = verdict.divergence
    return {
        "position": at,
        "token": verdict.output_ids[at],
        "text": counter.decode(verdict.output_ids[at : at + 1]),
        "gap": round(verdict.gap, 4),
        "before": counter.decode(verdict.output_ids[max(0, at - 8) : at]),
        "prompt_tokens": len(verdict.request.prompt_ids),
        "condition": verdict.request.condition,
    }


def failed_sample(samples: Iterable[Sample]) -> Sample | None:
    """The first sample that failed, count mismatches first: they are never an accident."""
    failed = [sample for sample in samples if not sample.ok]
    return next((s for s in failed if s.error is ErrorClass.COUNT), failed[0] if failed else None)
