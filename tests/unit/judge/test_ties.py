"""The tie budget: rounding explains some flips at near-ties, not all of them."""

import numpy as np
import pytest
from scipy.stats import binom

from sartor_agents.judge.accuracy import AnswerVerdict
from sartor_agents.judge.ties import FALSE_ALARM, TOLERANCE_DEVIATIONS, poisson_binomial, tie_budget
from sartor_agents.measurement.samples import GenerationRequest

REQUEST = GenerationRequest("r", "c", "/v1/completions", {}, (1,), 10)
TOLERANCE = 0.06


def answer(margins: list[float], flips: int, tolerance: float = TOLERANCE) -> AnswerVerdict:
    return AnswerVerdict(
        REQUEST, tuple(range(len(margins))), len(margins) - flips, flips, None, margins=tuple(margins),
        tolerances=(tolerance,) * len(margins),
    )  # fmt: skip


def test_margins_beyond_the_tolerance_are_no_ties() -> None:
    budget = tie_budget([answer([4.0] * 500, 0)])
    assert (budget.near, budget.allowed, budget.kept) == (0, 0, True)
    assert not tie_budget([answer([4.0] * 500, 1)]).kept, "a flip where nothing was near"


def test_exact_ties_are_fair_coins() -> None:
    budget = tie_budget([answer([0.0] * 100, 0)])
    assert budget.expected == pytest.approx(50)
    assert 65 <= budget.allowed <= 70  # 50 + 3.7 · 5
    assert tie_budget([answer([0.0] * 100, budget.allowed)]).kept
    assert not tie_budget([answer([0.0] * 100, budget.allowed + 1)]).kept


def test_the_probabilities_are_those_of_unequal_coins() -> None:
    assert poisson_binomial(np.asarray([0.5, 0.25])) == pytest.approx([0.375, 0.5, 0.125])
    many = poisson_binomial(np.full(200, 0.3))
    assert many == pytest.approx(binom(200, 0.3).pmf(range(201)), abs=1e-12)


def test_the_budget_is_over_all_answers_together() -> None:
    ones = [answer([0.03], 1) for _ in range(12)]
    assert tie_budget(ones[:1]).kept
    assert not tie_budget(ones).kept, "each may be excused, not all of them"


def test_honest_noise_keeps_it_and_twenty_times_the_noise_does_not() -> None:
    rng = np.random.default_rng(5)
    deviation = TOLERANCE / TOLERANCE_DEVIATIONS

    def kept(scale: float) -> float:
        runs = 0
        for _ in range(300):
            margins = rng.uniform(0, TOLERANCE, 60)
            flips = int((rng.normal(0, scale * deviation, 60) > margins).sum())
            runs += tie_budget([answer(margins.tolist(), flips)]).kept
        return runs / 300

    assert kept(1.0) >= 1 - 10 * FALSE_ALARM
    assert kept(20.0) < 0.2


def test_without_a_tolerance_nothing_may_flip() -> None:
    assert tie_budget([answer([0.0, 1.0], 0, 0.0)]).kept
    assert not tie_budget([answer([0.0, 1.0], 1, 0.0)]).kept
