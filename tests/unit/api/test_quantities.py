"""Durations, quantities, decimals, percentages: text in, value out, text back."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_api import DecimalString, Duration, Percentage, Quantity, Threshold


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("0", 0), ("800ms", 0.8), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("1d2h3m4s5ms", 93784.005)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration(text).seconds == seconds
    assert Duration(text).timedelta == timedelta(seconds=seconds)
    assert str(Duration(text)) == text


@pytest.mark.parametrize("text", ["", "5", "m", "-1s", "1.5h", "5m1h", "1h1h", "1 h", "10M", "1w", "999999s", "1s\n"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 10m"):
        Duration(text)


@given(st.integers(min_value=0, max_value=99_999 * 86_400_000))
def test_a_duration_of_seconds_reads_back(milliseconds: int) -> None:
    duration = Duration.of(milliseconds / 1000)
    assert duration.number == Decimal(milliseconds) / 1000
    assert Duration(duration.text) == duration


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_durations_are_ordered_by_length_and_not_by_text(one: int, other: int) -> None:
    assert (Duration.of(one) < Duration.of(other)) == (one < other)


def test_equal_lengths_are_equal() -> None:
    assert Duration("60m") == Duration("1h")
    assert len({Duration("60m"), Duration("1h")}) == 1
    assert Duration("9s") < Duration("10s")
    assert Duration("1h") != "1h"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", "4"),
        ("500m", "0.5"),
        ("20M", "20e6"),
        ("16Gi", str(16 * 2**30)),
        ("1.5k", "1500"),
        ("2Pi", str(2 * 2**50)),
    ],
)
def test_quantities(text: str, value: str) -> None:
    assert Quantity(text).number == Decimal(value)


@pytest.mark.parametrize("text", ["", "-4", "4 M", "4MB", "1e6", "Gi", ".5"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        Quantity(text)


def test_percentages_are_fractions() -> None:
    assert Percentage("0.1%").number == Decimal("0.001")
    assert float(Percentage("100%")) == 1.0
    for wrong in ("100.1%", "5", "-1%", "250%"):
        with pytest.raises(ValueError, match="is not a percentage"):
            Percentage(wrong)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("800ms", "duration", "0.8"), ("0.1%", "percentage", "0.001"), ("120", "number", "120"), ("0", "number", "0")],
)
def test_thresholds(text: str, unit: str, value: str) -> None:
    assert (Threshold(text).unit, Threshold(text).number) == (unit, Decimal(value))


@given(st.from_regex(rf"\A(?:{DecimalString.pattern})\Z"))
def test_every_decimal_that_the_pattern_takes_has_a_value(text: str) -> None:
    assert DecimalString(text).number == Decimal(text)


@pytest.mark.parametrize("kind", [Duration, Quantity, DecimalString, Percentage, Threshold])
def test_patterns_stay_inside_what_python_and_re2_read_alike(kind: type[Duration]) -> None:
    assert not re.search(r"\(\?[^:]|\\[wsdbWSDB1-9]|[*+?}][+]", kind.pattern)


def test_quantities_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Duration("1s").text = "2s"
