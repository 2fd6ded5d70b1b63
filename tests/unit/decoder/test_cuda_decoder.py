"""The CUDA decoder against `transformers`: on a GPU as it is, elsewhere the same steps with the reference kernels.

In the tests of faults kernels raise what CUDA raises.
"""

import gc
import json
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sartor_skills.blocks.cuda_batch import NARROW_ROWS
from sartor_skills.blocks.cuda_decoder import CudaDecoder
from sartor_skills.blocks.cuda_graphs import Graphs, Size, buckets
from sartor_skills.blocks.decoder import Draw, Segment, accept
from sartor_skills.blocks.decoder_errors import DecoderError, StepMemoryError
from sartor_skills.blocks.sampling import draw, uniform

from sartor_skills.blocks import kernels_reference, spec

from .cases import CASES, KV_PAGES, Case, one_by_one, pages_of, reference_logits, specialise
from .conftest import ModelMaker

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTH = 90
LIMITS: dict[str, Any] = {"STEP_TOKENS": 96, "MAX_SEQUENCES": 6, "GRAPH_ROWS": 8, "DECODER": "cuda"}
SHAPES = [CASES[0], CASES[2], CASES[5]]  # Llama; Qwen3 with biases, tied, float32; Llama 3 rotary scaling


@pytest.fixture(params=SHAPES, ids=lambda case: case.name)
def cuda_case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model_of: ModelMaker) -> Case:
    chosen: Case = request.param
    specialise(monkeypatch, model_of(chosen), DTYPE=chosen.dtype, **LIMITS)
    return chosen


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, model_of: ModelMaker) -> Path:
    specialise(monkeypatch, model_of(CASES[0]), DTYPE=CASES[0].dtype, **LIMITS)
    return model_of(CASES[0])


@pytest.fixture
def decoder(cuda_case: Case, model_of: ModelMaker) -> Iterator[CudaDecoder]:
    made = CudaDecoder(model_of(cuda_case), kv_pages=KV_PAGES, device=DEVICE)
    yield made
    made.close()


def prompt(seed: int = 3, length: int = LENGTH) -> list[int]:
    return np.random.default_rng(seed).integers(0, spec.VOCAB_SIZE, length).tolist()


def tolerance(case: Case, reference: np.ndarray) -> float:
    # As the other PyTorch decoder: every linear's result is rounded to bfloat16.
    return (3 if case.dtype == "bfloat16" else 1) * case.tolerance * float(np.abs(reference).max())


@pytest.mark.parametrize("length", [5, 40, NARROW_ROWS + 1, LENGTH], ids="{} rows".format)
def test_logits_are_those_of_transformers(
    cuda_case: Case, decoder: CudaDecoder, model_of: ModelMaker, length: int
) -> None:
    """A bucket, the tiles of a whole prompt, and a chunk for PyTorch's attention."""
    tokens = prompt(length=length)
    argmax, logits = decoder.forward([Segment(pages_of(0), 0, tokens, length, True)])
    assert logits is not None
    reference = reference_logits(model_of(cuda_case), tokens)
    assert np.abs(logits - reference).max() < tolerance(cuda_case, reference)
    np.testing.assert_array_equal(argmax, logits.argmax(1))


@pytest.mark.parametrize("cut", [1, 16, 70], ids="after {}".format)
def test_a_prompt_in_chunks_among_others_is_the_prompt(
    cuda_case: Case, decoder: CudaDecoder, model_of: ModelMaker, cut: int
) -> None:
    tokens, other = prompt(), prompt(4)
    decoder.forward([Segment(pages_of(1), 0, other[:9], 0, False), Segment(pages_of(2), 0, tokens[:cut], 0, False)])
    argmax, logits = decoder.forward(
        [Segment(pages_of(1), 9, other[9:12], 2, False), Segment(pages_of(2), cut, tokens[cut:], LENGTH - cut, True)]
    )
    assert logits is not None
    assert argmax.shape == (2 + LENGTH - cut,)
    assert logits.shape == (LENGTH - cut, spec.VOCAB_SIZE)
    reference = reference_logits(model_of(cuda_case), tokens)[cut:]
    assert np.abs(logits - reference).max() < tolerance(cuda_case, reference)
    np.testing.assert_array_equal(argmax[2:], logits.argmax(1))


