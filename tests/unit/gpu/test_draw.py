"""Sampling on the device: Triton's kernel, its reference and `sampling.draw`, each against the definition.

A number that lies within 1e-6 of a boundary between two tokens may draw either: the kernel's weights are float32.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sartor_skills.blocks.cuda_kernels import kernels_on
from torch import Tensor

from sartor_skills.blocks import kernels_draw, kernels_reference, sampling

from .conftest import DEVICE, ON_GPU

EXAMPLES = settings(max_examples=60 if ON_GPU else 12, deadline=None)
NEAR = 1e-6
BOTH = pytest.mark.parametrize("kernels", [kernels_draw, kernels_reference], ids=["triton", "reference"])


class Wish(NamedTuple):
    """What one row wants; the defaults change nothing of the softmax."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    number: float = 0.5


def wishes_of(rows: list[Wish]) -> Tensor:
    """float32 [6, R], as the kernels take them."""
    numbers = np.array([row.number for row in rows])
    coarse = numbers.astype(np.float32)
    fine = (numbers - coarse).astype(np.float32)
    made = np.array([row[:4] for row in rows], np.float32).T
    return torch.from_numpy(np.concatenate([made, coarse[None], fine[None]])).to(DEVICE)


def as_sent(row: Wish) -> Wish:
    """The same after rounding to what a kernel is told."""
    temperature, top_k, top_p, min_p, coarse, fine = wishes_of([row]).double()[:, 0].tolist()
    return Wish(temperature, int(top_k), top_p, min_p, coarse + fine)


def drawn(kernels: Any, logits: NDArray[np.float32], rows: list[Wish]) -> list[int]:
    given_ = torch.from_numpy(logits).to(DEVICE)
    chosen = kernels_reference.choose(given_)
    kernels.draw(given_, chosen, wishes_of(rows))
    return chosen.tolist()


class Definition(NamedTuple):
    """The tokens of a row that may be drawn, in their order, and where the share of each ends; how far, relative to the
    whole, the weight before any token is from where top_p cuts."""

    tokens: list[int]
    ends: NDArray[np.float64]
    doubt: float

    def near(self, number: float) -> set[int]:
        """The tokens that a number within 1e-6 of this one draws."""
        first = int(np.searchsorted(self.ends, number - NEAR, side="right"))
        last = int(np.searchsorted(self.ends, number + NEAR, side="right"))
        return {self.tokens[min(index, len(self.tokens) - 1)] for index in range(first, last + 1)}


def definition(logits: NDArray[np.float32], wish: Wish) -> Definition:
    """By going down through the distinct logits, as the papers and vLLM's documentation word it."""
    wide = logits.astype(np.float64)
    weights = np.exp((wide - wide.max()) / wish.temperature)
    levels = sorted({float(x) for x in logits if x > -np.inf}, reverse=True)
    levels = [level for level in levels if np.exp((level - levels[0]) / wish.temperature) >= wish.min_p]
    if wish.top_k:
        levels = [level for level in levels if (wide > level).sum() < wish.top_k]
    shares = np.array([weights[wide == level].sum() for level in levels])
    before = (np.cumsum(shares) - shares) / shares.sum()
    doubt = float(np.abs(before[1:] - wish.top_p).min()) if wish.top_p < 1 and len(levels) > 1 else 1.0
    if wish.top_p < 1:
        levels = [level for level, less in zip(levels, before, strict=True) if less < wish.top_p or level == levels[0]]
    tokens = [int(token) for token in np.flatnonzero(wide >= levels[-1])]
    ends = np.cumsum(weights[tokens])
    return Definition(tokens, ends / ends[-1], doubt)


