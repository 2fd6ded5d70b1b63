"""Logprobs of every arithmetic against `transformers`, teacher-forced, by tolerances that follow from the rounding."""

import numpy as np
import torch
from numpy.typing import NDArray
from sartor_skills.blocks.decoder import Segment
from sartor_skills.blocks.sampling import token_logprobs

from sartor_skills.blocks import spec

from .cases import Case, pages_of, reference_logits
from .conftest import DecoderMaker, ModelMaker

LENGTH = 60
FEW = 5


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """By definition, in float64."""
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) - wide.max(1, keepdims=True)


def test_logprobs_are_those_of_transformers(case: Case, native: DecoderMaker, model_of: ModelMaker) -> None:
    """A logprob is a logit less the log of a sum of exponentials, and that log moves by no more than the logit that moves
    most: so a logprob is off by at most twice the largest error of a logit, which `case.tolerance` bounds.
    """
    tokens = np.random.default_rng(5).integers(0, spec.VOCAB_SIZE, LENGTH).tolist()
    argmax, logits = native(case).forward([Segment(pages_of(0), 0, tokens, LENGTH, True)])
    assert logits is not None
    raw = reference_logits(model_of(case), tokens)
    exact = log_softmax(raw)
    bound = 2 * case.tolerance * np.abs(raw).max()
    rows = np.arange(LENGTH - 1)
    errors: list[float] = []
    for row, forced in zip(rows, tokens[1:], strict=True):
        entry = token_logprobs(logits[row], forced, FEW)
        errors.append(abs(entry.logprob - exact[row, forced]))
        assert entry.top[0][0] == argmax[row]
        assert [token for token, _ in entry.top] == np.argsort(-logits[row], kind="stable")[:FEW].tolist()
        errors += [abs(value - exact[row, token]) for token, value in entry.top]
    assert max(errors) < bound
    if case.dtype == "bfloat16":
        # Weights and cache are the same bf16 numbers for both, and this decoder rounds nowhere that `transformers` does not:
        # it may not be farther from the exact logprobs than `transformers` in bf16 is.
        theirs = np.abs(log_softmax(reference_logits(model_of(case), tokens, torch.bfloat16)) - exact)
        ours = np.abs(log_softmax(logits) - exact)
        assert np.sqrt((ours**2).mean()) < np.sqrt((theirs**2).mean())
