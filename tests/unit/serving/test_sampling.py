"""Sampling, checked against its definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import toy

made = toy.stack()
sampling = made.sampling
V = toy.VOCAB


def params(**values: Any) -> Any:
    return sampling.SamplingParams(**{"max_tokens": 50, "temperature": 1.0, **values})


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, V).astype(np.float32)


def frequencies(row: np.ndarray, wishes: Any, draws: int = 4000) -> np.ndarray:
    counts = np.zeros(len(row))
    for i in range(draws):
        counts[sampling.draw(row, wishes, (i + 0.5) / draws)] += 1
    return counts / draws


def test_a_draw_follows_the_softmax() -> None:
    row = np.array([0.0, 1.0, 2.0, -1.0], dtype=np.float32)
    for temperature in (0.5, 1.0, 2.0):
        expected = np.exp(row / temperature) / np.exp(row / temperature).sum()
        assert np.allclose(frequencies(row, params(temperature=temperature)), expected, atol=1e-3)


def test_top_p_keeps_the_token_that_crosses() -> None:
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    kept = lambda **w: set(np.flatnonzero(frequencies(row, params(**w), 500)))  # noqa: E731
    assert kept(top_k=2) == {0, 1}
    assert kept(top_p=0.4) == {0}
    assert kept(top_p=0.41) == {0, 1}
    assert kept(top_p=1e-9) == {0}
    assert kept(min_p=0.49) == {0, 1, 2}
    assert kept(min_p=0.6) == {0, 1}


def test_tokens_as_likely_as_the_last_one_kept_stay_too() -> None:
    kept = lambda row, **w: set(np.flatnonzero(frequencies(row, params(**w), 500)))  # noqa: E731
    tied = np.zeros(4, dtype=np.float32)
    for wish in ({"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.5}):
        assert kept(tied, **wish) == {0, 1, 2, 3}
    row = np.log(np.array([0.2, 0.4, 0.2, 0.04, 0.16], dtype=np.float32))
    assert kept(row, top_p=0.39) == {1}
    assert kept(row, top_p=0.41) == kept(row, top_p=0.61) == kept(row, top_p=0.79) == {0, 1, 2}
    assert kept(row, top_p=0.81) == {0, 1, 2, 4}
    assert kept(row, top_k=3, top_p=0.51) == {0, 1, 2}  # half of 0.8 is what 1 has: the cut is behind it
    assert kept(row, top_k=3, top_p=0.49) == {1}
    # A temperature so high that all weights are equal does not make logits equal.
    assert kept(np.array([1, 2, 3], dtype=np.float32), top_k=2, temperature=1e20) == {1, 2}
    assert kept(np.array([1, 2, 3], dtype=np.float32), top_p=0.5, temperature=1e20) == {1, 2}


def test_masked_tokens_are_never_drawn_and_an_infinite_logit_always() -> None:
    row = np.array([-np.inf, 1.0, -np.inf, 0.0, -np.inf], dtype=np.float32)
    for number in (0.0, 0.5, 1 - 2.0**-53):
        for wish in ({}, {"top_k": 4}, {"top_p": 0.99}):
            assert sampling.draw(row, params(**wish), number) in (1, 3)
        assert sampling.draw(np.full(3, -np.inf, np.float32), params(), number) == 0
        assert sampling.draw(np.array([1, np.inf, np.inf], np.float32), params(), number) == 1


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), top_k=st.integers(0, V + 5), top_p=st.floats(0.01, 1), min_p=st.floats(0, 1))
def test_every_filter_leaves_a_likely_token(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    row = logits(seed)
    token = sampling.draw(row, params(top_k=top_k, top_p=top_p, min_p=min_p), (seed % 997) / 997)
    rank = int((row > row[token]).sum())
    assert top_k == 0 or rank < top_k
    probability = np.exp(row[token] - row.max())
    assert probability >= min_p * 0.999


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6))
def test_the_number_of_a_position_is_fixed_and_in_range(seed: int, index: int) -> None:
    number = sampling.uniform(seed, index)
    assert 0.0 <= number < 1.0
    assert number == sampling.uniform(seed, index)
    assert number != sampling.uniform(seed, index + 1)


def test_the_numbers_are_uniform_over_positions_and_over_seeds() -> None:
    for numbers in ([sampling.uniform(5, i) for i in range(4000)], [sampling.uniform(s, 0) for s in range(4000)]):
        counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
        assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-squared, 19 degrees of freedom: p < 1e-4


def test_penalties_are_those_of_vllm() -> None:
    row = logits(1)
    wishes = params(temperature=0.0, repetition_penalty=1.5, frequency_penalty=0.25, presence_penalty=0.5)
    sampler = sampling.Sampler(wishes, [7, 8])
    for token in (9, 9, 10):
        sampler.accept(token)
    got = sampler._process(row, 3)
    expected = row.astype(np.float64)
    for token in (7, 8, 9, 10):
        expected[token] = expected[token] / 1.5 if expected[token] > 0 else expected[token] * 1.5
    for token, count in ((9, 2), (10, 1)):
        expected[token] -= 0.25 * count + 0.5
    assert np.allclose(got, expected, atol=1e-5)
    assert np.array_equal(row, logits(1)), "the decoder's row is left alone"


def test_bias_and_min_tokens() -> None:
    row = logits(2)
    biased = sampling.Sampler(params(temperature=0.0, logit_bias={3: 100.0}), [])
    assert biased.choose(row, 0) == 3
    row[toy.EOS] = 50
    waits = sampling.Sampler(params(temperature=0.0, min_tokens=2, stop_token_ids=frozenset({5})), [])
    row[5] = 49
    assert waits.choose(row, 1) not in (toy.EOS, 5)
    assert waits.choose(row, 2) == toy.EOS


def test_logprobs_are_normalised_and_ordered() -> None:
    row = logits(3)
    best, worst = int(row.argmax()), int(row.argmin())
    entry = sampling.token_logprobs(row, best, V)
    assert (entry.token, entry.logprob) == entry.top[0]
    assert np.isclose(sum(np.exp(value) for _, value in entry.top), 1.0)
    assert [value for _, value in entry.top] == sorted((value for _, value in entry.top), reverse=True)
    assert sampling.token_logprobs(row, worst, 0) == (worst, pytest.approx(entry.top[-1][1]), ())


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    size=st.sampled_from([1, 19, 64, 500, 1279, 1280, 8192, 151_936]),
    count=st.integers(0, 20),
    scale=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    shift=st.sampled_from([0.0, -500.0, 1000.0]),
    ties=st.booleans(),
)
def test_logprobs_are_those_of_the_definition(
    seed: int, size: int, count: int, scale: float, shift: float, ties: bool
) -> None:
    numbers = np.random.default_rng(seed)
    row = (numbers.normal(shift, scale, size)).astype(np.float32)
    if ties:  # as bf16 logits have them
        row = (row.view(np.uint32) & 0xFFFF0000).view(np.float32)
    wide = row.astype(np.float64)
    exact = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    token = int(numbers.integers(size))
    entry = sampling.token_logprobs(row, token, count)
    assert abs(entry.logprob - exact[token]) < 1e-6
    order = np.argsort(-row, kind="stable")[:count]
    assert [found for found, _ in entry.top] == order.tolist()
    np.testing.assert_allclose([value for _, value in entry.top], exact[order], rtol=0, atol=1e-6)


def test_greedy_without_wishes_needs_no_logits() -> None:
    assert not params(temperature=0.0).needs_logits
    assert not params(temperature=0.0, ignore_eos=True, stop=("x",)).needs_logits
    for wish in ({"temperature": 1.0}, {"logprobs": 0}, {"min_tokens": 1}, {"logit_bias": {1: 1.0}}):
        assert params(**{"temperature": 0.0, **wish}).needs_logits
