"""Answers that are kept back are found; fast ones, batched ones and those on long prompts are not accused."""

from typing import Any

import numpy as np
import pytest
from made_windows import sample

from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.streaming import ENOUGH, Streaming, streaming, writing

TOKENS = 128


def answer(arm: str, first: float, gap: float, *, per_chunk: int = 1, number: int = 0, **body: Any) -> Sample:
    """`TOKENS` tokens in chunks `gap` seconds apart, the first after `first` seconds."""
    chunks = TOKENS // per_chunk
    arrivals = tuple((first + gap * index, per_chunk) for index in range(chunks))
    return sample(
        request_id=f"r{number}", arm=arm, scheduled=0.0, sent=0.0, end=arrivals[-1][0] + 0.0005, arrivals=arrivals,
        tokens=TOKENS,
    )  # fmt: skip


def requests(**body: Any) -> dict[str, GenerationRequest]:
    return {f"r{n}": GenerationRequest(f"r{n}", "c", "/v1/completions", body, (1,), TOKENS) for n in range(8)}


def accused(first: float, gap: float, baseline: tuple[float, float], **shape: Any) -> bool:
    body, lag = shape.pop("body", {}), shape.pop("lag", 0.001)
    mine = [answer("candidate", first, gap, number=n, **shape) for n in range(8)]
    theirs = [answer("baseline", *baseline, number=n) for n in range(8)]
    return streaming(mine, theirs, requests(**body), lag).accusation is not None


VLLM = (0.05, 0.005)  # first token after 50 ms, then 200 tokens/s


@pytest.mark.parametrize(
    ("first", "gap", "baseline"),
    [
        (0.7, 0.0, VLLM),  # in one write
        (0.7, 0.00002, VLLM),  # in a loop of writes
        (2.0, 0.0001, VLLM),
    ],
)
def test_answers_that_were_kept_back(first: float, gap: float, baseline: tuple[float, float]) -> None:
    assert accused(first, gap, baseline)


@pytest.mark.parametrize(
    ("first", "gap", "baseline", "shape"),
    [
        (0.01, 0.0004, VLLM, {}),  # 2,500 tokens/s, honestly
        (0.01, 0.0003, VLLM, {}),
        (0.05, 0.006, VLLM, {"per_chunk": 16}),  # speculation: 16 tokens a step
        (20.0, 0.0002, (20.0, 0.0005), {}),  # a very long prompt: the baseline is no other
        (6.0, 0.002, VLLM, {}),  # waited its turn for long, then wrote token by token
        (0.7, 0.0, VLLM, {"body": {"prediction": {"type": "content", "content": "x"}}}),  # confirmed in one step
        (0.09, 0.00002, VLLM, {}),  # a process that waited 4 ms for its processor looks like this
        (0.7, 0.0, (0.7, 0.0), {}),  # neither streams: nothing to compare with
    ],
)
def test_honest_answers(first: float, gap: float, baseline: tuple[float, float], shape: dict[str, Any]) -> None:
    assert not accused(first, gap, baseline, **shape)


def test_what_a_late_generator_read_at_once_was_not_kept_back() -> None:
    kept_back = (0.3, 0.00002, VLLM)
    assert accused(*kept_back, lag=0.010) and not accused(*kept_back, lag=0.020)  # a twentieth of 300 ms is 15


def test_short_answers_say_nothing() -> None:
    mine = [sample(request_id="r0", tokens=16, arrivals=((3.0, 16),))]
    theirs = [sample(request_id="r0", tokens=16, arrivals=tuple((0.5 + i / 8, 1) for i in range(16)))]
    assert streaming(mine, theirs, requests(), 0.001).looked == 0


def test_a_few_lumps_are_forgiven() -> None:
    mine = [answer("candidate", 0.7, 0.0 if n < 4 else 0.005, number=n) for n in range(8)]
    theirs = [answer("baseline", *VLLM, number=n) for n in range(8)]
    assert streaming(mine, theirs, requests(), 0.001) == Streaming(looked=8, lumped=4)
    assert Streaming(8, 4).accusation is None and Streaming(8, 5).accusation is not None


def test_one_answer_accuses_nobody_but_pairs_add_up() -> None:
    pair = streaming(
        [answer("candidate", 0.7, 0.0, number=1)], [answer("baseline", *VLLM, number=1)], requests(), 0.001
    )
    assert pair == Streaming(looked=1, lumped=1) and pair.accusation is None
    assert sum([pair] * (ENOUGH - 1), Streaming()).accusation is None
    assert sum([pair] * ENOUGH, Streaming()).accusation is not None


def test_writing_counts_bursts_and_their_share() -> None:
    one = writing(sample(sent=0.0, scheduled=0.0, end=2.0, arrivals=((1.0, 1), (1.0, 1), (1.4, 1), (1.5, 2))))
    assert one.bursts == 3 and one.share == pytest.approx(0.25)
    assert np.isclose(writing(sample(arrivals=())).share, 0.0)
