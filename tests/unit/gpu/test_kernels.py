"""Every Triton kernel against its PyTorch reference, over shapes and number formats."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sartor_skills.blocks import kernels_attention, kernels_choice, kernels_reference, kernels_rows

from .conftest import DEVICE, ON_GPU

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# The interpreter takes milliseconds for a program; a GPU does not mind more and larger shapes.
EXAMPLES = settings(max_examples=60 if ON_GPU else 12, deadline=None)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31)
rows_counts = st.integers(1, 7)


def random(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Tensor, expected: Tensor, *, steps: float = 4) -> None:
    """Equal up to `steps` roundings of the number format, relative to the largest number."""
    scale = float(expected.float().abs().max()) + 1e-6
    allowed = steps * torch.finfo(expected.dtype).eps * scale + (1e-5 * scale if expected.dtype == torch.float32 else 0)
    assert found.dtype == expected.dtype
    assert float((found.float() - expected.float()).abs().max()) <= allowed


@EXAMPLES
@given(seed=seeds, rows=rows_counts, width=st.integers(1, 150), dtype=dtypes, adds=st.booleans())
def test_residual_and_norm(seed: int, rows: int, width: int, dtype: torch.dtype, adds: bool) -> None:
    made = generator(seed)
    residual, weight = random(made, rows, width), random(made, width)
    delta = random(made, rows, width, dtype=dtype) if adds else None
    other = residual.clone()
    found = kernels_rows.add_rms_norm(residual, delta, weight, 1e-5, dtype)
    expected = kernels_reference.add_rms_norm(other, delta, weight, 1e-5, dtype)
    close(found, expected)
    assert torch.equal(residual, other)


@EXAMPLES
@given(
    seed=seeds,
    rows=rows_counts,
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    half=st.sampled_from([1, 4, 12, 16, 33]),
    dtype=dtypes,
    normed=st.booleans(),
)
def test_rotary_embedding_and_cache(
    seed: int, rows: int, kv_heads: int, group: int, half: int, dtype: torch.dtype, normed: bool
) -> None:
    made = generator(seed)
    heads, slots = kv_heads * group, 40
    qkv = random(made, rows, (heads + 2 * kv_heads) * 2 * half, dtype=dtype)
    positions = torch.randint(0, 30, (rows,), generator=made, dtype=torch.int32).to(DEVICE)
    written = torch.randperm(slots, generator=made)[:rows].to(torch.int32).to(DEVICE)
    angles = random(made, 30, half)
    cosines, sines = angles.cos(), angles.sin()
    norms = (random(made, 2 * half), random(made, 2 * half)) if normed else None
    caches = [random(made, slots, kv_heads, 2 * half, dtype=dtype) for _ in range(2)]
    others = [cache.clone() for cache in caches]
    found = kernels_rows.rotate_and_store(qkv, positions, written, cosines, sines, *caches, norms, 1e-6)
    expected = kernels_reference.rotate_and_store(qkv, positions, written, cosines, sines, *others, norms, 1e-6)
    close(found, expected)
    close(caches[0], others[0])
    assert torch.equal(caches[1], others[1])


@EXAMPLES
@given(seed=seeds, rows=rows_counts, width=st.integers(1, 1500), dtype=dtypes)
def test_swiglu(seed: int, rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = random(generator(seed), rows, 2 * width, dtype=dtype) * 4
    close(kernels_rows.swiglu(gate_up), kernels_reference.swiglu(gate_up))


def paged(seed: int, segments: list[tuple[int, int]], shape: dict[str, Any]) -> dict[str, Any]:
    """A cache of random keys and values, and tiles for `segments` of (position of the first row, rows)."""
    made = generator(seed)
    dtype, kv_heads, head_dim, page = shape["dtype"], shape["kv_heads"], shape["head_dim"], shape["page_tokens"]
    pages = [-(-(start + rows) // page) for start, rows in segments]
    order = torch.randperm(sum(pages) + 1, generator=made).to(torch.int32)
    tables = torch.zeros((len(segments), max(pages)), dtype=torch.int32)
    taken = 0
    for table, count in zip(tables, pages, strict=True):
        table[:count] = order[taken : taken + count]
        taken += count
    tiles: list[tuple[int, int, int, int]] = []
    first = 0
    for index, (start, rows) in enumerate(segments):
        cuts = range(0, rows, shape["tile_rows"])
        tiles += [(first + done, min(rows - done, shape["tile_rows"]), index, start + done) for done in cuts]
        first += rows
    tiles.append((0, 0, 0, 0))  # an empty one, as graphs have them
    slots = (sum(pages) + 1) * page
    return {
        "q": random(made, first, kv_heads * shape["group"], head_dim, dtype=dtype),
        "keys": random(made, slots, kv_heads, head_dim, dtype=dtype),
        "values": random(made, slots, kv_heads, head_dim, dtype=dtype),
        "tiles": torch.tensor(tiles, dtype=torch.int32).T.contiguous().to(DEVICE),
        "tables": tables.to(DEVICE),
    }


shapes = st.fixed_dictionaries(
    {
        "dtype": dtypes,
        "kv_heads": st.integers(1, 2),
        "group": st.sampled_from([1, 3, 4, 8]),
        "head_dim": st.sampled_from([8, 24, 64]),
        "page_tokens": st.sampled_from([16, 32]),
        "tile_rows": st.sampled_from([1, 2, 8]),
    }
)
segment_lists = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)), min_size=1, max_size=3)


@EXAMPLES
@given(
    seed=seeds,
    shape=shapes,
    segments=segment_lists,
    splits=st.sampled_from([1, 2, 4]),
    block_tokens=st.sampled_from([16, 32]),
)
def test_attention_over_pages(
    seed: int, shape: dict[str, Any], segments: list[tuple[int, int]], splits: int, block_tokens: int
) -> None:
    made = paged(seed, segments, shape)
    found, expected = torch.zeros_like(made["q"]), torch.zeros_like(made["q"])
    division = {"tile_rows": shape["tile_rows"], "splits": splits, "block_tokens": block_tokens}
    kernels_attention.attend(**made, out=found, page_tokens=shape["page_tokens"], **division)
    kernels_reference.attend(**made, out=expected, page_tokens=shape["page_tokens"], **division)
    close(found, expected, steps=8)


@pytest.mark.usefixtures("products_by_row")
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_has_the_same_bits_whatever_is_verified_beside_it(dtype: torch.dtype, splits: int) -> None:
    """What lossless speculation and batching rest on: row 3 of a draft is row 3 decoded alone."""
    shape = {"dtype": dtype, "kv_heads": 2, "group": 4, "head_dim": 32, "page_tokens": 16, "tile_rows": 8}
    both = paged(5, [(70, 12), (9, 1)], shape)
    settings_ = {"page_tokens": 16, "tile_rows": 8, "splits": splits, "block_tokens": 16}
    together = torch.zeros_like(both["q"])
    kernels_attention.attend(**both, out=together, **settings_)
    for row in range(13):
        sequence, position = (0, 70 + row) if row < 12 else (1, 9)
        alone = torch.zeros_like(both["q"])
        tile = torch.tensor([[row], [1], [sequence], [position]], dtype=torch.int32, device=DEVICE)
        kernels_attention.attend(**{**both, "tiles": tile}, out=alone, **settings_)
        assert torch.equal(alone[row], together[row])


@EXAMPLES
@given(seed=seeds, rows=rows_counts, vocabulary=st.integers(1, 9000), dtype=dtypes, broken=st.booleans())
def test_choice_of_a_token(seed: int, rows: int, vocabulary: int, dtype: torch.dtype, broken: bool) -> None:
    made = generator(seed)
    logits = random(made, rows, vocabulary, dtype=dtype).round()  # many equal ones: the lowest token must win
    if broken:
        logits[seed % rows, seed % vocabulary] = float("nan")
    found = kernels_choice.choose(logits)
    expected = np.where(np.isnan(logits.float().cpu().numpy()).any(1), -1, logits.float().cpu().numpy().argmax(1))
    assert found.tolist() == expected.tolist()
    assert kernels_reference.choose(logits).tolist() == expected.tolist()


def test_a_row_without_a_finite_logit_has_a_choice() -> None:
    logits = torch.full((2, 5000), float("-inf"), device=DEVICE)
    logits[1, 4999] = 3.0
    assert kernels_choice.choose(logits).tolist() == [0, 4999]


@EXAMPLES
@given(seed=seeds, drafts=st.lists(st.integers(0, 20), min_size=1, max_size=4), right=st.floats(0.5, 1))
def test_accepted_part_of_a_draft(seed: int, drafts: list[int], right: float) -> None:
    made = np.random.default_rng(seed)
    rows = [draft + 1 for draft in drafts]
    tokens = made.integers(0, 50, sum(rows)).astype(np.int32)
    agrees = made.random(sum(rows)) < right
    chosen = np.where(agrees, np.roll(tokens, -1), 99).astype(np.int32)
    firsts = np.cumsum([0, *rows[:-1]])
    expected = []
    for first, draft in zip(firsts, drafts, strict=True):
        accepted = 0
        while accepted < draft and agrees[first + accepted]:
            accepted += 1
        expected.append(accepted)
    arguments = (
        torch.from_numpy(chosen).to(DEVICE),
        torch.from_numpy(tokens).to(DEVICE),
        torch.tensor(np.array([firsts, rows]), dtype=torch.int32, device=DEVICE),
    )
    behind = [int(chosen[first + accepted]) for first, accepted in zip(firsts, expected, strict=True)]
    assert kernels_choice.accept_drafts(*arguments).tolist() == [expected, behind]
    assert kernels_reference.accept_drafts(*arguments).tolist() == [expected, behind]


def test_no_rows_accept_nothing_and_a_row_without_a_number_is_where_a_draft_ends() -> None:
    tokens = torch.tensor([5, 6, 7, 8, 9], dtype=torch.int32, device=DEVICE)
    chosen = torch.tensor([6, 7, -1, 9, 3], dtype=torch.int32, device=DEVICE)
    segments = torch.tensor([[0, 0, 3, 0], [4, 0, 2, 1]], dtype=torch.int32, device=DEVICE)
    for kernels in (kernels_choice, kernels_reference):
        assert kernels.accept_drafts(chosen, tokens, segments).tolist() == [[2, 0, 1, 0], [-1, -1, 3, 6]]