def test_drafts_of_many_sequences_in_one_step_give_each_its_own_rows(cuda_case: Case, decoder: CudaDecoder) -> None:
    texts = [prompt(seed, 30) for seed in range(5)]
    alone = [one_by_one(decoder, index, text) for index, text in enumerate(texts)]
    for index, text in enumerate(texts):
        decoder.forward([Segment(pages_of(index), 0, text[:20], 0, False)])
    segments = [Segment(pages_of(i), 20, text[20 : 21 + 2 * i], 1 + 2 * i, True) for i, text in enumerate(texts)]
    argmax, logits = decoder.forward(segments)
    assert logits is not None
    expected = np.concatenate([rows[20 : 21 + 2 * i] for i, rows in enumerate(alone)])
    assert np.abs(logits - expected).max() < tolerance(cuda_case, expected)
    np.testing.assert_array_equal(argmax, logits.argmax(1))


@pytest.mark.parametrize("beside", [0, NARROW_ROWS + 4], ids=["in a graph", "beside a chunk of a prompt"])
def test_the_device_accepts_what_the_host_would(cuda_case: Case, decoder: CudaDecoder, beside: int) -> None:
    """Drafts that are right to some token, segments without outputs and with logits between them: one result a segment."""
    texts = [prompt(seed, 12) for seed in range(5)]
    segments: list[Segment] = []
    for index, text in enumerate(texts):
        decoder.forward([Segment(pages_of(index), 0, text, 0, False)])
        draft: list[int] = []
        for _ in range(3):  # what greedy decoding gives, behind it something else
            (token,), _ = decoder.forward([Segment(pages_of(index), 11, [text[11], *draft], 1, False)])
            draft.append(int(token))
        right = index % 4
        wrong = [(token + 1) % spec.VOCAB_SIZE for token in draft[right:]]
        if index != 2:
            segments.append(Segment(pages_of(index), 11, [text[11], *draft[:right], *wrong], 4, index == 3))
        else:
            segments.append(Segment(pages_of(index), 11, [text[11], *draft], 0, False))
    if not beside:  # eight rows, as many as the graph has
        widths = (2, 3, 1, 2)
        segments = [
            s._replace(tokens=s.tokens[:n], outputs=min(n, s.outputs)) for s, n in zip(segments, widths, strict=False)
        ]
        assert sum(len(segment.tokens) for segment in segments) == spec.GRAPH_ROWS
    if beside:
        segments.insert(1, Segment(pages_of(5), 0, prompt(9, beside), 1, False))
        segments = [segment._replace(tokens=segment.tokens[:2], outputs=min(2, segment.outputs)) if i > 2 else segment
                    for i, segment in enumerate(segments)]  # fmt: skip
    expected = accept(segments, *decoder.forward(segments))
    outcome = decoder.launch(segments).wait()
    assert outcome.accepted == expected.accepted
    assert outcome.chosen == expected.chosen
    assert max(outcome.accepted) >= 1 and min(outcome.accepted) == 0
    assert outcome.logits is not None and expected.logits is not None
    np.testing.assert_array_equal(outcome.logits, expected.logits)


