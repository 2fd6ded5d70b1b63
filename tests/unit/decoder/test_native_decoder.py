"""The native decoder against `transformers`, and its promise: a row is the same bits whatever else is in the step."""

import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sartor_skills.blocks.decoder import Segment
from sartor_skills.blocks.decoder_errors import DecoderError
from sartor_skills.blocks.native_decoder import NativeDecoder

from sartor_skills.blocks import native_decoder, spec

from .cases import (
    CASES,
    KV_PAGES,
    MAX_MODEL_LEN,
    STEP_TOKENS,
    X86,
    Case,
    one_by_one,
    pages_of,
    reference_logits,
    specialise,
)
from .conftest import DecoderMaker, ModelMaker

SEQUENCES = 3
LENGTH = 45


def prompts() -> list[list[int]]:
    numbers = np.random.default_rng(11)
    return [numbers.integers(0, spec.VOCAB_SIZE, LENGTH).tolist() for _ in range(SEQUENCES)]


def test_logits_are_those_of_transformers(case: Case, native: DecoderMaker, model_of: ModelMaker) -> None:
    tokens = prompts()[0]
    argmax, logits = native(case).forward([Segment(pages_of(0), 0, tokens, LENGTH, True)])
    assert logits is not None
    reference = reference_logits(model_of(case), tokens)
    assert reference.std() > 0.5  # the comparison would say nothing of logits that are all alike
    error = np.abs(logits - reference).max()
    assert error < case.tolerance * np.abs(reference).max()
    # Greedy choice, up to ties: where it differs, the reference's own gap to its best is within the error.
    rows = np.arange(LENGTH)
    gap = reference.max(1) - reference[rows, argmax]
    assert (gap <= 2 * error).all()
    np.testing.assert_array_equal(argmax, logits.argmax(1))


@pytest.mark.parametrize(
    ("plain", "emulated"),
    [
        ((), ("-DSARTOR_EMULATE_DPBF16", "-DSARTOR_EMULATE_TILES")),
        (("-DSARTOR_WITHOUT_TILES",), ("-DSARTOR_EMULATE_DPBF16", "-DSARTOR_WITHOUT_TILES")),
    ],
    ids=["tiles", "dot"],
)
def test_the_processor_gives_the_bits_of_its_emulation(
    monkeypatch: pytest.MonkeyPatch,
    native: DecoderMaker,
    model_of: ModelMaker,
    plain: tuple[str, ...],
    emulated: tuple[str, ...],
) -> None:
    """What was tested by emulation elsewhere is then what runs here, and the other way round."""
    shape = next(case for case in CASES if case.name == "qwen3-emulated-dot")
    specialise(monkeypatch, model_of(shape))
    ours, theirs = (native(replace(shape, flags=("-march=native", *flags))) for flags in (plain, emulated))
    if f"{ours.arithmetic.split(',')[0]} (emulated)" != theirs.arithmetic.split(",")[0]:
        pytest.skip(f"this processor computes otherwise: {ours.arithmetic}")
    for count in (1, 2, 3, 17, 33, LENGTH):
        step = [Segment(pages_of(0), 0, prompts()[0][:count], count, True)]
        np.testing.assert_array_equal(ours.forward(step)[1], theirs.forward(step)[1])


@X86
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_avx2_gives_the_bits_of_the_vectors_that_it_splits(
    monkeypatch: pytest.MonkeyPatch, native: DecoderMaker, model_of: ModelMaker, dtype: str
) -> None:
    """Sixteen lanes as two of eight: every sum and every rounding stays where it was."""
    shape = next(case for case in CASES if case.name == ("qwen3-avx2" if dtype == "bfloat16" else "qwen3-float32"))
    specialise(monkeypatch, model_of(shape), DTYPE=dtype)
    flags = ("-mavx2", "-mfma")
    split, whole = (native(replace(shape, flags=(*flags, *more))) for more in ((), ("-DSARTOR_WITHOUT_EIGHTS",)))
    for count in (1, 2, 3, 4, 17, 33, LENGTH):
        step = [Segment(pages_of(0), 0, prompts()[0][:count], count, True)]
        np.testing.assert_array_equal(split.forward(step)[1], whole.forward(step)[1])


