"""The PyTorch decoder against `transformers` and against the native one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sartor_skills.blocks.decoder import Segment
from sartor_skills.blocks.decoder_errors import DecoderError
from sartor_skills.blocks.torch_decoder import TorchDecoder

from sartor_skills.blocks import spec

from .cases import CASES, KV_PAGES, STEP_TOKENS, Case, one_by_one, pages_of, reference_logits, specialise
from .conftest import ModelMaker

LENGTH = 40


@pytest.fixture(params=CASES[:2], ids=lambda case: case.name)
def torch_case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model_of: ModelMaker) -> Case:
    chosen: Case = request.param
    specialise(monkeypatch, model_of(chosen), DTYPE=chosen.dtype)
    return chosen


@pytest.fixture
def decoder(torch_case: Case, model_of: ModelMaker) -> Iterator[TorchDecoder]:
    made = TorchDecoder(model_of(torch_case), kv_pages=KV_PAGES, threads=1)
    yield made
    made.close()


def prompt(seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(0, spec.VOCAB_SIZE, LENGTH).tolist()


def tolerance(case: Case, reference: np.ndarray) -> float:
    # PyTorch also rounds the result of every linear to bfloat16, which the native decoder does not.
    return (3 if case.dtype == "bfloat16" else 1) * case.tolerance * float(np.abs(reference).max())


def test_logits_are_those_of_transformers(torch_case: Case, decoder: TorchDecoder, model_of: ModelMaker) -> None:
    tokens = prompt()
    argmax, logits = decoder.forward([Segment(pages_of(0), 0, tokens, LENGTH, True)])
    assert logits is not None
    reference = reference_logits(model_of(torch_case), tokens)
    assert np.abs(logits - reference).max() < tolerance(torch_case, reference)
    np.testing.assert_array_equal(argmax, logits.argmax(1))


def test_rows_do_not_depend_on_the_batch_beyond_rounding(torch_case: Case, decoder: TorchDecoder) -> None:
    first, second = prompt(3), prompt(4)
    alone = one_by_one(decoder, 0, first)
    decoder.forward([Segment(pages_of(1), 0, second[:9], 0, False), Segment(pages_of(2), 0, first[:30], 0, False)])
    argmax, logits = decoder.forward(
        [Segment(pages_of(1), 9, second[9:20], 2, False), Segment(pages_of(2), 30, first[30:], 10, True)]
    )
    assert logits is not None
    assert argmax.shape == (12,)
    assert logits.shape == (10, spec.VOCAB_SIZE)
    assert np.abs(logits - alone[30:]).max() < tolerance(torch_case, alone)


def test_no_segments_and_no_outputs(decoder: TorchDecoder) -> None:
    assert decoder.forward([])[0].size == 0
    argmax, logits = decoder.forward([Segment(pages_of(0), 0, [1, 2], 0, True)])
    assert argmax.size == 0
    assert logits is None


def test_refused_steps_say_why(decoder: TorchDecoder) -> None:
    good = Segment(pages_of(0), 0, [1, 2, 3], 1, False)
    refused = {
        f"STEP_TOKENS = {STEP_TOKENS}": good._replace(tokens=[1] * (STEP_TOKENS + 1)),
        "has no tokens": good._replace(tokens=[]),
        "MAX_MODEL_LEN": good._replace(start=-1),
        "too few for its positions": good._replace(pages=pages_of(0)[:1], start=14),
        "not pages of the cache": good._replace(pages=np.array([KV_PAGES], np.int32)),
        "the vocabulary": good._replace(tokens=[spec.VOCAB_SIZE]),
    }
    for message, segment in refused.items():
        with pytest.raises(DecoderError, match=message):
            decoder.forward([segment])


def test_memory_that_is_not_there_is_refused_at_once(torch_case: Case, model_of: ModelMaker) -> None:
    with pytest.raises(DecoderError, match="lower KV_PAGES"):
        TorchDecoder(model_of(torch_case), kv_pages=1 << 34, threads=1)


def test_close_is_idempotent_and_final(decoder: TorchDecoder) -> None:
    decoder.close()
    decoder.close()
    with pytest.raises(DecoderError, match="closed"):
        decoder.forward([Segment(pages_of(0), 0, [1], 1, False)])


def test_threads_are_those_asked_for(llama: Path) -> None:
    before = torch.get_num_threads()
    try:
        TorchDecoder(llama, kv_pages=1, threads=2).close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
