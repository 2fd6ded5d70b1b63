"""What the probe and the operator must agree on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sartor_api.probe import GAP_STEP, ProbeAsk, ProbePage, ProbeRecord, gap_cell
from sartor_operator.rollout.verdict.samples import GapSketch

RECORD = {"pair": 0, "arm": "baseline", "arrival": 1.0, "position": 1, "outcome": "ok", "duration": 1.0}
PAGE = {
    "boot": "b", "first": 4, "next": 5, "more": False, "records": [RECORD], "now": 2.0, "complete_until": 2.0, "share": 0.1,
    "seen": 1, "chosen": 1, "unfit": 0, "dropped": 0,
}  # fmt: skip


@given(st.floats(0, 1e5))
def test_cells_are_those_of_the_verdict(gap: float) -> None:
    assert GapSketch.of([gap]).cells == ((gap_cell(gap), 1),)


@given(st.floats(1e-6, 1e5))
def test_a_cell_holds_its_gap_to_two_per_cent(gap: float) -> None:
    cell = gap_cell(gap)
    assert GAP_STEP ** (cell - 1) * (1 - 1e-9) <= gap <= GAP_STEP**cell * (1 + 1e-9)


@pytest.mark.parametrize("gap", [-1e-9, math.inf, math.nan])
def test_a_clock_that_jumped_makes_no_gap(gap: float) -> None:
    with pytest.raises(ValueError, match="clock is wrong"):
        gap_cell(gap)


def test_a_page_that_misses_a_record_is_refused() -> None:
    assert ProbePage.model_validate(PAGE).records == (ProbeRecord.model_validate(RECORD),)
    with pytest.raises(ValidationError, match="records 4 to 6 are announced, and 1 are there"):
        ProbePage.model_validate({**PAGE, "next": 6})


@pytest.mark.parametrize(
    "ask",
    [
        {"share": 1.1},
        {"share": -0.1},
        {"share": math.nan},
        {"share": 0.5, "after": -1},
        {},
        {"share": 0.5, "percent": 5},
    ],
)
def test_nonsense_is_no_question(ask: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ProbeAsk.model_validate(ask)
