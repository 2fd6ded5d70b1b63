"""Intervals cover at their stated rate, an A/A comparison is rarely a win, and looking often does not change that."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.measurement import statistics as s
from sartor_agents.measurement.sequential import conclude, plan_looks

POSITIVE = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=12))
def test_the_interval_contains_its_value_and_turns_over_with_the_arms(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    one = s.t_interval(s.log_ratios(a, b), 0.95)
    other = s.t_interval(s.log_ratios(b, a), 0.95)
    assert one.low <= one.value * (1 + 1e-12) and one.value <= one.high * (1 + 1e-12)
    assert one.value == pytest.approx(1 / other.value)
    assert one.low == pytest.approx(1 / other.high, rel=1e-6)


@given(st.lists(POSITIVE, min_size=2, max_size=12), st.floats(0.1, 10))
def test_a_scale_that_both_windows_share_cancels(values: list[float], scale: float) -> None:
    base = s.t_interval(s.log_ratios(values, [1.0] * len(values)), 0.9)
    scaled = s.t_interval(s.log_ratios([v * scale for v in values], [scale] * len(values)), 0.9)
    assert scaled.value == pytest.approx(base.value) and scaled.high == pytest.approx(base.high)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_t_interval_covers_at_its_rate(confidence: float) -> None:
    rng = np.random.default_rng(1)
    runs = 1500
    hits = 0
    for _ in range(runs):
        interval = s.t_interval(list(rng.normal(math.log(1.7), 0.2, 5)), confidence)
        hits += interval.low <= 1.7 <= interval.high
    # Three standard deviations of a binomial proportion.
    assert abs(hits / runs - confidence) < 3 * math.sqrt(confidence * (1 - confidence) / runs)


def test_an_aa_comparison_with_looking_is_rarely_a_win() -> None:
    rng = np.random.default_rng(2)
    looks = plan_looks(3, 12, 0.05)
    runs, wins = 800, 0
    for _ in range(runs):
        logs = list(rng.normal(0.0, 0.1, 12))
        for look in looks:
            conclusion = conclude(
                logs[: look.n], look, final=look.n == 12, confidence=0.95, minimum=1.0, precision=0.02
            )
            if conclusion.stop is not None:
                break
        wins += conclusion.interval.low > 1.0
    # One side of a 5 % error, and three standard deviations of luck.
    assert wins / runs < 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)


def test_a_large_effect_ends_at_the_first_look_and_none_goes_on() -> None:
    rng = np.random.default_rng(3)
    first, *_ = plan_looks(3, 12, 0.05)
    clear = conclude(
        list(rng.normal(math.log(5), 0.02, 3)), first, final=False, confidence=0.95, minimum=1, precision=0.05
    )
    assert clear.stop in ("clear", "precise") and clear.interval.low > 4
    unclear = conclude([0.3, -0.3, 0.1], first, final=False, confidence=0.95, minimum=1, precision=0.05)
    assert unclear.stop is None


@given(st.integers(2, 20), st.integers(0, 30), st.floats(0.001, 0.2))
def test_the_looks_spend_exactly_the_error(first: int, more: int, alpha: float) -> None:
    looks = plan_looks(first, first + more, alpha)
    assert math.fsum(look.alpha for look in looks) == pytest.approx(alpha)
    assert [look.n for look in looks] == sorted({look.n for look in looks})
    assert looks[0].n == first and looks[-1].n == first + more


@given(st.floats(0.001, 0.5), st.integers(1, 50))
def test_sidak_lies_between_bonferroni_and_no_correction(alpha: float, n: int) -> None:
    assert alpha / n <= s.sidak(alpha, n) * (1 + 1e-9) and s.sidak(alpha, n) <= alpha * (1 + 1e-9)
    assert 1 - (1 - s.sidak(alpha, n)) ** n == pytest.approx(alpha)


def test_conditions_are_averaged_within_the_pair() -> None:
    combined = s.combine([s.log_ratios([4, 4], [1, 1]), s.log_ratios([1, 1], [1, 4])])
    assert [math.exp(x) for x in combined] == pytest.approx([2.0, 1.0])
    with pytest.raises(ValueError, match="same pairs"):
        s.combine([[0.1], [0.1, 0.2]])


@given(st.lists(st.floats(0, 100) | st.just(math.inf), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_a_value_with_enough_below_it(values: list[float], probability: float) -> None:
    q = s.quantile(values, probability)
    assert q in values
    assert sum(v <= q for v in values) >= probability * len(values) - 1e-9


def test_a_p99_is_infinite_once_more_than_one_per_cent_failed() -> None:
    assert s.quantile([1.0] * 99 + [math.inf], 0.99) == 1.0
    assert s.quantile([1.0] * 98 + [math.inf] * 2, 0.99) == math.inf


def test_the_bootstrap_resamples_windows_not_requests() -> None:
    rng = np.random.default_rng(4)
    # Windows differ, requests within a window do not: the interval must be as wide as the windows are apart.
    a = [[level] * 50 for level in (1.0, 2.0, 3.0, 4.0)]
    b = [[1.0] * 50] * 4
    interval = s.cluster_bootstrap(a, b, lambda v: float(v.mean()), confidence=0.9, rng=rng)
    assert interval is not None and interval.value == pytest.approx(2.5)
    assert interval.low < 1.8 and interval.high > 3.2
    assert (
        s.cluster_bootstrap([[math.inf], [1.0]], [[1.0], [1.0]], lambda v: float(v.max()), confidence=0.9, rng=rng)
        is None
    )


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_ratio_needs_positive_finite_values(bad: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        s.log_ratios([1.0, bad], [1.0, 1.0])