@pytest.mark.parametrize("first", [0, NARROW_ROWS + 4], ids=["behind a graph", "behind a chunk of a prompt"])
@pytest.mark.parametrize("second", [0, NARROW_ROWS + 4], ids=["in a graph", "beside a chunk of a prompt"])
def test_a_row_takes_its_token_from_the_step_before(
    cuda_case: Case, decoder: CudaDecoder, first: int, second: int
) -> None:
    """Begun before the step before was looked at; segments without outputs, and another order, between them."""
    texts = [prompt(seed, 2 + seed % 2) for seed in range(3)]
    plain: list[list[int]] = []
    for text in texts:
        known = list(text)
        for _ in range(3):
            chosen, _ = decoder.forward([Segment(pages_of(3), 0, known, 1, False)])
            known.append(int(chosen[0]))
        plain.append(known[len(text) :])
    begin = [Segment(pages_of(i), 0, text, 1, False) for i, text in enumerate(texts)]
    begin.insert(1, Segment(pages_of(4), 0, prompt(9, first or 1), 0, False))
    follow = [Segment(pages_of(i), len(texts[i]), [0], 1, False, follows=i) for i in (2, 0, 1)]
    follow.insert(2, Segment(pages_of(5), 0, prompt(8, second or 2), 1, False))
    last = [Segment(pages_of(i), len(texts[i]) + 1, [0], 1, False, follows=at) for i, at in ((0, 1), (1, 3), (2, 0))]
    one = decoder.launch(begin)
    two = decoder.launch(follow)
    assert one.wait().chosen == [tokens[0] for tokens in plain]
    three = decoder.launch(last)
    chosen = two.wait().chosen
    assert [chosen[at] for at in (1, 3, 0)] == [tokens[1] for tokens in plain]
    assert three.wait().chosen == [tokens[2] for tokens in plain]


def test_what_a_step_sends_is_left_alone_while_the_next_one_is_laid_out(decoder: CudaDecoder) -> None:
    """On a device it may not have left yet."""
    decoder.launch([Segment(pages_of(0), 0, prompt(1, 5), 1, False)])
    sent = decoder._batch._stages[0]
    words, tables = sent.words.clone(), sent.tables.clone()
    decoder.launch([Segment(pages_of(1), 0, prompt(2, 7), 1, False)])
    assert torch.equal(sent.words, words) and torch.equal(sent.tables, tables)
    assert not torch.equal(decoder._batch._stages[0].words, words)


def test_behind_a_row_without_a_number_the_device_goes_on(model: Path) -> None:
    """The row is nobody's; it must not read beside the embeddings."""

    class Broken(Failing):
        def choose(self, logits: torch.Tensor) -> torch.Tensor:
            return torch.full((len(logits),), -1, dtype=torch.int32)

    decoder = CudaDecoder(model, kv_pages=KV_PAGES, device="cpu", operations=Broken())
    one = decoder.launch([Segment(pages_of(0), 0, [3], 1, False)])
    two = decoder.launch([Segment(pages_of(0), 1, [0], 1, False, follows=0)])
    assert one.wait().chosen == [-1]
    assert two.wait().chosen == [-1]


@pytest.mark.parametrize("beside", [0, NARROW_ROWS + 4], ids=["in a graph", "beside a chunk of a prompt"])
def test_the_device_draws_what_the_host_would(cuda_case: Case, decoder: CudaDecoder, beside: int) -> None:
    """Also the rows behind drafted tokens, each with the number of its own output token."""
    wishes = [Draw(0.9, 0, 1.0, 0.0, 7, 3), Draw(1.3, 20, 0.9, 0.0, 8, 0), None, Draw(0.7, 0, 1.0, 0.05, 9, 100)]
    texts = [prompt(seed, 2) for seed in range(4)]

    def segments(drafts: list[list[int]], *, logits: bool) -> list[Segment]:
        made = [
            Segment(pages_of(i), 0, [*text, *draft], 1 + len(draft), logits, draw=wish)
            for i, (text, draft, wish) in enumerate(zip(texts, drafts, wishes, strict=True))
        ]
        return [*made[:2], Segment(pages_of(4), 0, prompt(9, beside), 0, False), *made[2:]] if beside else made

    def by_the_host(rows: np.ndarray, wish: Draw | None) -> list[int]:
        if wish is None:
            return rows.argmax(1).tolist()
        return [draw(row, wish, uniform(wish.seed, wish.index + i)) for i, row in enumerate(rows)]

    none: list[list[int]] = [[] for _ in texts]
    outcome = decoder.launch(segments(none, logits=True)).wait()
    assert outcome.logits is not None
    expected = [by_the_host(outcome.logits[i : i + 1], wish)[0] for i, wish in enumerate(wishes)]
    assert outcome.chosen == expected
    likeliest = outcome.logits.argmax(1).tolist()
    assert expected[2] == likeliest[2] and expected != likeliest
    if beside:
        # A draft that is right, one that is wrong: what is drawn behind the first is the next number's.
        drafts = [[expected[0]], [(expected[1] + 1) % spec.VOCAB_SIZE], [], []]
        verified = decoder.launch(segments(drafts, logits=True)).wait()
        assert verified.accepted == [1, 0, 0, 0]
        assert verified.logits is not None
        assert verified.chosen[0] == by_the_host(verified.logits[:2], wishes[0])[1]
        assert verified.chosen[1:] == expected[1:]


