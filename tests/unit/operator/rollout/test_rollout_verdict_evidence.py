"""The statistics: exact where they claim to be, checked by hand and by enumeration."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sartor_operator.rollout.verdict.bounds import (
    INDEPENDENT,
    QuantileLimit,
    QuantileRegression,
    ShareLimit,
    ShareRegression,
    weigh,
)
from sartor_operator.rollout.verdict.budget import Budget
from sartor_operator.rollout.verdict.dispersion import BLOCK_SECONDS, LONGEST_BLOCK, Blocks, Dispersion, dispersions
from sartor_operator.rollout.verdict.evidence import SHARES, Bet, Mixture, around, least
from sartor_operator.rollout.verdict.figures import BucketTimes, ExactTimes, SharePair, Shares, TimePair
from sartor_operator.rollout.verdict.reading import Window

SMALL = st.floats(0.001, 0.999)


def even(hits: float, n: float, blocks: int = 16) -> Blocks:
    return Blocks([hits / blocks] * blocks, [n / blocks] * blocks)


def shares(k: float, n: float, k_b: float, n_b: float) -> SharePair:
    return SharePair(Shares(k, n, lambda: even(k, n)), Shares(k_b, n_b, lambda: even(k_b, n_b)))


def exact(values: list[float], infinite: int = 0, width: float = 0.0) -> ExactTimes:
    n = len(values) + infinite
    return ExactTimes(sorted(values), infinite, n, width, lambda x: even(sum(v > x for v in values) + infinite, n))


def lognormal(seed: int, n: int, ratio: float = 1.0, spread: float = 0.4) -> list[float]:
    rng = random.Random(seed)
    return [ratio * 0.1 * math.exp(spread * rng.gauss(0, 1)) for _ in range(n)]


# --- capital -------------------------------------------------------------------------------------------------------------


def test_capital_by_hand() -> None:
    # No hit in 1000 against "1 % or more", betting on a uniform share: ∫(1 − θ)^1000 dθ = 1/1001, over 0.99^1000.
    bet = Bet(0, 1000, Mixture((1.0, 1.0)))
    capital = 0.25 + 0.75 / 1001 / 0.99**1000
    assert bet.against_at_least(0.01) == pytest.approx(math.log(capital))
    assert math.exp(bet.against_at_most(0.01)) == pytest.approx(0.25 + 0.75 / 1001), "no hit speaks for it: no capital"
    assert bet.against_at_least(0.0) < 0, "a share is 0 or more, whatever is seen"
    assert Bet(1, 10, SHARES).against_at_most(0.0) == math.inf, "one hit refutes a share of 0"


@given(SMALL, st.integers(1, 12))
def test_capital_is_worth_one_at_any_stop(share: float, n: int) -> None:
    """E[M at a stop] = 1 whatever rule stops: all paths of n requests, stopped at the first capital above 1.5."""

    def worth(hits: int, seen: int) -> float:
        bet = Bet(hits, seen, SHARES)
        # Against exactly this share: the worse of the two one-sided capitals has it as its own.
        capital = math.exp(bet.against_at_least(share) if hits <= share * seen else bet.against_at_most(share))
        if seen == n or (seen and capital > 1.5):
            return capital
        return share * worth(hits + 1, seen + 1) + (1 - share) * worth(hits, seen + 1)

    assert worth(0, 0) == pytest.approx(1.0, rel=1e-9)


@given(SMALL, SMALL, st.integers(1, 10))
def test_one_sided_capital_is_worth_at_most_one_wherever_the_claim_holds(claim: float, share: float, n: int) -> None:
    def worth(against: Callable[[Bet], float]) -> float:
        return sum(
            math.comb(n, k) * share**k * (1 - share) ** (n - k) * math.exp(against(Bet(k, n, around(0.01))))
            for k in range(n + 1)
        )

    if share >= claim:
        assert worth(lambda bet: bet.against_at_least(claim)) <= 1 + 1e-9
    else:
        assert worth(lambda bet: bet.against_at_most(claim)) <= 1 + 1e-9


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-2, 1), st.floats(1.1, 4))
def test_the_least_of_a_convex_function_is_found(at: float, steep: float, low: float, high: float) -> None:
    found = least(lambda x: steep * (x - at) ** 2, low, high)
    inside = min(max(at, low), high)
    assert found == pytest.approx(steep * (inside - at) ** 2, abs=1e-6)


# --- dispersion ----------------------------------------------------------------------------------------------------------


def largest(candidate: Blocks, baseline: Blocks | None) -> tuple[float, float]:
    """φ of both arms at the length of blocks where it is largest."""
    found = dispersions(candidate, baseline)
    return max(one.candidate for one in found), max(one.baseline for one in found)


def test_dispersion_by_hand() -> None:
    # 16 blocks of 10 requests, all 8 hits in one: share 0.05, residual (8 − 0.5)² + 15 · 0.5² = 60, over
    # 0.05 · 0.95 · 160 = 7.6, times 16/15: 8.42. Eight hits that come together are hardly more than one.
    one = Blocks([8.0, *[0.0] * 15], [10.0] * 16)
    short, long = dispersions(one, None)
    assert short.candidate == pytest.approx(60 / 7.6 * 16 / 15)
    # The same in 8 blocks of 20: (8 − 1)² + 7 · 1² = 56, over 7.6, times 8/7.
    assert long.candidate == pytest.approx(56 / 7.6 * 8 / 7)
    assert (short.freedom, long.freedom) == (15, 7)
    assert largest(even(8, 160), None) == (1.0, 1.0)


def test_blocks_are_as_long_as_noise_lasts_and_never_too_few() -> None:
    def lengths(seconds: float) -> list[float]:
        count = int(seconds / BLOCK_SECONDS)
        blocks = Blocks([1.0, *[0.0] * (count - 1)], [10.0] * count)
        return [BLOCK_SECONDS * count / (one.freedom + 1) for one in dispersions(blocks, None)]

    assert lengths(35) == [] and lengths(40) == [5]
    assert lengths(160) == [5, 10, 20]
    assert lengths(6400) == [5, 10, 20, 40, LONGEST_BLOCK]
    assert len(dispersions(Blocks([0.0] * 16, [1.0] * 16, 60.0), None)) == 1, "scrapes a minute apart are long enough"
    assert dispersions(Blocks([1.0] * 16, [10.0] * 16), Blocks([0.0] * 16, [1.0] * 4 + [0.0] * 12)) == (), "either arm"


def test_a_scale_from_few_blocks_is_worth_little_and_one_from_many_is_worth_all() -> None:
    few, many = Dispersion(1.0, 1.0, 7), Dispersion(1.0, 1.0, 10_000)
    assert few.worth(20) == pytest.approx(3.5 * math.log(1 + 40 / 7)) and few.worth(20) < 7
    assert many.worth(20) == pytest.approx(20, rel=0.01)
    assert few.worth(-1) == -1 and few.needed(-1) == -1
    for nats in (0.0, 1.0, 12.0, 40.0):
        assert few.worth(few.needed(nats)) == pytest.approx(nats)
    assert math.isfinite(few.needed(1e6))


def test_a_burst_in_one_arm_makes_the_other_arm_cautious_in_proportion_to_its_rate() -> None:
    burst = Blocks([60.0, *[0.0] * 15], [100.0] * 16)
    quiet, quieter = Blocks([0.0] * 16, [100.0] * 16), Blocks([0.0] * 16, [10.0] * 16)
    _, other = largest(burst, quiet)
    _, slower = largest(burst, quieter)
    assert other > 10 and 1 < slower < other / 4


def test_independent_requests_are_hardly_discounted() -> None:
    rng = random.Random(3)
    found: list[float] = []
    for _ in range(50):
        hits = [float(sum(rng.random() < 0.05 for _ in range(40))) for _ in range(64)]
        found.append(largest(Blocks(hits, [40.0] * 64), None)[0])
    assert 1.0 <= sorted(found)[25] < 1.6


def test_slow_drift_is_seen_in_long_blocks() -> None:
    # Each half-minute (6 blocks of 5 s) all good or 20 % bad: blocks of 5 s alone see a part of it only.
    rng = random.Random(5)
    hits = [h for _ in range(40) for h in [rng.choice((0.0, 4.0))] * 6]
    found = dispersions(Blocks(hits, [20.0] * len(hits)), None)
    assert found[-2].candidate > 2 * found[0].candidate, "blocks of 40 s"


# --- shares --------------------------------------------------------------------------------------------------------------

ENOUGH = math.log(100)


def test_errors_by_hand() -> None:
    tenth, point = ShareRegression(0.001), ShareRegression(0.01)
    assert tenth.broken(shares(50, 1000, 1, 1000), INDEPENDENT) > ENOUGH, "5 % against 0.1 %"
    assert tenth.held(shares(50, 1000, 1, 1000), INDEPENDENT) == 0
    assert tenth.broken(shares(2, 1000, 1, 1000), INDEPENDENT) < ENOUGH, "0.2 % against 0.1 % may be chance"
    assert point.held(shares(0, 1500, 0, 1500), INDEPENDENT) > ENOUGH
    assert tenth.held(shares(0, 1500, 0, 1500), INDEPENDENT) < ENOUGH, "1500 requests cannot show a tenth of a point"
    assert tenth.held(shares(0, 12_000, 0, 12_000), INDEPENDENT) > ENOUGH


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.floats(-0.05, 0.1))
def test_the_least_capital_is_below_that_of_every_pair_that_the_claim_allows(k: int, k_b: int, margin: float) -> None:
    n, bound, pair = 400, ShareRegression(margin), shares(k, 400, k_b, 400)
    mine, theirs = Bet(k, n, SHARES), Bet(k_b, n, SHARES)
    broken, held = bound.broken(pair, INDEPENDENT), bound.held(pair, INDEPENDENT)
    for i in range(1, 200):
        s = i / 400
        if 0 < s + margin < 1:
            assert broken <= max(0.0, mine.against_at_most(s + margin) + theirs.against_at_least(s)) + 1e-6
            assert held <= max(0.0, mine.against_at_least(s + margin) + theirs.against_at_most(s)) + 1e-6


@given(st.integers(0, 100), st.integers(0, 100), st.floats(0, 0.2))
def test_nothing_is_both_kept_and_broken(k: int, k_b: int, margin: float) -> None:
    pair, bound = shares(k, 500, k_b, 500), ShareRegression(margin)
    assert min(bound.held(pair, INDEPENDENT), bound.broken(pair, INDEPENDENT)) <= 0


def test_one_burst_of_errors_decides_nothing() -> None:
    burst = Blocks([60.0, *[0.0] * 15], [100.0] * 16)
    pair = SharePair(Shares(60, 1600, lambda: burst), Shares(0, 1600, lambda: even(0, 1600)))
    bound = ShareRegression(0.001)
    assert bound.broken(pair, INDEPENDENT) > 20, "independent errors would be a scandal"
    assert weigh(bound.broken, pair, ENOUGH) < ENOUGH


def test_evidence_is_weighed_by_the_block_length_at_which_it_is_least() -> None:
    rng = random.Random(5)
    hits = [h for _ in range(40) for h in [rng.choice((0.0, 4.0))] * 6]
    slow = Blocks(hits, [20.0] * len(hits))
    quiet = Blocks([0.0] * len(hits), [20.0] * len(hits))
    n = 20.0 * len(hits)
    pair, bound = SharePair(Shares(sum(hits), n, lambda: slow), Shares(0, n, lambda: quiet)), ShareRegression(0.001)
    each = [one.worth(bound.broken(pair, (one.candidate, one.baseline))) for one in pair.dispersions]
    assert weigh(bound.broken, pair, 0.0) == pytest.approx(min(each)) and min(each) < each[0] / 2


def test_in_a_window_too_short_to_know_the_dispersion_nothing_is_evident() -> None:
    seven = even(700, 700, 7), even(0, 700, 7)
    pair = SharePair(Shares(700, 700, lambda: seven[0]), Shares(0, 700, lambda: seven[1]))
    assert ShareRegression(0.001).broken(pair, INDEPENDENT) > 100
    assert weigh(ShareRegression(0.001).broken, pair, ENOUGH) == 0


def test_an_absolute_bound() -> None:
    limit = ShareLimit(0.01)
    assert limit.broken(shares(40, 1000, 0, 1), INDEPENDENT) > ENOUGH
    assert limit.held(shares(0, 1500, 0, 1), INDEPENDENT) > ENOUGH
    assert max(limit.held(shares(10, 1000, 0, 1), INDEPENDENT), limit.broken(shares(10, 1000, 0, 1), INDEPENDENT)) < 1


# --- quantiles -----------------------------------------------------------------------------------------------------------


def times(candidate: ExactTimes | BucketTimes, baseline: ExactTimes | BucketTimes, level: float = 0.99) -> TimePair:
    return TimePair(candidate, baseline, level)


def test_quantiles_of_times_one_by_one() -> None:
    figures = exact([float(i) for i in range(1, 100)], infinite=1)
    assert figures.quantile(0.99, high=False) == 99 and figures.quantile(0.5, high=False) == 50
    assert exact([1.0] * 98, infinite=2).quantile(0.99, high=False) == math.inf, "more than 1 % failed"
    assert figures.more_than(98, high=False) == 2 and figures.at_least(98, high=False) == 3
    coarse = exact([1.0, 2.0], width=1.0)
    assert coarse.at_least(3.0, high=True) == 1 and coarse.at_least(2.5, high=False) == 0


def test_a_tail_answers_like_the_whole_and_refuses_the_rest() -> None:
    values = sorted(lognormal(1, 2000))
    whole, tail = exact(values), ExactTimes(values[-100:], 0, 2000, 0.0, lambda x: even(0, 1))
    assert tail.quantile(0.99, high=False) == whole.quantile(0.99, high=False)
    with pytest.raises(ValueError, match="below the tail"):
        tail.quantile(0.5, high=False)


def test_twice_as_slow_is_seen_and_the_same_is_not() -> None:
    bound = QuantileRegression(1.1, 0.99)
    base = exact(lognormal(1, 3000))
    assert bound.broken(times(exact(lognormal(2, 1000, 2.0)), base), INDEPENDENT, ENOUGH) > ENOUGH
    assert bound.broken(times(exact(lognormal(2, 1000)), base), INDEPENDENT, ENOUGH) < ENOUGH
    assert bound.held(times(exact(lognormal(2, 1500, 0.5)), base), INDEPENDENT, ENOUGH) > ENOUGH
    assert bound.held(times(exact(lognormal(2, 20_000, spread=0.2)), exact(lognormal(3, 20_000, spread=0.2))),
                      INDEPENDENT, ENOUGH) > ENOUGH  # fmt: skip
    assert (
        bound.held(times(exact(lognormal(2, 20_000, 1.1)), exact(lognormal(3, 20_000))), INDEPENDENT, ENOUGH) < ENOUGH
    )


@settings(max_examples=25, deadline=None)
@example(2881, 2.00001)
@given(st.integers(0, 10_000), st.floats(0.4, 2.5))
def test_between_the_thresholds_nothing_is_missed(seed: int, ratio: float) -> None:
    """The bound over 64 intervals is at most the evidence at any threshold at all."""
    one, other = exact(lognormal(seed, 700, ratio)), exact(lognormal(seed + 1, 900))
    bound, mixture = QuantileRegression(1.1, 0.99), around(0.01)
    broken = bound.broken(times(one, other), INDEPENDENT, -math.inf)
    held = bound.held(times(one, other), INDEPENDENT, -math.inf)
    low, high = sorted((other.quantile(0.99, high=False), one.quantile(0.99, high=False) / 1.1))
    for i in range(300):
        t = min(high, low * (high / low) ** (i / 299))  # rounded up it would lie outside
        above = Bet(one.more_than(1.1 * t, high=False), 700, mixture)
        theirs = Bet(other.at_least(t, high=False), 900, mixture)
        assert broken <= max(0.0, above.against_at_most(0.01) + theirs.against_at_least(0.01)) + 1e-9
        above = Bet(one.at_least(1.1 * t, high=False), 700, mixture)
        theirs = Bet(other.more_than(t, high=False), 900, mixture)
        assert held <= max(0.0, above.against_at_least(0.01) + theirs.against_at_most(0.01)) + 1e-9


def test_failing_fast_is_slow() -> None:
    bound = QuantileRegression(1.1, 0.99)
    failing = exact(lognormal(1, 900, 0.2), infinite=100)
    assert bound.broken(times(failing, exact(lognormal(2, 3000))), INDEPENDENT, ENOUGH) > ENOUGH
    assert bound.held(times(failing, exact(lognormal(2, 3000))), INDEPENDENT, ENOUGH) == 0


def test_whole_milliseconds_cannot_show_a_tenth_of_eight() -> None:
    def rounded(seed: int) -> list[float]:
        return [math.floor(v * 85) / 1000 for v in lognormal(seed, 30_000, spread=0.02)]

    bound = QuantileRegression(1.1, 0.5)
    fine = times(exact(rounded(1)), exact(rounded(2)), 0.5)
    coarse = times(exact(rounded(1), width=0.001), exact(rounded(2), width=0.001), 0.5)
    assert bound.held(fine, INDEPENDENT, ENOUGH) > ENOUGH, "as if 8 ms were exactly 8 ms"
    assert bound.held(coarse, INDEPENDENT, ENOUGH) == 0, "8 ms may be 8.9 ms"


def bucketed(values: list[float], bounds: tuple[float, ...]) -> BucketTimes:
    edges = [0.0, *bounds]
    counts = [float(sum(a < v <= b for v in values)) for a, b in pairwise(edges)]
    return BucketTimes(bounds, counts, len(values), lambda x: even(sum(v > x for v in values), len(values)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.001, 20.0), min_size=5, max_size=80), st.floats(0.001, 20.0), st.sampled_from([0.5, 0.9, 0.99])
)
def test_a_histogram_brackets_what_it_cannot_tell(values: list[float], at: float, level: float) -> None:
    truth, seen = exact(values), bucketed(values, (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, math.inf))
    assert seen.quantile(level, high=False) <= truth.quantile(level, high=False) <= seen.quantile(level, high=True)
    for count in ("at_least", "more_than"):
        known = getattr(truth, count)(at, high=False)
        assert getattr(seen, count)(at, high=False) <= known <= getattr(seen, count)(at, high=True)


def test_buckets_show_large_regressions_and_not_small_ones() -> None:
    edges = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, math.inf)
    base = lognormal(1, 5000)
    bound = QuantileRegression(1.1, 0.99)
    five = times(bucketed(lognormal(2, 2000, 5.0), edges), bucketed(base, edges))
    half_more = times(bucketed(lognormal(2, 2000, 1.5), edges), bucketed(base, edges))
    assert bound.broken(five, INDEPENDENT, ENOUGH) > ENOUGH
    assert bound.broken(half_more, INDEPENDENT, ENOUGH) == 0, "both p99 may be in the same bucket"
    assert bound.broken(times(exact(lognormal(2, 5000, 1.5)), exact(base)), INDEPENDENT, ENOUGH) > ENOUGH


def test_a_limit_on_a_quantile() -> None:
    limit, one = QuantileLimit(0.3, 0.99), exact(lognormal(1, 3000))  # p99 is 0.1·exp(0.4·2.33) = 0.254
    assert limit.held(times(one, one), INDEPENDENT) > 2
    assert QuantileLimit(0.2, 0.99).broken(times(one, one), INDEPENDENT) > ENOUGH


# --- budget --------------------------------------------------------------------------------------------------------------


def test_the_budget_by_hand() -> None:
    budget = Budget(alpha=0.01, bounds=3, steps=4)
    assert budget.held == pytest.approx(math.log(100))
    assert budget.tests(Window(1000, 1059), 60.0) == (), "nothing fails in the first minute"
    (whole, nats), *later = budget.tests(Window(1000, 1060), 60.0)
    assert (whole, later) == (Window(1000, 1060), []) and nats == pytest.approx(math.log(2 * 12 * 100))
    found = budget.tests(Window(1000, 1000 + 730), 60.0)
    assert [window.begin for window, _ in found] == [1000, 1000 + 660, 1000 + 480]
    assert found[1][1] == pytest.approx(nats - math.log(0.5 * (0.5 / (11 * 12) + 0.5 / 120)))
    assert found[2][1] == pytest.approx(nats - math.log(0.5 * (0.5 / (2 * 3) + 0.5 / 30)))
    assert budget.tests(Window(0, 119), 120.0) == () != budget.tests(Window(0, 119), 60.0)


@pytest.mark.parametrize("shortest", [60.0, 120.0])
def test_all_tests_that_ever_begin_use_no_more_than_the_budget(shortest: float) -> None:
    budget, used = Budget(alpha=0.01, bounds=3, steps=4), {}
    for seconds in range(60, 20_000, 5):
        for i, (window, nats) in enumerate(budget.tests(Window(0.0, float(seconds)), shortest)):
            grid = "whole" if window.begin == 0 else window.seconds >= 4 * shortest
            used[grid, window.begin] = math.exp(-nats)
            assert i == 0 or shortest <= window.seconds < 8 * shortest, "one or two marks of its grid"
    assert len(used) > 200 * 60 / shortest and 0.009 < sum(used.values()) * 3 * 4 <= 0.01