@dataclass
class Run:
    """Two decoders of one case and the logits of every row when it is computed alone."""

    decoders: list[NativeDecoder]
    tokens: list[list[int]]
    alone: list[NDArray[np.float32]]


@pytest.fixture
def run(case: Case, native: DecoderMaker) -> Run:
    decoders = [native(case, threads=1), native(case, threads=2)]
    tokens = prompts()
    alone = [one_by_one(decoders[0], index, part) for index, part in enumerate(tokens)]
    return Run(decoders, tokens, alone)


class Piece(NamedTuple):
    """What one sequence adds to a step, cut down to what is left of it and of the step."""

    sequence: int
    rows: int
    outputs: int
    logits: bool


PIECES = st.builds(
    Piece,
    st.integers(0, SEQUENCES - 1),
    st.integers(1, LENGTH),
    st.integers(0, LENGTH),
    st.booleans(),
)
STEPS = st.lists(st.lists(PIECES, max_size=SEQUENCES, unique_by=lambda piece: piece.sequence), max_size=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, threads=st.integers(1, 2))
def test_a_row_is_the_same_bits_in_every_mix(run: Run, steps: list[list[Piece]], threads: int) -> None:
    at = [0] * SEQUENCES
    for step in [*steps, [Piece(sequence, 20, 20, True) for sequence in range(SEQUENCES)]]:
        segments: list[Segment] = []
        rows: list[tuple[int, int, bool]] = []
        room = STEP_TOKENS
        for sequence, wanted, outputs, logits in step:
            start, count = at[sequence], min(wanted, LENGTH - at[sequence], room)
            if count == 0:
                continue
            tokens = run.tokens[sequence][start : start + count]
            outputs = min(outputs, count)
            segments.append(Segment(pages_of(sequence), start, tokens, outputs, logits))
            rows += [(sequence, start + i, logits) for i in range(count - outputs, count)]
            at[sequence] += count
            room -= count
        argmax, found = run.decoders[threads - 1].forward(segments)
        assert argmax.tolist() == [int(run.alone[s][row].argmax()) for s, row, _ in rows]
        expected = [run.alone[s][row] for s, row, logits in rows if logits]
        if expected:
            assert found is not None
            np.testing.assert_array_equal(found, np.stack(expected))
        else:
            assert found is None


def test_a_rejected_draft_leaves_no_trace(run: Run) -> None:
    """Speculation writes keys of tokens that are then replaced: the rows that follow must not see them."""
    decoder, tokens = run.decoders[0], run.tokens[0]
    decoder.forward([Segment(pages_of(5), 0, tokens[:20], 0, False)])
    wrong = [(token + 1) % spec.VOCAB_SIZE for token in tokens[21:30]]
    decoder.forward([Segment(pages_of(5), 20, [tokens[20], *wrong], 10, False)])
    _, logits = decoder.forward([Segment(pages_of(5), 21, tokens[21:24], 3, True)])
    assert logits is not None
    np.testing.assert_array_equal(logits, run.alone[0][21:24])


def test_pages_of_another_sequence_leave_no_trace(run: Run) -> None:
    decoder = run.decoders[1]
    decoder.forward([Segment(pages_of(6), 0, run.tokens[1], 0, False)])
    _, logits = decoder.forward([Segment(pages_of(6), 0, run.tokens[2], 1, True)])
    assert logits is not None
    np.testing.assert_array_equal(logits[0], run.alone[2][-1])