def test_as_many_sequences_as_there_may_be_decode_in_one_graph(cuda_case: Case, decoder: CudaDecoder) -> None:
    texts = [prompt(seed, 9) for seed in range(spec.MAX_SEQUENCES)]
    alone: list[int] = []
    for index, text in enumerate(texts):
        decoder.forward([Segment(pages_of(index), 0, text[:8], 0, False)])
        alone += decoder.forward([Segment(pages_of(index), 8, text[8:], 1, False)])[0].tolist()
    outcome = decoder.launch([Segment(pages_of(i), 8, text[8:], 1, False) for i, text in enumerate(texts)]).wait()
    assert outcome.chosen == alone
    assert outcome.accepted == [0] * spec.MAX_SEQUENCES


def test_a_step_without_outputs_is_waited_for_too(decoder: CudaDecoder) -> None:
    for length in (2, LENGTH):
        outcome = decoder.launch([Segment(pages_of(0), 0, prompt(length=length), 0, False)]).wait()
        assert (outcome.accepted, outcome.chosen, outcome.logits) == ([], [], None)


def test_a_wrong_draft_leaves_nothing_behind(cuda_case: Case, decoder: CudaDecoder) -> None:
    text = prompt(length=30)
    expected = one_by_one(decoder, 0, text)
    decoder.forward([Segment(pages_of(1), 0, text[:10], 0, False)])
    decoder.forward([Segment(pages_of(1), 10, [text[10], *prompt(9, 12)], 13, False)])
    _, logits = decoder.forward([Segment(pages_of(1), 11, text[11:], 19, True)])
    assert logits is not None
    assert np.abs(logits - expected[11:]).max() < tolerance(cuda_case, expected)


def test_pages_that_moved_are_read_where_they_are(cuda_case: Case, decoder: CudaDecoder) -> None:
    """The device keeps page tables from step to step; another sequence in the same place has other pages."""
    first, second = prompt(3, 20), prompt(4, 20)
    expected = one_by_one(decoder, 3, second)
    table, other = pages_of(0), pages_of(1)
    decoder.forward([Segment(table, 0, first[:19], 0, False)])
    decoder.forward([Segment(other, 0, second[:19], 0, False)])
    decoder.forward([Segment(table, 19, first[19:], 1, False)])
    _, logits = decoder.forward([Segment(other, 19, second[19:], 1, True)])
    assert logits is not None
    assert np.abs(logits[0] - expected[19]).max() < tolerance(cuda_case, expected)


def test_pages_that_stayed_are_there_when_those_behind_them_change(cuda_case: Case, decoder: CudaDecoder) -> None:
    """What is sent for a later sequence goes over the tables of the ones before it."""
    text = prompt(3, 20)
    table = pages_of(3)
    decoder.forward([Segment(table, 0, text[:18], 0, False), Segment(pages_of(1), 0, prompt(4, 4), 0, False)])
    decoder.forward([Segment(table, 18, text[18:19], 0, False), Segment(pages_of(2), 0, prompt(5, 4), 0, False)])
    _, logits = decoder.forward([Segment(table, 19, text[19:], 1, True)])
    assert logits is not None
    found = logits[0].copy()
    expected = one_by_one(decoder, 3, text)
    assert np.abs(found - expected[19]).max() < tolerance(cuda_case, expected)


