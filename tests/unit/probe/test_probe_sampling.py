"""A share of the requests, by their id."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.probe.sampling import chosen


def never() -> float:
    raise AssertionError("a request with an id needs no chance")


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_request_of_a_small_share_is_in_every_greater_one(name: str, a: float, b: float) -> None:
    small, great = sorted((a, b))
    assert chosen(name, small, never) <= chosen(name, great, never)
    assert chosen(name, 1.0, never)
    assert not chosen(name, 0.0, never)


def test_the_share_is_kept() -> None:
    draw = random.Random(1).random
    numbered = sum(chosen(f"id-{i}", 0.05, never) for i in range(20_000))
    nameless = sum(chosen("", 0.05, draw) for _ in range(20_000))
    # 1,000 expected, standard deviation 31; a share taken as per cent, or a hash of few bits, is far off.
    assert 860 < numbered < 1140
    assert 860 < nameless < 1140


def test_without_an_id_chance_decides() -> None:
    assert chosen("", 0.5, lambda: 0.49)
    assert not chosen("", 0.5, lambda: 0.5)
