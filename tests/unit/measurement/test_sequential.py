"""Looking often does not inflate the error, large effects end early, and time that runs out still gives an answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sequential import StopRule, nominal_errors, plan_looks, stop
from sartor_agents.measurement.statistics import Interval, fewest_pairs, sidak


def policy(first: int, last: int, **changes: float) -> MeasurementPolicy:
    values = {"replicates_min": first, "replicates_max": last, "precision": 0.02, **changes}
    return MeasurementPolicy.model_validate(values)


def test_the_bounds_are_the_published_ones() -> None:
    """Five equal looks, Pocock-type spending, 5 % two-sided (Reboussin et al., Control. Clin. Trials 21, 2000)."""
    shares = [k / 5 for k in range(1, 6)]
    errors = nominal_errors(shares, [0.05 * math.log1p((math.e - 1) * share) for share in shares])
    bounds = [float(norm.isf(error / 2)) for error in errors]
    assert bounds == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=0.002)


def test_all_looks_together_are_wrong_at_the_stated_rate_and_not_much_more_rarely() -> None:
    rng = np.random.default_rng(2)
    rule = StopRule(policy(6, 60, confidence=0.9))
    runs, wrong = 600, 0
    for _ in range(runs):
        logs = list(rng.normal(0.3, 0.1, 60))
        conclusions = [rule.look(logs[: look.n]) for look in rule.looks]
        truth = math.exp(0.3)
        wrong += any(c is None or not c.interval.low <= truth <= c.interval.high for c in conclusions)
    # Three standard deviations of luck; below, what the discreteness of ranks and the guard against dependence cost.
    assert 0.04 < wrong / runs < 0.1 + 3 * math.sqrt(0.1 * 0.9 / runs)


@given(st.integers(2, 20), st.integers(6, 60), st.floats(0.002, 0.2))
def test_looks_are_where_ranks_can_resolve_what_may_be_spent(first: int, more: int, alpha: float) -> None:
    last = max(first, fewest_pairs(alpha)) + more
    looks = plan_looks(first, last, alpha)
    numbers = [look.n for look in looks]
    assert numbers == sorted(set(numbers)) and numbers[0] >= first and numbers[-1] == last
    assert all(fewest_pairs(look.alpha) <= look.n for look in looks)
    assert max(look.alpha for look in looks) <= alpha <= math.fsum(look.alpha for look in looks) + 1e-9


def test_a_policy_of_too_few_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 pairs cannot carry an interval at error 0\.05; 6 can"):
        StopRule(policy(2, 5))


def test_a_large_effect_ends_at_the_first_look_and_none_goes_on() -> None:
    rng = np.random.default_rng(3)
    rule = StopRule(policy(6, 60))
    first = rule.looks[0].n
    assert first < 12 and rule.look([0.0] * (first - 1)) is None
    clear = rule.look(list(rng.normal(math.log(5), 0.05, first)))
    assert clear is not None and clear.stop == "clear" and clear.interval.low > 4
    unclear = rule.look(list(rng.normal(0, 0.5, first)))
    assert unclear is not None and unclear.stop is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.05, 1.06, "precise"),
        (2.6, 3.4, "clear"),
        (1.1, 3.4, None),
        (0.5, 0.99, "futile"),
        (0.8, 1.4, None),
    ],
)
def test_why_a_measurement_stops(low: float, high: float, expected: str | None) -> None:
    interval = Interval(math.sqrt(low * high), low, high, 10, 0.95)
    assert stop(interval, 1.02, 0.01, final=False) == expected
    assert stop(interval, 1.02, 0.01, final=True) == (expected or "exhausted")


def test_time_that_runs_out_between_two_looks_spends_what_is_left_on_what_there_is() -> None:
    rule = StopRule(policy(6, 100))
    logs = list(np.random.default_rng(4).normal(0.1, 0.1, 100))
    numbers = [look.n for look in rule.looks]
    between = next(n for n in range(20, 100) if n not in numbers)
    before = rule.look(logs[: max(n for n in numbers if n < between)])
    closed = rule.close(logs[:between])
    assert before is not None and closed is not None
    assert closed.interval.n == between and closed.stop is None
    assert math.log(closed.interval.high / closed.interval.low) < math.log(before.interval.high / before.interval.low)
    assert rule.close(logs[:5]) is None and rule.close(logs[:6]) is not None


def test_a_cut_by_time_keeps_the_error() -> None:
    rng = np.random.default_rng(5)
    rule = StopRule(policy(6, 60, confidence=0.9))
    runs, wrong = 600, 0
    for _ in range(runs):
        logs = list(rng.normal(0.0, 0.1, 30))
        looks = [rule.look(logs[: look.n]) for look in rule.looks if look.n < 30]
        ends = [c.interval for c in (*looks, rule.close(logs)) if c is not None]
        wrong += any(not one.low <= 1.0 <= one.high for one in ends)
    assert wrong / runs < 0.1 + 3 * math.sqrt(0.1 * 0.9 / runs)


def test_more_comparisons_need_wider_intervals() -> None:
    logs = list(np.random.default_rng(6).normal(0.1, 0.1, 60))
    widths: list[float] = []
    for comparisons in (1, 20):
        rule = StopRule(policy(6, 60, comparisons=comparisons))
        assert rule.alpha == pytest.approx(sidak(0.05, comparisons))
        conclusion = rule.look(logs)
        assert conclusion is not None and conclusion.interval.confidence == 0.95
        widths.append(conclusion.interval.high / conclusion.interval.low)
    assert widths[1] > widths[0]