def test_a_refused_step_writes_nothing_and_is_not_remembered(cuda_case: Case, decoder: CudaDecoder) -> None:
    text = prompt(length=20)
    expected = one_by_one(decoder, 0, text)
    table = pages_of(1)
    with pytest.raises(DecoderError, match="segment 1"):
        decoder.forward([Segment(table, 0, text, 0, False), Segment(pages_of(2), 0, [spec.VOCAB_SIZE], 0, False)])
    decoder.forward([Segment(table, 0, text[:19], 0, False)])
    _, logits = decoder.forward([Segment(table, 19, text[19:], 1, True)])
    assert logits is not None
    assert np.abs(logits[0] - expected[19]).max() < tolerance(cuda_case, expected)


def test_no_segments_and_no_outputs(decoder: CudaDecoder) -> None:
    assert decoder.forward([])[0].size == 0
    for length in (2, LENGTH):
        argmax, logits = decoder.forward([Segment(pages_of(0), 0, prompt(length=length), 0, True)])
        assert argmax.size == 0
        assert logits is None


def test_refused_steps_say_why(decoder: CudaDecoder) -> None:
    good = Segment(pages_of(0), 0, [1, 2, 3], 1, False)
    refused = {
        "STEP_TOKENS = 96": [good._replace(tokens=[1] * 97)],
        "MAX_SEQUENCES = 6": [good] * 7,
        "has no tokens": [good._replace(tokens=[])],
        "MAX_MODEL_LEN": [good._replace(start=-1)],
        "too few for its positions": [good._replace(pages=pages_of(0)[:1], start=14)],
        "not pages of the cache": [good._replace(pages=np.array([KV_PAGES], np.int32))],
        "the vocabulary": [good._replace(tokens=[spec.VOCAB_SIZE])],
        "no output of a step": [good._replace(tokens=[0], follows=6)],
        "more rows than the one that follows": [good._replace(follows=0)],
    }
    for message, segments in refused.items():
        with pytest.raises(DecoderError, match=message):
            decoder.forward(segments)


def test_close_is_idempotent_and_final(decoder: CudaDecoder) -> None:
    decoder.close()
    decoder.close()
    with pytest.raises(DecoderError, match="closed"):
        decoder.forward([Segment(pages_of(0), 0, [1], 1, False)])


@pytest.mark.parametrize(
    ("rows", "sequences", "speculation", "expected"),
    [
        (8, 6, "none", [8]),
        (16, 1, "prediction", [16, 32]),  # 17 rows: a token and its draft
        (32, 256, "none", [32, 64, 128, 192, 256]),
        (32, 64, "prediction", [32, 64, 128, 192, 256]),  # drafts for all of them would be 1088 rows
        (64, 300, "none", [64, 128, 192, 256, 320]),
    ],
)
def test_graphs_reach_as_far_as_decoding_goes(
    monkeypatch: pytest.MonkeyPatch, rows: int, sequences: int, speculation: str, expected: list[int]
) -> None:
    for name, value in {
        "GRAPH_ROWS": rows, "MAX_SEQUENCES": sequences, "SPECULATION": speculation, "DRAFT_WIDTH": 16, "STEP_TOKENS": 2048,
    }.items():  # fmt: skip
        monkeypatch.setattr(spec, name, value)
    assert buckets() == expected


class FakeCuda:
    """`torch.cuda` for recording: a graph that remembers what was run while it was open, by what it wrote."""

    class CUDAGraph:
        replays = 0

        def replay(self) -> None:
            self.replays += 1

    def __init__(self) -> None:
        self.streams = 0

    def graph_pool_handle(self) -> object:
        return object()

    def Stream(self) -> Any:  # noqa: N802 - as torch.cuda calls it
        self.streams += 1
        return SimpleNamespace(wait_stream=lambda _: None)

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda _: None)

    def stream(self, _: Any) -> Any:
        return nullcontext()

    def graph(self, _: Any, pool: object) -> Any:
        return nullcontext(pool)


