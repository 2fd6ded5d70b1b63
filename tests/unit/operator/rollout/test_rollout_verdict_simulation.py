"""Promises of the verdict on simulated canaries with bursts, drift and heavy tails; and that the harness can fail.

The figures are made by `benchmarks/rollout_verdict.py`; here are a few dozen canaries, enough to tell a test that keeps its
promise from one that peeks.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[4]))

from benchmarks.support import verdict_table
from benchmarks.support.canaries import BOUNDS, End, Name, Rules, canary, naive, pair_of
from benchmarks.support.canary_traffic import STEADY, UNSTEADY, Arm, Engine, Probe, Rollout, Step
from benchmarks.support.record import RESULTS

from sartor_api.objective import GuardrailMetric
from sartor_operator.rollout.verdict import ArmName, ArmSamples, GapSketch, Observed, Outcome, Sample, Source
from sartor_operator.rollout.verdict.bounds import INDEPENDENT, Bound, QuantileRegression, ShareRegression
from sartor_operator.rollout.verdict.figures import Pair, TimePair
from sartor_operator.rollout.verdict.metrics import METRICS
from sartor_operator.rollout.verdict.reading import Gathered, Window

STEPS = (Step(0.10, 300.0), Step(0.50, 300.0))
CANARIES = 40


def canaries(rollout: Rollout, rules: Rules, count: int = CANARIES) -> list[End]:
    return [canary(rollout, rules, np.random.default_rng([7, seed])) for seed in range(count)]


def rolled_back(ends: list[End]) -> int:
    return sum(end.ending == "rolledBack" for end in ends)


def independent(bound: Bound, pair: Pair, nats: float) -> bool:
    return bound.broken(pair, INDEPENDENT, nats) >= nats


def test_the_same_engine_twice_is_not_rolled_back_and_tests_that_peek_or_take_requests_as_independent_would() -> None:
    same = Rollout(UNSTEADY, UNSTEADY, steps=STEPS)
    assert rolled_back(canaries(same, Rules(advance=True))) == 0
    few = CANARIES // 4
    assert rolled_back(canaries(same, Rules(advance=True, broken=naive, screened=False), few)) >= few - 2
    assert rolled_back(canaries(same, Rules(advance=True, broken=independent, screened=False), few)) >= few // 2


@pytest.mark.parametrize("candidate", [UNSTEADY.failing(0.1), UNSTEADY.failing(1.0)])
def test_what_fails_is_rolled_back_at_the_first_step(candidate: Engine) -> None:
    ends = canaries(Rollout(candidate, UNSTEADY, steps=(Step(0.25, 600.0, 600.0),)), Rules(), 10)
    assert [(end.ending, end.bound) for end in ends] == [("rolledBack", "errors")] * 10


def test_what_is_twice_as_slow_is_rolled_back() -> None:
    ends = canaries(Rollout(STEADY.slower(2.0), STEADY, steps=(Step(0.5, 1200.0, 1200.0),)), Rules(), 10)
    assert rolled_back(ends) >= 9


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_exactly_at_a_bound_is_not_promoted_by_any_guardrail_alone(name: Name) -> None:
    rules = Rules(errors=ShareRegression(0.01), guardrails=(name,), broken=None)
    worse = STEADY.slower(1.1).failing(0.01)
    ends = canaries(Rollout(worse, STEADY, steps=(Step(0.5, 300.0, 1800.0),)), rules, 10)
    assert [end.ending for end in ends] == ["paused"] * 10


def test_what_is_twice_as_fast_is_promoted() -> None:
    rules = Rules(errors=ShareRegression(0.01), guardrails=("errors", "whole", "gaps"))
    ends = canaries(Rollout(STEADY.slower(0.5), STEADY, steps=(Step(0.5, 300.0, 3600.0),)), rules, 6)
    assert sum(end.ending == "promoted" for end in ends) >= 5


@pytest.mark.parametrize("engine", [UNSTEADY.slower(1.6), UNSTEADY.slower(0.5), UNSTEADY.failing(0.02, in_bursts=True)])
def test_looks_that_are_left_out_decide_nothing(engine: Engine) -> None:
    rollout = Rollout(engine, UNSTEADY, rate=60.0, probe=Probe(4.0, 8), steps=(Step(0.5, 120.0, 600.0),))
    rules = Rules(errors=ShareRegression(0.01))
    every = [canaries(rollout, replace(rules, screened=screened), 2) for screened in (True, False)]
    assert every[0] == every[1]


# --- the simulation against the verdict ------------------------------------------------------------------------------


def samples_of(rollout: Rollout, seed: int, step: Step) -> tuple[Observed, tuple[Arm, Arm]]:
    arms = rollout.both(np.random.default_rng(seed), step)
    found: list[list[Sample]] = []
    for arm, name in zip(arms, (ArmName.CANDIDATE, ArmName.BASELINE), strict=True):
        users = zip(arm.failures.arrivals.tolist(), arm.whole.values.tolist(), strict=True)
        samples = [sample(at, name, took, Source.GATEWAY_ACCESS_LOG) for at, took in users]
        probed = zip(arm.ttft.arrivals.tolist(), arm.ttft.values.tolist(), strict=True)
        for i, (at, first) in enumerate(probed):
            own = arm.gaps.values[arm.gaps.arrivals == at]
            seen = replace(sample(at, name, first, Source.PROBE), gaps=GapSketch.of(own[own < math.inf].tolist()))
            samples.append(seen if i or not seen.failed else replace(seen, gaps=None))
        found.append(samples)
    observed = Observed(candidate=ArmSamples(found[0]), baseline=ArmSamples(found[1]), since=0.0, read_until=step.limit)
    return observed, arms


def sample(at: float, arm: ArmName, took: float, source: Source) -> Sample:
    failed = took == math.inf
    return Sample(
        at,
        arm,
        Outcome.FAILED if failed else Outcome.OK,
        1.0 if failed else took,
        None if failed else took,
        reason="503" if failed else "",
        source=source,
        resolution=0.001 if source is Source.GATEWAY_ACCESS_LOG else 0.0,
    )


METRIC_OF: dict[Name, GuardrailMetric] = {
    "errors": "errorRate",
    "whole": "endToEndLatencyP99",
    "ttft": "ttftP99",
    "gaps": "interTokenLatencyP99",
}


@pytest.mark.parametrize("window", [Window(0.0, 600.0), Window(0.0, 130.0), Window(480.0, 600.0)])
@pytest.mark.parametrize("name", BOUNDS)
def test_the_simulation_counts_like_the_verdict(name: Name, window: Window) -> None:
    rollout = Rollout(UNSTEADY.failing(0.02), UNSTEADY, rate=40.0, probe=Probe(2.0, 8))
    observed, arms = samples_of(rollout, 11, Step(0.3, 600.0, 600.0))
    found = Gathered(observed, list(Source)).pair(METRICS[METRIC_OF[name]], window, relative=True)
    simulated = pair_of(arms, name, window)
    assert isinstance(found, tuple) and simulated is not None
    real = found[0]
    if isinstance(simulated, TimePair) and isinstance(real, TimePair):
        for mine, theirs in ((simulated.candidate, real.candidate), (simulated.baseline, real.baseline)):
            assert mine is not None and theirs is not None and mine.n == theirs.n
            assert mine.quantile(0.99, high=False) == pytest.approx(theirs.quantile(0.99, high=False))
    assert [(one.candidate, one.baseline, one.freedom) for one in simulated.dispersions] == [
        pytest.approx((one.candidate, one.baseline, one.freedom)) for one in real.dispersions
    ]
    bound: Bound = ShareRegression(0.01) if name == "errors" else QuantileRegression(1.1, 0.99)
    for scale in (INDEPENDENT, (1.5, 1.2)):
        assert bound.held(simulated, scale) == pytest.approx(bound.held(real, scale), abs=1e-6)
        assert bound.broken(simulated, scale) == pytest.approx(bound.broken(real, scale), abs=1e-6)


def test_the_page_s_tables_are_what_the_results_give() -> None:
    text = verdict_table.PAGE.read_text(encoding="utf-8")
    assert verdict_table.page(text, verdict_table.tables(RESULTS)) == text
