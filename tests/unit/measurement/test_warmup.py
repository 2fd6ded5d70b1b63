"""A slow start is found and cut off; noise alone is left alone."""

import numpy as np

from sartor_agents.measurement.warmup import settle, token_rate_series


def test_noise_without_a_transient_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    results = [settle(list(rng.normal(1, 0.3, 120))) for _ in range(400)]
    assert np.mean([r.cut > 0 for r in results]) < 0.05
    assert np.mean([not r.over for r in results]) < 0.01


def test_a_slow_start_is_cut_off() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        result = settle(list(np.concatenate([rng.normal(0.5, 0.1, 40), rng.normal(1, 0.1, 80)])))
        assert result.over and 20 <= result.cut <= 60


def test_a_rate_that_never_stops_rising_is_not_settled() -> None:
    rng = np.random.default_rng(2)
    results = [settle(list(np.linspace(0.3, 1, 120) + rng.normal(0, 0.1, 120))) for _ in range(50)]
    assert np.mean([not r.over for r in results]) > 0.9


def test_a_fast_start_is_no_warm_up() -> None:
    rng = np.random.default_rng(3)
    assert settle(list(np.concatenate([rng.normal(1.5, 0.1, 40), rng.normal(1, 0.1, 80)]))).cut == 0


def test_seconds_per_token_are_read_as_negative_rates() -> None:
    rng = np.random.default_rng(4)
    gaps = np.concatenate([rng.normal(0.02, 0.001, 40), rng.normal(0.01, 0.001, 80)])
    result = settle([-gap for gap in gaps])
    assert result.over and result.cut > 0


def test_too_little_data_never_counts_as_settled() -> None:
    assert not settle([1.0] * 19).over
    assert settle([1.0] * 20).over


def test_the_series_holds_every_token_of_the_window() -> None:
    arrivals = [(0.5, 3), (1.0, 2), (1.9, 5), (2.5, 7)]
    assert token_rate_series(arrivals, 1.0, 2.0, 4) == [2, 0, 0, 5]