def rows_of_logits(seed: int, rows: int, vocabulary: int, scale: float, kind: str) -> NDArray[np.float32]:
    made = np.random.default_rng(seed)
    logits = made.normal(made.choice([-300.0, 0.0, 20.0]), scale, (rows, vocabulary)).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)  # among them zeros of both signs
    if kind == "bfloat16":
        logits = (logits.view(np.uint32) & 0xFFFF0000).view(np.float32)
    if kind == "masked":
        mask = made.random(logits.shape) < 0.7
        mask[np.arange(rows), made.integers(0, vocabulary, rows)] = False
        logits[mask] = -np.inf
    return logits


numbers = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]))
wish_lists = st.lists(
    st.builds(
        Wish,
        temperature=st.sampled_from([1e-5, 0.1, 0.7, 1.0, 1.3, 5.0, 1e4]),
        top_k=st.sampled_from([0, 0, 1, 2, 20, 500, 5000]),
        top_p=st.one_of(st.just(1.0), st.floats(0.01, 1.0), st.sampled_from([1e-6, 0.95, 0.999999])),
        min_p=st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0]),
        number=numbers,
    ),
    min_size=1,
    max_size=3,
)
logits_of = {
    "seed": st.integers(0, 2**31),
    "scale": st.sampled_from([0.01, 1.0, 4.0, 40.0]),
    "kind": st.sampled_from(["plain", "ties", "bfloat16", "masked"]),
}


def check(kernels: Any, logits: NDArray[np.float32], rows: list[Wish]) -> None:
    for logit, wish, token in zip(logits, rows, drawn(kernels, logits, rows), strict=True):
        sent = as_sent(wish)
        found = definition(logit, sent)
        if found.doubt > NEAR:  # else either may be the cut
            assert token in found.near(sent.number), (sent, found.tokens[:20], found.ends[:20])


@EXAMPLES
@given(rows=wish_lists, vocabulary=st.sampled_from([1, 2, 7, 64, 1000, 2049, 4500]), **logits_of)
def test_the_kernel_draws_what_the_definition_says(
    rows: list[Wish], vocabulary: int, seed: int, scale: float, kind: str
) -> None:
    check(kernels_draw, rows_of_logits(seed, len(rows), vocabulary, scale, kind), rows)


@settings(max_examples=200, deadline=None)
@given(rows=wish_lists, vocabulary=st.integers(1, 3000), **logits_of)
def test_so_does_the_reference(rows: list[Wish], vocabulary: int, seed: int, scale: float, kind: str) -> None:
    check(kernels_reference, rows_of_logits(seed, len(rows), vocabulary, scale, kind), rows)


@settings(max_examples=200, deadline=None)
@given(rows=wish_lists, vocabulary=st.integers(1, 3000), **logits_of)
def test_and_so_does_the_host(rows: list[Wish], vocabulary: int, seed: int, scale: float, kind: str) -> None:
    logits = rows_of_logits(seed, len(rows), vocabulary, scale, kind)
    for logit, wish in zip(logits, map(as_sent, rows), strict=True):
        found = definition(logit, wish)
        if found.doubt > NEAR:
            assert on_host(logit, wish) in found.near(wish.number)


