"""Two answers become two records: tokens by the baseline's measure, gaps per token, agreement where it means something."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.probe.pairing import ArmAnswer, agreement, records, token_count, token_gaps
from sartor_api.probe import gap_cell

TEXT = {(0, "text"): "abcd"}


def answered(*sizes: int, gap: float = 0.01, **changes: Any) -> ArmAnswer:
    """A whole answer of events with so many bytes of text, `gap` seconds apart."""
    arrivals = [((1 + i) * gap, size) for i, size in enumerate(sizes)]
    fields: dict[str, Any] = {
        "outcome": "ok", "reason": "", "duration": 1.0, "arrivals": arrivals, "texts": TEXT, "tokens": len(sizes),
        "choices": 1, "bytes": 500,
    }  # fmt: skip
    return ArmAnswer(**{**fields, **changes})


def expanded(cells: tuple[tuple[int, int], ...]) -> dict[int, int]:
    return dict(cells)


def test_one_token_in_each_event() -> None:
    assert expanded(token_gaps(answered(4, 4, 4, 4), 4)) == {gap_cell(0.01): 3}


def test_a_gap_is_spread_over_the_tokens_that_came_after_it() -> None:
    """Four tokens at once after 10 ms are four gaps of 2.5 ms: an engine that speculates is not slower for its bundles."""
    assert expanded(token_gaps(answered(4, 16, 16), 9)) == {gap_cell(0.0025): 8}


def test_tokens_go_where_the_bytes_are() -> None:
    cells = expanded(token_gaps(answered(4, 4, 36), 11))  # eight tokens more than events, seven of them in the last
    assert cells == {gap_cell(0.005): 2, gap_cell(0.00125): 8}


def test_the_token_that_ends_an_answer_shows_no_text() -> None:
    assert expanded(token_gaps(answered(4, 4, stopped=True), 3)) == {gap_cell(0.01): 1}


@pytest.mark.parametrize("tokens", [0, 1, 2, 3])
def test_fewer_tokens_than_events_are_one_in_each(tokens: int) -> None:
    assert expanded(token_gaps(answered(4, 4, 4), tokens)) == {gap_cell(0.01): 2}


def test_a_single_token_has_no_gap() -> None:
    assert token_gaps(answered(4), 1) == ()
    assert token_gaps(answered(), 0) == ()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(0, 200))
def test_no_token_is_lost(sizes: list[int], spare: int) -> None:
    """All tokens but those of the first event have a gap, and the gaps add up to the time between first and last event."""
    tokens = len(sizes) + spare
    cells = token_gaps(answered(*sizes), tokens)
    first = 1 + spare * sizes[0] // sum(sizes)
    assert sum(count for _, count in cells) == tokens - first
    upper = sum(count * 1.02**cell for cell, count in cells)
    assert 0.01 * (len(sizes) - 1) <= upper * (1 + 1e-6) <= 0.01 * (len(sizes) - 1) * 1.021


def test_tokens_are_the_baselines_count_where_both_say_the_same() -> None:
    baseline, candidate = answered(2, 2, 2, tokens=3), answered(6, tokens=999)
    assert token_count(candidate, baseline) == 3, "what the candidate says of itself counts for nothing"
    assert token_count(baseline, baseline) == 3


def test_tokens_of_another_text_are_counted_at_the_baselines_rate() -> None:
    assert token_count(answered(9, tokens=100), answered(2, 2, 2, tokens=3)) == 4


@pytest.mark.parametrize(
    ("candidate", "baseline"),
    [
        (answered(4), answered(4, tokens=None)),
        (answered(4), answered(4, outcome="failed")),
        (answered(4, outcome="cut"), answered(4)),
        (answered(4), answered(tokens=1)),
    ],
)
def test_without_a_measure_there_is_no_count(candidate: ArmAnswer, baseline: ArmAnswer) -> None:
    assert token_count(candidate, baseline) is None
    found = records(0, 0.0, ("baseline", "candidate"), {"baseline": baseline, "candidate": candidate})[1]
    assert (found.output_tokens, found.gaps) == (None, None)


def test_two_empty_answers_have_the_same_count() -> None:
    assert token_count(answered(), answered(tokens=1)) == 1


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (answered(4), True),
        (answered(4, texts={(0, "text"): "abcx"}), False),
        (answered(4, texts={(1, "text"): "abcd"}), False),
        (answered(4, texts={}), False),
        (answered(4, outcome="cut", reason="reset"), None),
        (answered(4, outcome="failed", reason="503"), None),
        (answered(4, handed_over=True), None),
    ],
)
def test_agreement(candidate: ArmAnswer, expected: bool | None) -> None:
    assert agreement(answered(4), candidate) is expected


@pytest.mark.parametrize("baseline", [answered(4, outcome="cut"), answered(4, outcome="failed")])
def test_a_baseline_that_failed_is_no_measure(baseline: ArmAnswer) -> None:
    assert agreement(baseline, answered(4)) is None


@pytest.mark.parametrize("order", [("baseline", "candidate"), ("candidate", "baseline")])
def test_both_records_of_a_pair(order: Any) -> None:
    both = {
        "baseline": answered(4, 4, bytes=10),
        "candidate": answered(8, outcome="cut", reason="reset", duration=0.5, handed_over=True, gap=0.25),
    }
    made = records(7, 1234.5, order, both)  # pyright: ignore[reportArgumentType]
    assert tuple(record.arm for record in made) == order
    assert [record.position for record in made] == [1, 2]
    assert {(record.pair, record.arrival) for record in made} == {(7, 1234.5)}
    baseline, candidate = sorted(made, key=lambda record: record.arm)
    assert (baseline.outcome, baseline.first_token, baseline.bytes, baseline.agreed) == ("ok", 0.01, 10, None)
    assert (baseline.output_tokens, baseline.gaps) == (2, ((gap_cell(0.01), 1),))
    assert (candidate.outcome, candidate.reason, candidate.duration) == ("cut", "reset", 0.5)
    assert (candidate.first_token, candidate.handed_over, candidate.gaps) == (0.25, True, None)


def test_agreement_stands_on_the_candidates_record_alone() -> None:
    made = records(0, 0.0, ("candidate", "baseline"), {"baseline": answered(4), "candidate": answered(4)})
    assert {record.arm: record.agreed for record in made} == {"candidate": True, "baseline": None}


def test_gaps_of_several_choices_at_once_are_not_known() -> None:
    both = {"baseline": answered(4, choices=2), "candidate": answered(4, choices=2)}
    made = records(0, 0.0, ("baseline", "candidate"), both)  # pyright: ignore[reportArgumentType]
    assert [(record.gaps, record.output_tokens, record.agreed) for record in made] == [(None, 1, None), (None, 1, True)]
