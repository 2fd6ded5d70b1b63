"""Whose count holds: forced lengths and the baseline's text settle it, for honest servers and against dishonest ones."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sartor_agents.measurement.client import Sent
from sartor_agents.measurement.http1 import Exchange
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample
from sartor_agents.measurement.tokens import TokenCounter, capped, dispute

N = 32


@pytest.fixture
def counter(tmp_path: Path) -> TokenCounter:
    """A byte-pair vocabulary that is not one to one: "a" "b" is written, "ab" is read."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "c": 3, "abab": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("ab", "ab")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("c", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TokenCounter(tmp_path, tolerance=0.25)


def judged(counter: TokenCounter, text: str, usage: int, *, forced: bool = True) -> Sample:
    body: dict[str, Any] = {"max_tokens": N, **({"ignore_eos": True} if forced else {})}
    request = GenerationRequest("r", "c", "/v1/completions", body, (1,), N)
    events = [
        f'{{"choices":[{{"text":"{text}","finish_reason":"length"}}]}}',
        f'{{"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":{usage}}}}}',
        "[DONE]",
    ]
    content = "".join(f"data: {event}\n\n" for event in events).encode()
    exchange = Exchange(0.0, 0.1, 1.0, 200, "text/event-stream", [(1.0, content)])
    return Sent(request, "scored", 0.0, exchange, streamed=True).sample("candidate", counter)


def test_an_honest_server_whose_text_reads_back_shorter(counter: TokenCounter) -> None:
    """It generated "a", "b" 16 times; the tokenizer reads a quarter of that."""
    sample = judged(counter, "ab" * (N // 2), N)
    assert sample.ok, sample.detail
    assert sample.tokens == 8  # and it is paid for what can be read


def test_an_honest_server_whose_text_reads_back_longer_is_paid_for_what_was_asked(counter: TokenCounter) -> None:
    sample = judged(counter, "c" * (N + 9), N)
    assert sample.ok and sample.tokens == N == sum(n for _, n in sample.arrivals)


@pytest.mark.parametrize(
    ("usage", "error"), [(N + 1, ErrorClass.COUNT), (N - 1, ErrorClass.SHORT), (10 * N, ErrorClass.COUNT)]
)
def test_a_forced_length_is_what_usage_has_to_say(counter: TokenCounter, usage: int, error: ErrorClass) -> None:
    sample = judged(counter, "c" * N, usage)
    assert sample.error is error and sample.counted == 0


def test_without_a_forced_length_text_and_usage_agree_within_the_tolerance(counter: TokenCounter) -> None:
    assert judged(counter, "c" * 30, 32, forced=False).ok
    assert judged(counter, "c" * 20, 32, forced=False).error is ErrorClass.COUNT


def test_tokens_past_the_fixed_length_count_for_nothing_from_the_end() -> None:
    assert capped([(1.0, 3), (2.0, 4), (3.0, 5)], 5) == ((1.0, 3), (2.0, 2), (3.0, 0))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([(32, 32, 32)] * 20, None),
        ([(8, 8, 32)] * 20, None),  # such text reads back short on both sides
        ([(31, 32, 32)] * 20, "hold 620 tokens"),  # 3 % less, always
        ([(32, 31, 32)] * 20, None),  # more than the baseline is no debt: it is capped
        ([(31, 32, 32)] * 7, None),  # too few to tell
        ([(32, 32, 32)] * 98 + [(0, 32, 32)] * 2, None),  # two of a hundred parted at a tie and ended
        ([(33, 32, 32)] * 96 + [(8, 32, 32)] * 4, "4 of 100"),
        ([], None),
    ],
)
def test_text_that_is_missing_shows_against_the_baseline(counts: list[tuple[int, int, int]], words: str | None) -> None:
    owed = dispute(counts, tolerance=0.25)
    assert owed is None if words is None else words in (owed or "")
