"""Samples: who is to blame for what, and counters that cannot be trusted say so."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_operator.rollout.verdict import (
    ArmName,
    CounterResetError,
    GapSketch,
    Histogram,
    NotANumberError,
    Outcome,
    Sample,
    SampleError,
    Scrape,
    Timing,
    classify,
)
from sartor_operator.rollout.verdict.samples import increase

INF = math.inf


@pytest.mark.parametrize(
    ("status", "flags", "began", "outcome", "blamed"),
    [
        (200, "-", True, Outcome.OK, False),
        (200, "DC", True, Outcome.CUT, False),
        (0, "DC", False, Outcome.CUT, False),
        (200, "UC", True, Outcome.CUT, True),
        (200, "UC,DC", True, Outcome.CUT, True),
        (503, "UC", False, Outcome.FAILED, True),
        (503, "UH", False, Outcome.FAILED, True),
        (504, "UT", False, Outcome.FAILED, True),
        (500, "-", True, Outcome.FAILED, True),
        (429, "-", True, Outcome.FAILED, True),
        (400, "-", True, Outcome.FAILED, True),
        (0, "-", False, Outcome.FAILED, True),
    ],
)
def test_a_record_of_the_access_log_is_classified(
    status: int, flags: str, began: bool, outcome: Outcome, blamed: bool
) -> None:
    found = classify(status, flags.split(","), began=began)
    assert found is not None and found[0] is outcome
    sample = Sample(100.0, ArmName.CANDIDATE, found[0], 1.0, reason=found[1])
    assert sample.failed is blamed


@pytest.mark.parametrize(("status", "flag"), [(429, "RL"), (403, "UAEX"), (404, "NR"), (503, "FI")])
def test_what_the_gateway_answered_itself_blames_no_arm(status: int, flag: str) -> None:
    assert classify(status, [flag], began=False) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration": math.nan}, "duration is nan"),
        ({"duration": -0.1}, "duration is -0.1"),
        ({"arrival": INF}, "arrival is inf"),
        ({"first_byte": math.nan}, "first byte is nan"),
        ({"first_byte": 3.0}, "the first byte came after 3.0 s, the last one after 1.0 s"),
    ],
)
def test_an_impossible_record_says_what_is_impossible(change: dict[str, float], words: str) -> None:
    fields = {"arrival": 100.0, "duration": 1.0, "first_byte": 0.5} | change
    assert Sample(arm=ArmName.BASELINE, outcome=Outcome.OK, **fields).fault == words


@given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=50))
def test_a_sketch_keeps_gaps_to_two_per_cent(gaps: list[float]) -> None:
    cells = GapSketch.of(gaps).cells
    assert sum(count for _, count in cells) == len(gaps)
    spread = [cell for cell, count in cells for _ in range(count)]
    for gap, cell in zip(sorted(gaps), spread, strict=True):
        assert GapSketch.STEP ** (cell - 1) * (1 - 1e-6) <= gap <= GapSketch.STEP**cell * (1 + 1e-6)


@pytest.mark.parametrize("gap", [math.nan, INF, -0.1])
def test_a_gap_that_is_none_is_refused(gap: float) -> None:
    with pytest.raises(ValueError, match="clock is wrong"):
        GapSketch.of([0.01, gap])


# --- counters ----------------------------------------------------------------------------------------------------------


def scrape(
    at: float, *counts: float, requests: float | None = None, failed: float = 0, handed: float | None = 0
) -> Scrape:
    histogram = Histogram((0.1, 0.5, INF), counts)
    return Scrape(at, counts[-1] if requests is None else requests, failed, handed, {Timing.TTFT: histogram})


def test_what_was_counted_between_two_scrapes() -> None:
    found = increase(scrape(100, 5, 8, 10, failed=1), scrape(115, 9, 15, 18, failed=3))
    assert (found.begin, found.end, found.requests, found.failed, found.handed_over) == (100, 115, 8, 2, 0)
    assert found.buckets[Timing.TTFT] == ((0.1, 0.5, INF), (4, 3, 1))


def test_a_counter_that_went_back_is_an_error_and_not_a_rate() -> None:
    with pytest.raises(CounterResetError, match="fell from") as caught:
        increase(scrape(100, 5, 8, 10), scrape(115, 1, 2, 2))
    assert caught.value.before == 115, "what was counted before the reset is void"
    with pytest.raises(CounterResetError, match="failed requests fell from 4 to 0"):
        increase(scrape(100, 1, 1, 1, failed=4), scrape(115, 2, 2, 2, failed=0))


@pytest.mark.parametrize("bad", [math.nan, INF, -1.0])
def test_a_figure_that_is_no_number_is_an_error(bad: float) -> None:
    with pytest.raises(NotANumberError):
        Histogram((0.1, INF), (1, bad))
    with pytest.raises(NotANumberError, match="failed requests is"):
        increase(scrape(100, 1, 1, 1), scrape(115, 2, 2, 2, failed=bad))


def test_series_and_buckets_must_stay_what_they_are() -> None:
    other = Scrape(115, 9, 0, 0, {Timing.TTFT: Histogram((0.2, 0.5, INF), (9, 9, 9))})
    with pytest.raises(SampleError, match="buckets of ttft changed"):
        increase(scrape(100, 1, 1, 1), other)
    with pytest.raises(SampleError, match="appeared or went away"):
        increase(scrape(100, 1, 1, 1), Scrape(115, 9, 0, 0, {}))
    with pytest.raises(SampleError, match="appeared or went away"):
        increase(scrape(100, 1, 1, 1), scrape(115, 1, 1, 1, handed=None))
    with pytest.raises(SampleError, match="time did not go on"):
        increase(scrape(100, 1, 1, 1), scrape(100, 1, 1, 1))
    with pytest.raises(SampleError, match="not read at one instant"):
        increase(scrape(100, 0, 5, 5), scrape(115, 4, 6, 9))


@pytest.mark.parametrize(
    ("bounds", "counts"),
    [((), ()), ((0.1,), (1,)), ((0.1, INF), (1,)), ((0.5, 0.1, INF), (1, 2, 3)), ((0.1, INF), (3, 2))],
)
def test_a_histogram_must_be_one(bounds: tuple[float, ...], counts: tuple[float, ...]) -> None:
    with pytest.raises(SampleError):
        Histogram(bounds, counts)
