"""A slow start is found and cut off; noise alone is left alone."""

import numpy as np
import pytest

from sartor_agents.measurement.warmup import WarmUp, settle, token_rate_series, usual_lump


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


def window(seconds: float, steps: float, tokens: int, rng: np.random.Generator, *, slow_until: float = 0.0) -> WarmUp:
    """A window of a server that writes `tokens` at each of `steps` per second, half as often until `slow_until`."""
    arrivals: list[tuple[float, int]] = []
    at = -rng.random() / steps
    while at < seconds:
        arrivals.append((at, tokens))
        at += (2 if at < slow_until else 1) / steps * (1 + 0.03 * rng.standard_normal())
    series = token_rate_series(arrivals, 0.0, seconds, 120)
    return settle(series, lump=usual_lump(series))


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 10.0])
@pytest.mark.parametrize(("steps", "tokens"), [(30, 1), (200, 1), (80, 16), (16, 1), (30, 17), (2000, 1)])
def test_short_windows_of_tokens_in_lumps_are_no_slow_start(seconds: float, steps: float, tokens: int) -> None:
    rng = np.random.default_rng(5)
    results = [window(seconds, steps, tokens, rng) for _ in range(100)]
    assert np.mean([r.cut > 0 for r in results]) <= 0.05
    assert np.mean([not r.over for r in results]) <= 0.01


@pytest.mark.parametrize(("seconds", "steps", "tokens"), [(1.5, 200, 1), (3.0, 80, 16), (3.0, 30, 1), (10.0, 16, 1)])
def test_a_slow_third_of_a_short_window_is_found(seconds: float, steps: float, tokens: int) -> None:
    rng = np.random.default_rng(6)
    results = [window(seconds, steps, tokens, rng, slow_until=seconds / 3) for _ in range(50)]
    assert np.mean([r.cut > 0 for r in results]) > 0.9
