"""Own count, sealed seeds, and samples on disk."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.measurement import seeds
from sartor_agents.measurement.samples import ErrorClass, Sample
from sartor_agents.measurement.scoring import request_rate, summarise, throughput
from sartor_agents.measurement.tokens import TokenCounter, TokenizerMissingError
from sartor_api.search.records import SeedCommitment

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def sample(**changes: object) -> Sample:
    values: dict[str, object] = {
        "request_id": "r", "condition": "c", "arm": "a", "purpose": "scored", "scheduled": 0.0, "sent": 0.5,
        "first_byte": 1.0, "end": 3.0, "status": 200, "text": "x", "arrivals": ((1.0, 1), (2.0, 4), (3.0, 5)),
        "tokens": 10,
    }  # fmt: skip
    return Sample(**{**values, **changes})  # pyright: ignore[reportArgumentType]


@SHARED
@given(start=st.integers(0, 200), cuts=st.lists(st.integers(1, 500), max_size=20))
def test_arrivals_add_up_to_the_whole_however_the_text_was_cut(chain_model: Path, start: int, cuts: list[int]) -> None:
    counter = TokenCounter(chain_model)
    facts = ChainFacts.load(chain_model)
    ids = facts.walk(facts.first_word + start, 40)
    text = counter.decode(ids)
    at = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    parts = [(float(i), text[a:b]) for i, (a, b) in enumerate(itertools.pairwise(at))]
    arrivals = counter.arrivals(parts)
    assert sum(n for _, n in arrivals) == 40 == counter.count(text)
    # A token counts only once all of it is there.
    for index, (_, part_end) in enumerate(zip(parts, at[1:], strict=True)):
        assert sum(n for _, n in arrivals[: index + 1]) <= counter.count(text[:part_end])


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissingError, match=r"tokenizer\.json is missing"):
        TokenCounter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerMissingError, match="cannot be read"):
        TokenCounter(tmp_path)


def test_seeds_commit_and_derive() -> None:
    seed = seeds.new_seed()
    assert SeedCommitment(digest=seeds.commitment(seed), value=seed)
    first = seeds.derive(seed, "a", 1).random(8)
    assert np.array_equal(first, seeds.derive(seed, "a", 1).random(8))
    for other in (("a", 2), ("a1",), ("a", "1"), ("b", 1)):
        assert not np.array_equal(first, seeds.derive(seed, *other).random(8))
    assert not np.array_equal(first, seeds.derive(seeds.new_seed(), "a", 1).random(8))


def test_a_failed_sample_is_infinitely_late_and_worth_nothing() -> None:
    good, bad = sample(), sample(error=ErrorClass.STALL)
    assert (good.latency, good.ttft, good.rate) == (3.0, 1.0, pytest.approx(10 / 3))
    assert (bad.latency, bad.ttft, bad.rate, bad.counted) == (math.inf, math.inf, 0.0, 0)
    assert good.inter_token() == [0.25] * 4 + [0.2] * 5
    assert request_rate([good, bad, bad]) == 0.0
    assert throughput([good, bad], 0.5, 3.5) == pytest.approx(10 / 3)


def streamed(sent: float, first: float, end: float) -> Sample:
    """Twenty tokens, evenly from `first` to `end`."""
    step = (end - first) / 19
    arrivals = tuple((first + k * step, 1) for k in range(20))
    return sample(scheduled=sent, sent=sent, end=end, arrivals=arrivals, tokens=20)


def test_what_was_kept_back_in_the_ramp_does_not_count_in_the_window() -> None:
    """Two requests stream within the window; a third, sent long before, was held and comes whole as the window opens."""
    honest = [streamed(10.1, 10.3, 12.0), streamed(12.0, 12.2, 14.0)]
    alone = throughput(honest, 10.0, 14.0)
    held = streamed(8.0, 10.0, 10.01)
    assert throughput([*honest, held], 10.0, 14.0) == pytest.approx(alone, rel=0.01)
    # Nor if it lets one token go at the usual time and keeps the others.
    leaked = sample(scheduled=8.0, sent=8.0, end=10.01, arrivals=((8.2, 1), (10.01, 19)), tokens=20)
    assert throughput([*honest, leaked], 10.0, 14.0) == pytest.approx(alone, rel=0.02)


def test_a_request_that_streams_across_the_beginning_counts_for_what_arrives() -> None:
    honest = [streamed(10.1, 10.3, 12.0), streamed(12.0, 12.2, 14.0)]
    for sent in (8.3, 9.0, 9.7, 9.9):
        across = streamed(sent, sent + 0.2, sent + 1.9)
        arrived = sum(n for time, n in across.arrivals if time >= 10.0)
        counted = 4 * (throughput([*honest, across], 10.0, 14.0) - throughput(honest, 10.0, 14.0))
        assert arrived - 1 <= counted <= arrived
    # Long prompts are read before anything is written: that is no keeping back.
    reads = [streamed(10.1, 12.0, 12.5), streamed(9.0, 10.9, 11.4)]
    assert throughput(reads, 10.0, 14.0) == pytest.approx(40 / 4)


def test_latency_counts_from_the_scheduled_time() -> None:
    late = sample(scheduled=-10.0)
    assert late.latency == 13.0 and late.ttft == 11.0


def test_summaries_hold_finite_numbers_and_count_failures() -> None:
    summary = summarise(3.3, [sample(), sample(error=ErrorClass.RESET)])
    assert (summary.requests, summary.failed, summary.output_tokens) == (2, 1, 10)
    assert summary.end_to_end_p50 == 3.0 and summary.end_to_end_p99 is None
    assert len(summary.quantiles["ttft"]) == 41