def test_tiles_that_are_refused_where_it_runs_are_a_sentence(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def sartor_memory(self, *_: object) -> int:
            return 1

        def sartor_create(self, *_: object) -> int:
            return 10

        def sartor_destroy(self, *_: object) -> None:
            return None

    monkeypatch.setattr(native_decoder, "_open", lambda _: Refusing())  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(DecoderError, match=r"compiled for matrix tiles .* delete its build folder and build again"):
        NativeDecoder(llama, kv_pages=1, threads=1, library=Path("decoder.so"))


@pytest.mark.usefixtures("llama")
def test_refused_steps_say_why_and_write_nothing(native: DecoderMaker) -> None:
    decoder = native()
    pages = pages_of(0)
    good = Segment(pages, 0, [1, 2, 3], 1, False)
    expected = decoder.forward([good])[0].copy()
    refused = {
        "STEP_TOKENS = 64 rows": [Segment(pages, 0, [1] * 40, 1, False), Segment(pages_of(1), 0, [1] * 25, 1, False)],
        "has no tokens": [good._replace(tokens=[])],
        "more outputs": [good._replace(outputs=4)],
        "segment 1: it has no tokens": [good, good._replace(outputs=-1)],
        f"MAX_MODEL_LEN = {MAX_MODEL_LEN}": [good._replace(start=MAX_MODEL_LEN - 2)],
        "do not lie within 0": [good._replace(start=-1)],
        "too few for its positions": [good._replace(pages=pages[:1], start=14)],
        "not pages of the cache": [good._replace(pages=np.array([KV_PAGES], np.int32))],
        "segment 0: its pages": [good._replace(pages=np.array([-1], np.int32))],
        "vocabulary of 509": [good._replace(tokens=[509])],
        "segment 0: a token": [good._replace(tokens=[-1])],
        "segment 0: a token is not": [good._replace(tokens=[1 << 40])],
        "65 segments": [good] * 65,
    }
    for message, segments in refused.items():
        with pytest.raises(DecoderError, match=message):
            decoder.forward(segments)
    np.testing.assert_array_equal(decoder.forward([good])[0], expected)
    assert decoder.forward([])[0].size == 0


@pytest.mark.usefixtures("llama")
def test_more_pages_in_a_step_than_the_arrays_were_made_for(native: DecoderMaker) -> None:
    decoder = native()
    segments = [Segment(pages_of(i % 8), MAX_MODEL_LEN - 1, [5], 1, False) for i in range(40)]
    argmax, _ = decoder.forward(segments)
    assert len(argmax) == 40
    assert (argmax[:8] == argmax[8:16]).all()


@pytest.mark.usefixtures("llama")
def test_memory_that_is_not_there_is_refused_at_once(native: DecoderMaker) -> None:
    with pytest.raises(DecoderError, match="lower KV_PAGES"):
        native(kv_pages=1 << 30)
    with pytest.raises(DecoderError, match="must be positive"):
        native(kv_pages=0)


@pytest.mark.usefixtures("llama")
def test_close_is_idempotent_and_final(native: DecoderMaker) -> None:
    decoder = native(threads=2)
    before = threading.active_count()
    decoder.close()
    decoder.close()
    assert threading.active_count() == before
    with pytest.raises(DecoderError, match="closed"):
        decoder.forward([Segment(pages_of(0), 0, [1], 1, False)])


@pytest.mark.usefixtures("llama")
def test_other_threads_run_python_while_a_step_computes(native: DecoderMaker) -> None:
    """With a switch interval longer than the test, Python changes threads only where a call gives the GIL up."""
    decoder = native()
    stop, turns = threading.Event(), 0

    def count() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            os.sched_yield()  # gives the GIL up, and takes it back as soon as the main thread does the same

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    counter = threading.Thread(target=count)
    try:
        counter.start()
        before, until = turns, time.monotonic() + 30  # fifty of these steps can be over before a busy machine wakes it
        while turns == before and time.monotonic() < until:
            decoder.forward([Segment(pages_of(0), 0, [1] * 64, 1, False)])
        during = turns - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        counter.join()
    assert during > 0