def on_host(logit: NDArray[np.float32], wish: Wish) -> int:
    temperature, top_k, top_p, min_p, number = wish
    params = sampling.SamplingParams(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return sampling.draw(logit, params, number)


def test_device_and_host_hardly_ever_differ() -> None:
    """Of 400 draws as requests have them none that is not within 1e-6 of a boundary, and few are."""
    made = np.random.default_rng(8)
    doubtful = 0
    for _ in range(20):
        logits = rows_of_logits(int(made.integers(1 << 30)), 20, 2000, 4.0, "plain")
        rows = [
            as_sent(Wish(*made.choice([[0.7, 0], [1.0, 40]]), made.choice([0.9, 1.0]), 0.01, n))
            for n in made.random(20)
        ]
        rows = [row._replace(top_k=int(row.top_k)) for row in rows]
        for logit, wish, token in zip(logits, rows, drawn(kernels_reference, logits, rows), strict=True):
            found = definition(logit, wish)
            if found.doubt < NEAR or len(found.near(wish.number)) > 1:
                doubtful += 1
            else:
                assert token == on_host(logit, wish)
    assert doubtful <= 4


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [128_256, 151_936])
def test_real_vocabularies(vocabulary: int) -> None:
    logits = rows_of_logits(vocabulary, 3, vocabulary, 4.0, "bfloat16")
    check(kernels_draw, logits, [Wish(0.8, 0, 0.95, 0.0, 0.3), Wish(1.2, 50, 0.9, 0.01, 0.999), Wish(1.0, number=0.7)])


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_boundaries_of_a_flat_distribution_lie_where_they_should(temperature: float) -> None:
    """Many small weights, where float32 sums would go astray: the numbers lie 1e-6 off the boundary on each side."""
    logits = np.random.default_rng(3).normal(0, 0.5, (1, 30_000)).astype(np.float32)
    logits[0, 20_000] = 15.0 * temperature  # a share so wide that its ends are no other token's
    found = definition(logits[0], Wish(temperature))
    first, last = found.ends[19_999], found.ends[20_000]
    assert last - first > 0.5
    rows = [Wish(temperature, number=n) for n in (first - NEAR, first + NEAR, last - NEAR, last + NEAR)]
    tokens = drawn(kernels_draw, np.repeat(logits, 4, 0), rows)
    assert tokens[0] < 20_000 and tokens[1:3] == [20_000, 20_000] and tokens[3] > 20_000


@BOTH
def test_a_cut_through_many_tokens_that_are_nearly_alike(kernels: Any) -> None:
    """A threshold that is a token off, or a share, moves where every number falls."""
    logits = np.random.default_rng(6).normal(1, 0.3, (4, 2500)).astype(np.float32)
    wishes = [Wish(top_k=20), Wish(top_p=0.3), Wish(0.8, 700, 0.6, 0.2), Wish(1.1, min_p=0.4)]
    check(kernels, logits, [wish._replace(number=0.7) for wish in wishes])


@BOTH
def test_who_is_greedy_or_has_no_distribution_keeps_what_was_chosen(kernels: Any) -> None:
    logits = np.random.default_rng(0).normal(0, 1, (6, 100)).astype(np.float32)
    logits[2, 50] = np.nan
    logits[3] = -np.inf
    logits[4, [7, 9]] = np.inf
    rows = [Wish(0.0, number=0.99), Wish(-1.0, number=0.99), *[Wish(9.0, 0, 0.9, 0.0, 0.99)] * 4]
    tokens = drawn(kernels, logits, rows)
    assert tokens[:5] == [int(logits[0].argmax()), int(logits[1].argmax()), -1, 0, 7]
    assert tokens[5] != int(logits[5].argmax())  # and who samples does not


@BOTH
def test_the_first_and_the_last_number_draw_the_first_and_the_last_kept_token(kernels: Any) -> None:
    logits = np.full((1, 4500), -np.inf, np.float32)
    logits[0, [100, 2500, 4000]] = [1.0, 2.0, 1.5]
    logits[0, [3, 4200]] = -8.0  # there, but cut off
    cut = Wish(top_p=0.99, min_p=0.01)
    ends = [0.0, 2.0**-60, 1 - 2.0**-53, 1.0]  # the last, as if rounding had made it so
    rows = [wish._replace(number=number) for wish in (cut, cut._replace(top_k=2)) for number in ends]
    tokens = drawn(kernels, np.repeat(logits, len(rows), 0), rows)
    assert tokens == [100, 100, 4000, 4000, 2500, 2500, 4000, 4000]


@BOTH
def test_equal_logits_stay_or_go_together(kernels: Any) -> None:
    row = np.log(np.array([0.4, 0.2, 0.2, 0.2], np.float32))
    zeros = np.array([0.0, -0.0, -1.0, -0.0], np.float32)
    spread = np.arange(0.1, 1, 0.2)

    def kept(logit: NDArray[np.float32], **wish: Any) -> set[int]:
        rows = [Wish(number=number, **wish) for number in spread]
        return set(drawn(kernels, np.repeat(logit[None], len(rows), 0), rows))

    assert kept(row, top_p=0.39) == {0}
    assert kept(row, top_p=0.41) == {0, 1, 2, 3}
    assert kept(row, top_k=2) == {0, 1, 2, 3}
    assert kept(zeros, top_k=1) == {0, 1, 3}
    assert kept(zeros, top_p=0.1) == {0, 1, 3}


