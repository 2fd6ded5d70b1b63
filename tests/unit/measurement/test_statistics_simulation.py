"""The simulated noise does what it says, and a simulated measurement ends where the evaluator's own rule ends it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.support import noise as n
from benchmarks.support.trials import Setting, generator, outcome, trials

from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sequential import StopRule

PLAN = n.Plan(scored=2.0, idle=2.0)
STEADY = n.Noise("steady")
FLIPS = n.Noise("steady", mode_seconds=30.0)
POLICY = MeasurementPolicy(replicates_max=60)


@pytest.fixture(autouse=True)
def _steady(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """A recording of a machine without any noise."""
    recording = {"tokens": [100.0] * 400, "pairs": [{"pair_seconds": 8.0, "logs": [0.0, 0.0]}]}
    monkeypatch.setattr(n, "recorded", lambda: {"steady": recording})


def test_without_noise_every_pair_is_the_true_ratio() -> None:
    logs = n.pairs(STEADY, PLAN, 30, 4, generator("a", 0), effect=math.log(1.5))
    assert logs.shape == (4, 30) and np.allclose(logs, math.log(1.5))


def test_a_flip_between_two_windows_moves_a_pair_by_the_factor_of_the_modes() -> None:
    logs = n.pairs(FLIPS, PLAN, 100, 50, generator("b", 0))
    assert np.abs(logs).max() == pytest.approx(math.log(1.5), abs=1e-6)
    # A pair is touched when a flip comes within its 6 s from the one window's start to the other's end.
    assert 0.12 < (np.abs(logs) > 1e-6).mean() < 1 - math.exp(-6 / 30) + 0.02
    assert abs(float(np.mean(logs))) < 0.01


def test_a_mode_that_only_one_arm_feels_changes_the_ratio_to_its_mean() -> None:
    setting = Setting(POLICY, PLAN, FLIPS, 2.0, feels=(1.0, 0.0))
    logs = n.pairs(FLIPS, PLAN, 200, 100, generator("c", 0), effect=math.log(2.0), feels=(1.0, 0.0))
    assert setting.truth == pytest.approx(2 / math.sqrt(1.5))
    assert float(logs.mean()) == pytest.approx(math.log(setting.truth), abs=0.02)


def test_bursts_take_their_share() -> None:
    bursts = n.Noise("steady", burst_every=20.0, burst_seconds=2.0, depth=0.5)
    speed, mode = n.machine_speed(bursts, 600.0, 50, generator("d", 0))
    assert set(np.unique(speed)) == {0.5, 1.0} and not mode.any()
    assert float((speed < 1).mean()) == pytest.approx(2 / 22, abs=0.02)


def test_a_trial_ends_where_the_stopping_rule_ends_it_and_is_the_same_again() -> None:
    setting = Setting(POLICY, PLAN, FLIPS, 1.3)
    first, again = (trials(setting, 5, generator("e", 1)) for _ in range(2))
    assert first == again
    logs = list(np.random.default_rng(1).normal(0.3, 0.05, 60))
    ended, rule = outcome(setting, np.asarray(logs)), StopRule(POLICY)
    conclusion = rule.look(logs[: ended.n])
    assert conclusion is not None and conclusion.stop == ended.stop
    assert (ended.low, ended.high) == (conclusion.interval.low, conclusion.interval.high)
    earlier = [rule.look(logs[: look.n]) for look in rule.looks if look.n < ended.n]
    assert all(one is not None and one.stop is None for one in earlier)
