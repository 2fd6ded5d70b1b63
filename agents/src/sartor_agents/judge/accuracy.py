"""Exact greedy match: an answer is right when the reference, given the answer itself, would have written every token of it.

The reference reads prompt and answer in one forward pass (teacher forcing). Where its own choice is the answer's token at
every position, the answer is exactly the greedy text. Another choice is allowed only at a *tie*: where the reference's two
best logits are closer than the tolerance and a step of bfloat16 at that logit, so that the order of a sum or the rounding
of the logits decides. Every position is held to that, not only the
first divergence, since behind a tie the reference judges along the answer's own path. How many ties an honest server may
have is `ties`' business.

A server sends text, and text has more than one spelling in tokens: a byte-pair vocabulary may write " re" "turn" where its
own tokenizer reads " return", and special tokens are not in the text at all. So where the reference disagrees with the
tokenizer's spelling but one of its own near-best tokens spells the same text, its spelling is followed: what is judged is
the text, never the segmentation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter

from .reference_check import Checker, ReferenceCheck

RESPELLINGS = 64
"""Most forward passes spent on finding the spelling of one answer."""


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """One answer: `divergence` is the first position that is neither the reference's choice nor a tie.

    `margins` are the reference's top-2 gaps (logits) along the answer up to the divergence, `tolerances` how small they are
    at a tie; `flips` counts the ties at which another token than the reference's choice was written.
    """

    request: GenerationRequest
    output_ids: tuple[int, ...]
    agreed: int
    flips: int
    divergence: int | None
    gap: float = 0.0
    margins: tuple[float, ...] = ()
    tolerances: tuple[float, ...] = ()
    expected: int | None = None

    @property
    def right(self) -> bool:
        return self.divergence is None


def check_answer(
    reference: Checker, request: GenerationRequest, text: str, counter: TokenCounter, *, tolerance: float
) -> AnswerVerdict:
    """Judge the text of one answer. `tolerance`: `ReferenceCheck.tolerances`."""
    ids = counter.encode(text)
    best = _judge(request, ids, reference.check(request.prompt_ids, ids), tolerance)
    for _ in range(RESPELLINGS):
        if best.divergence is None:
            break
        other = _respelled(reference, request, text, best, counter, tolerance)
        if other is None:
            break
        best = other
    return best


def check_ids(reference: Checker, request: GenerationRequest, ids: Sequence[int], *, tolerance: float) -> AnswerVerdict:
    """Judge an answer whose token ids are known."""
    return _judge(request, ids, reference.check(request.prompt_ids, ids), tolerance)


def _judge(request: GenerationRequest, ids: Sequence[int], check: ReferenceCheck, tolerance: float) -> AnswerVerdict:
    flips = 0
    agrees = np.asarray(check.agrees, dtype=bool)
    agreed = int(agrees.sum())
    limits = check.tolerances(tolerance)
    for place in np.flatnonzero(~agrees):
        at = int(place)
        gap = float(check.gaps[at])
        if gap >= limits[at]:
            margins = check.margins[:at]
            return AnswerVerdict(request, tuple(ids), agreed, flips, at, gap, margins, limits[:at], check.choices[at])
        flips += 1
    return AnswerVerdict(request, tuple(ids), agreed, flips, None, margins=check.margins, tolerances=limits)


def _respelled(
    reference: Checker,
    request: GenerationRequest,
    text: str,
    verdict: AnswerVerdict,
    counter: TokenCounter,
    tolerance: float,
) -> AnswerVerdict | None:
    """The same text spelled as the reference would at the divergence, if that carries further."""
    assert verdict.divergence is not None
    at, ids = verdict.divergence, verdict.output_ids
    check = reference.check(request.prompt_ids, ids)
    most = check.tolerances(tolerance)[at]
    for token, logprob in zip(check.top[at], check.top_logprobs[at], strict=True):
        if check.top_logprobs[at][0] - logprob >= most:
            break
        if token == ids[at]:
            continue
        path = [*ids[:at], token]
        written = counter.tokenizer.decode(path, skip_special_tokens=True)
        if not text.startswith(written):
            continue  # another text, or an end within a character, which the tokenizer shows as U+FFFD
        spelled = [*path, *counter.encode(text[len(written) :])]
        if tuple(spelled) == ids:
            continue
        other = _judge(request, spelled, reference.check(request.prompt_ids, spelled), tolerance)
        if other.divergence is None or other.divergence > at:
            return other
    return None


def same_answer(
    reference: Checker, request: GenerationRequest, one: str, other: str, counter: TokenCounter, *, tolerance: float
) -> bool:
    """Whether two answers to one request are equal, or differ only as ties of the reference allow.

    Where the first is right, so has the other one to be, to its end and in as many tokens. A first answer that is wrong
    itself (which is another check's to say) is only held to where they part: that has to be a tie.
    """
    if one == other:
        return True
    first = check_answer(reference, request, one, counter, tolerance=tolerance)
    if first.right:
        second = check_answer(reference, request, other, counter, tolerance=tolerance)
        return second.right and len(second.output_ids) == len(first.output_ids)
    a, b = counter.encode(one), counter.encode(other)
    split = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if split >= min(len(a), len(b)):
        return False
    check = reference.check(request.prompt_ids, a[: split + 1])
    most = check.tolerances(tolerance)[split]
    near = {
        token
        for token, logprob in zip(check.top[split], check.top_logprobs[split], strict=True)
        if check.top_logprobs[split][0] - logprob < most
    }
    return {a[split], b[split]} <= near


def describe(verdict: AnswerVerdict, counter: TokenCounter) -> dict[str, Any]:
    """Evidence for people and for the implementer: where and how an answer went wrong."""
    if verdict.divergence is None:
        return {}
    at = verdict.divergence
    return {
        "position": at,
        "token": verdict.output_ids[at],
        "text": counter.decode(verdict.output_ids[at : at + 1]),
        "expected": counter.decode([verdict.expected]) if verdict.expected is not None else None,
        "gap": round(verdict.gap, 4),
        "before": counter.decode(verdict.output_ids[max(0, at - 8) : at]),
        "prompt_tokens": len(verdict.request.prompt_ids),
        "condition": verdict.request.condition,
    }


def mislabelled(request: GenerationRequest, sample: Sample, counter: TokenCounter) -> str | None:
    """What a complete answer says of its own end that is not so, or None.

    Requests of the scenarios fix their length (`ignore_eos`): the only true end is "length", after that many tokens.
    """
    if sample.tokens > request.output_tokens and not counter.agrees(sample.tokens, request.output_tokens):
        return f"{sample.tokens} tokens, though `max_tokens` was {request.output_tokens}"
    if sample.finish_reason is not None and request.body.get("ignore_eos") and sample.finish_reason != "length":
        return f"`finish_reason` is {sample.finish_reason!r}, though only `max_tokens` could end the answer"
    return None


def failed_sample(samples: Iterable[Sample]) -> Sample | None:
    """The first sample that failed, count mismatches first: they are never an accident."""
    failed = [sample for sample in samples if not sample.ok]
    return next((s for s in failed if s.error is ErrorClass.COUNT), failed[0] if failed else None)


_REASONS = {
    ErrorClass.COUNT: Reason.TOKEN_COUNT_MISMATCH,
    ErrorClass.SHORT: Reason.OUTPUT_TOO_SHORT,
    ErrorClass.EMPTY: Reason.OUTPUT_TOO_SHORT,
}


def reason_of(failed: Sample, request: GenerationRequest) -> Reason:
    """What a failed sample is called: a wrong count, a short answer, or no answer at all."""
    reason = _REASONS.get(failed.error or ErrorClass.STREAM, Reason.REQUEST_FAILED)
    if reason is Reason.TOKEN_COUNT_MISMATCH and failed.tokens > request.output_tokens:
        return Reason.ANSWER_MISLABELLED  # the tokens are there; they are more than `max_tokens` allows
    return reason