@BOTH
def test_draws_follow_the_filtered_softmax(kernels: Any) -> None:
    logits = np.log(np.array([0.3, 0.02, 0.25, 0.2, 0.03, 0.2], np.float32))
    draws = 3000 if ON_GPU or kernels is kernels_reference else 100
    rows = [Wish(min_p=0.2, number=sampling.uniform(5, index)) for index in range(draws)]
    counts = np.bincount(drawn(kernels, np.repeat(logits[None], draws, 0), rows), minlength=6)
    assert counts[1] == counts[4] == 0
    expected = draws * np.array([0.3, 0.25, 0.2, 0.2]) / 0.95
    assert ((counts[[0, 2, 3, 5]] - expected) ** 2 / expected).sum() < 21.1  # 3 degrees of freedom: p < 1e-4


def test_a_row_has_the_same_token_whatever_is_sampled_beside_it() -> None:
    """Also where rows lie apart in memory, with something else between them."""
    logits = rows_of_logits(4, 5, 2500, 3.0, "plain")
    wide = np.full((5, 2600), np.nan, np.float32)
    wide[:, :2500] = logits
    ends = definition(logits[1], as_sent(Wish(0.9, 0, 0.9))).ends
    rows = [
        Wish(1.0, 30, 0.8, 0.0, 0.4), Wish(0.9, 0, 0.9, 0.0, float(ends[40])), Wish(0.0), Wish(2.0, number=0.999),
        Wish(1.0, 0, 0.3, 0.1, 0.2),
    ]  # fmt: skip
    together = drawn(kernels_draw, logits, rows)
    assert together == [drawn(kernels_draw, logits[row : row + 1], rows[row : row + 1])[0] for row in range(5)]
    assert together[::-1] == drawn(kernels_draw, logits[::-1].copy(), rows[::-1])
    apart = torch.from_numpy(wide).to(DEVICE)[:, :2500]
    chosen = kernels_reference.choose(apart)
    room = torch.full((9, 13), float("nan"), device=DEVICE)
    room[:5, :12:2] = wishes_of(rows).T
    kernels_draw.draw(apart, chosen, room[:5, :12:2].T)
    assert chosen.tolist() == together


@pytest.mark.skipif(ON_GPU, reason="counts what the interpreter reads")
@pytest.mark.parametrize(
    ("wish", "most"),
    [
        (Wish(0.0, 5, 0.9), 0),
        (Wish(0.8), 1),
        (Wish(0.8, min_p=0.1), 1),
        (Wish(0.8, top_k=3), 1 + 12),
        (Wish(0.8, top_p=0.9), 2 + 12),
        (Wish(0.8, top_k=3000, top_p=1.0), 1),
    ],
)
def test_a_row_is_read_about_a_dozen_times_at_most(wish: Wish, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = rows_of_logits(1, 1, 3000, 4.0, "plain")
    stretches = 2
    read: list[int] = []
    load = kernels_draw._load

    def counted(source: Any, part: Any, vocabulary: Any, block: Any) -> Any:
        read.append(1)
        return load(source, part, vocabulary, block)

    monkeypatch.setattr(kernels_draw, "_load", counted)
    drawn(kernels_draw, logits, [wish])
    # The last stretch that is read is where the token is.
    assert len(read) <= stretches * most + (most > 0)
    assert (len(read) > 0) == (most > 0)


def test_every_device_has_it() -> None:
    assert kernels_on(torch.device("cpu")).draw is kernels_reference.draw
    assert kernels_on(torch.device("cuda")).draw is kernels_draw.draw