def test_a_recorded_step_keeps_what_its_graph_reads_and_writes() -> None:
    """A graph holds addresses only: memory that somebody else is given meanwhile would be written into."""
    cuda = FakeCuda()
    graphs = Graphs(torch.device("cuda"), cuda)
    mixed = [torch.zeros(4), torch.zeros(4)]
    alive = [weakref.ref(one) for one in mixed]
    for number, one in enumerate(mixed):
        graphs.add(Size(8 + number, 1, 1, 1), lambda one=one: (one + 1, one + 2, one + 3))
    del mixed, one
    gc.collect()
    assert all(ref() is not None for ref in alive)
    assert graphs.run(Size(8, 1, 1, 1))[0].tolist() == [1] * 4
    assert graphs.count == 2 and cuda.streams == 1
    graphs.clear()
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_a_decoder_of_one_sequence_has_room_for_one(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """Fewer sequences than a graph for few has: what comes back fits into what was laid out for it."""
    monkeypatch.setattr(spec, "MAX_SEQUENCES", 1)
    decoder = CudaDecoder(model, kv_pages=KV_PAGES, device=DEVICE)
    assert {decoder._size(rows, 1).sequences for rows in (1, 8, 64)} == {1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns where it makes a result larger than the place it is given
        first = decoder.launch([Segment(pages_of(0), 0, [3, 7, 5], 1, False)])
        behind = decoder.launch([Segment(pages_of(0), 3, [0], 1, False, follows=0)])
    token, after = first.wait().chosen[0], behind.wait().chosen[0]
    (expected,), _ = decoder.forward([Segment(pages_of(1), 0, [3, 7, 5, token], 1, False)])
    assert after == expected
    decoder.close()


def test_weights_that_are_not_numbers_are_marked_in_their_rows(model: Path) -> None:
    class Poisoned:
        def into(self, place: torch.Tensor, name: str) -> None:
            place.fill_(0.5)
            if name == "model.embed_tokens.weight":
                place[7] = float("nan")

    decoder = CudaDecoder(model, kv_pages=KV_PAGES, device=DEVICE, source=Poisoned())
    argmax, _ = decoder.forward(
        [Segment(pages_of(0), 0, [3, 7, 5], 3, False), Segment(pages_of(1), 0, [3, 5], 2, False)]
    )
    # A row before it in the same sequence may be lost as well (0 times NaN); another sequence's may not.
    assert (argmax < 0).tolist()[1:] == [True, True, False, False]


class Failing:
    """The reference kernels; `errors` are raised by the next calls of one of them."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(kernels_reference, name)

    def swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        if self.errors:
            raise self.errors.pop()
        return kernels_reference.swiglu(gate_up)


@pytest.fixture
def failing(model: Path) -> tuple[CudaDecoder, Failing]:
    operations = Failing()
    return CudaDecoder(model, kv_pages=KV_PAGES, device="cpu", operations=operations), operations


def test_memory_that_is_short_for_a_moment_costs_a_retry(failing: tuple[CudaDecoder, Failing]) -> None:
    decoder, operations = failing
    expected = decoder.forward([Segment(pages_of(0), 0, [1, 2], 1, False)])[0].tolist()
    operations.errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
    assert decoder.forward([Segment(pages_of(1), 0, [1, 2], 1, False)])[0].tolist() == expected


def test_memory_that_stays_short_refuses_the_step_and_nothing_else(failing: tuple[CudaDecoder, Failing]) -> None:
    decoder, operations = failing
    expected = decoder.forward([Segment(pages_of(0), 0, [1, 2], 1, False)])[0].tolist()
    operations.errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore") for _ in range(2)]
    with pytest.raises(StepMemoryError, match=r"no memory for a step of 2 rows.*Tried to allocate 2 GiB$"):
        decoder.forward([Segment(pages_of(1), 0, [1, 2], 1, False)])
    assert decoder.forward([Segment(pages_of(1), 0, [1, 2], 1, False)])[0].tolist() == expected


def test_an_error_of_the_driver_says_that_the_process_must_restart(failing: tuple[CudaDecoder, Failing]) -> None:
    decoder, operations = failing
    operations.errors = [RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")]
    with pytest.raises(DecoderError, match=r"illegal memory access was encountered\. .*restart"):
        decoder.forward([Segment(pages_of(1), 0, [1, 2], 1, False)])


def test_a_mistake_in_the_code_stays_what_it_is(failing: tuple[CudaDecoder, Failing]) -> None:
    decoder, operations = failing
    operations.errors = [RuntimeError("shape mismatch")]
    with pytest.raises(RuntimeError, match="shape mismatch"):
        decoder.forward([Segment(pages_of(1), 0, [1, 2], 1, False)])


def test_memory_that_is_short_while_loading_is_one_clear_message(model: Path) -> None:
    class Full:
        def into(self, place: torch.Tensor, name: str) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    with pytest.raises(DecoderError, match=r"no memory left for the weights.*Lower KV_PAGES or STEP_TOKENS"):
        CudaDecoder(model, kv_pages=KV_PAGES, device="cpu", source=Full())


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a device here")
def test_without_a_device_the_message_says_what_to_do(model: Path) -> None:
    with pytest.raises(DecoderError, match=r"no CUDA device.*nvidia\.com/gpu"):
        CudaDecoder(model, kv_pages=KV_PAGES)


def test_weights_in_eight_bits_are_those_of_a_model_with_restored_ones() -> None:
    """In a process of its own: what a stack is specialised to is decided on import."""
    done = subprocess.run([sys.executable, "-c", FP8], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] < 0.75 * found["stored_bytes"]
    assert 2 * found["off_restored"] < found["off_stored"]
    assert found["off_restored"] < 0.03  # of the largest logit: what bfloat16 does
    assert "FP8" in found["arithmetic"]


FP8 = """
import json, tempfile, torch, numpy as np
from pathlib import Path
from transformers import AutoModelForCausalLM
from sartor_agents.checkpoints import make
from sartor_skills.blocks import spec
from sartor_skills.blocks.model_config import read_config
folder = make("random", "qwen3", "tiny", 0, Path(tempfile.mkdtemp()) / "m").path
sizes = {"MAX_SEQUENCES": 2, "STEP_TOKENS": 96, "GRAPH_ROWS": 8}
for name, value in {**read_config(folder).as_spec(), "DECODER": "cuda", "WEIGHTS": "fp8", **sizes}.items():
    setattr(spec, name, value)
from sartor_skills.blocks.cuda_decoder import CudaDecoder
from sartor_skills.blocks.cuda_fp8 import quantise, restore
from sartor_skills.blocks.cuda_weights import weight_bytes
from sartor_skills.blocks.decoder import Segment
decoder = CudaDecoder(folder, kv_pages=16, device="cpu")
tokens = np.random.default_rng(3).integers(0, spec.VOCAB_SIZE, 90).tolist()
pages = np.arange(16, dtype=np.int32)
_, wide = decoder.forward([Segment(pages, 0, tokens[:80], 80, True)])
_, narrow = decoder.forward([Segment(pages, 80, tokens[80:], 10, True)])
logits = np.concatenate([wide, narrow])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
def off():
    with torch.inference_mode():
        reference = model(torch.tensor([tokens])).logits[0].numpy()
    return float(np.abs(logits - reference).max() / np.abs(reference).max())
stored = off()
for name, module in model.named_modules():
    if name.endswith("_proj"):
        module.weight.data = restore(quantise(module.weight.data.to(torch.bfloat16)), torch.float32)
restored, small = off(), weight_bytes()
spec.WEIGHTS = "stored"
print(json.dumps({"off_stored": stored, "off_restored": restored, "bytes": small, "stored_bytes": weight_bytes(),
                  "arithmetic": (setattr(spec, "WEIGHTS", "fp8"), decoder.arithmetic)[1]}))
"""
