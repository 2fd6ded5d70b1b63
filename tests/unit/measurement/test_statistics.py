"""Intervals cover at their stated rate whatever the noise, and an outlier or a run of like pairs does not fool them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from sartor_agents.measurement import statistics as s

POSITIVE = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=6, max_size=14))
def test_the_interval_contains_its_value_and_turns_over_with_the_arms(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    one = s.signed_rank_interval(s.log_ratios(a, b), 0.95)
    other = s.signed_rank_interval(s.log_ratios(b, a), 0.95)
    assert one.low <= one.value * (1 + 1e-12) and one.value <= one.high * (1 + 1e-12)
    assert one.value == pytest.approx(1 / other.value)
    assert one.low == pytest.approx(1 / other.high, rel=1e-6)


@given(st.lists(POSITIVE, min_size=6, max_size=12), st.floats(0.1, 10))
def test_a_scale_that_both_windows_share_cancels(values: list[float], scale: float) -> None:
    base = s.signed_rank_interval(s.log_ratios(values, [1.0] * len(values)), 0.9)
    scaled = s.signed_rank_interval(s.log_ratios([v * scale for v in values], [scale] * len(values)), 0.9)
    assert scaled.value == pytest.approx(base.value) and scaled.high == pytest.approx(base.high)


@pytest.mark.parametrize(("n", "confidence"), [(6, 0.95), (9, 0.95), (17, 0.99), (40, 0.9)])
def test_the_ends_are_where_the_exact_signed_rank_test_changes_its_mind(n: int, confidence: float) -> None:
    logs = np.random.default_rng(n).standard_t(3, n)
    interval = s.signed_rank_interval(list(logs), confidence)

    def p(ratio: float) -> float:
        return float(wilcoxon(logs - math.log(ratio), method="exact").pvalue)

    inside, outside = 1 + 1e-9, 1 - 1e-9
    assert p(interval.low * inside) > 1 - confidence >= p(interval.low * outside)
    assert p(interval.high * outside) > 1 - confidence >= p(interval.high * inside)


@pytest.mark.parametrize("noise", ["normal", "heavy tails", "machine that flips"])
def test_the_interval_covers_at_its_rate(noise: str) -> None:
    rng = np.random.default_rng(1)
    runs, hits = 1500, 0
    for _ in range(runs):
        match noise:
            case "normal":
                logs = rng.normal(0, 0.2, 12)
            case "heavy tails":
                logs = 0.1 * rng.standard_t(1.5, 12)
            case _:
                logs = rng.normal(0, 0.02, 12) + rng.choice([-0.4, 0.0, 0.4], 12, p=[0.15, 0.7, 0.15])
        interval = s.signed_rank_interval(list(math.log(1.7) + logs), 0.95)
        hits += interval.low <= 1.7 <= interval.high
    # Twelve signed ranks resolve 4.2 %; three standard deviations of a binomial proportion.
    assert abs(hits / runs - 0.958) < 3 * math.sqrt(0.958 * 0.042 / runs)


def test_arms_that_are_alike_and_change_places_by_lot_are_rarely_apart_whatever_the_noise_does() -> None:
    """Sizes that drift, come in runs and differ between first and second place: only the lot is independent."""
    rng = np.random.default_rng(2)
    runs, wins = 2000, 0
    for _ in range(runs):
        sizes = np.cumsum(rng.standard_normal(10)) + 3.0
        interval = s.signed_rank_interval(list(sizes * rng.choice([-1, 1], 10)), 0.95)
        wins += interval.low > 1.0
    assert wins / runs < 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)


def test_one_pair_that_the_machine_spoilt_moves_neither_the_value_nor_the_ends_far() -> None:
    clean = [0.40, 0.41, 0.39, 0.42, 0.38, 0.40, 0.41, 0.39, 0.40, 0.43, 0.37, 0.40]
    spoilt = [*clean[:-1], 0.40 - math.log(1.5)]
    before, after = s.signed_rank_interval(clean, 0.95), s.signed_rank_interval(spoilt, 0.95)
    assert after.value == pytest.approx(before.value, rel=0.01)
    assert after.low > 0.97 * before.low and after.high < 1.03 * before.high


@given(st.floats(1e-6, 0.9))
def test_so_many_pairs_are_needed_and_no_fewer(alpha: float) -> None:
    n = s.fewest_pairs(alpha)
    logs = [0.1 * k for k in range(n)]
    interval = s.signed_rank_interval(logs, 1 - alpha)
    assert math.log(interval.low) >= min(logs) - 1e-9
    if n > 2:
        with pytest.raises(ValueError, match=rf"{n - 1} pairs cannot carry"):
            s.signed_rank_interval(logs[:-1], 1 - alpha)


def test_pairs_that_resemble_their_neighbours_count_for_less() -> None:
    rng = np.random.default_rng(3)
    alone = [s.dependence(list(rng.standard_normal(100))) for _ in range(200)]
    runs = [s.dependence(list(np.repeat(rng.standard_normal(20), 5))) for _ in range(200)]
    assert np.median(alone) < 1.2 and np.median(runs) > 2.2
    assert min(alone) == 1.0 and s.dependence([0.0] * 20) == 1.0
    assert s.dependence(list(np.repeat([0.0, 1.0], 5))) == 1.0  # too few to tell
    logs = list(rng.standard_normal(30))
    wide, narrow = s.signed_rank_interval(logs, 0.95, inflation=4.0), s.signed_rank_interval(logs, 0.95)
    assert 1.6 < math.log(wide.high / wide.low) / math.log(narrow.high / narrow.low) < 2.6


def test_intervals_cover_where_the_speed_up_differs_between_two_modes_of_the_machine() -> None:
    rng = np.random.default_rng(4)
    runs, hits, without = 400, 0, 0
    for _ in range(runs):
        mode = np.cumsum(rng.random(100) < 0.2) % 2 - 0.5  # five pairs in a row on average
        logs = list(0.4 * mode + rng.normal(0, 0.02, 100))
        with_it, blind = (s.signed_rank_interval(logs, 0.95, inflation=f) for f in (s.dependence(logs), 1.0))
        hits += with_it.low <= 1.0 <= with_it.high
        without += blind.low <= 1.0 <= blind.high
    assert hits / runs > 0.9 and without / runs < 0.8


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
