"""Weights in 8 bits: how far off they are, and the kernel that multiplies with them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sartor_skills.blocks.cuda_fp8 import LARGEST, linear, quantise, restore

from sartor_skills.blocks import cuda_fp8, kernels_fp8, kernels_reference

from .conftest import DEVICE

seeds = st.integers(0, 1 << 30)


def weights(seed: int, outer: int, inner: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    made = np.random.default_rng(seed)
    # Channels of very different sizes: one scale for all of them would lose the small ones.
    values = made.standard_normal((outer, inner)) * 10.0 ** made.uniform(-4, 2, (outer, 1))
    return torch.from_numpy(values.astype(np.float32)).to(dtype).to(DEVICE)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, outer=st.integers(1, 40), inner=st.integers(1, 90))
def test_a_weight_is_off_by_a_sixteenth_of_itself_at_most(seed: int, outer: int, inner: int) -> None:
    weight = weights(seed, outer, inner)
    made = quantise(weight)
    assert made.data.dtype == torch.float8_e4m3fn and made.scales.shape == (outer,)
    exact, near = weight.float(), restore(made, torch.float32)
    smallest = made.scales[:, None] * 2.0**-10
    assert bool(((near - exact).abs() <= torch.maximum(exact.abs() / 16, smallest) * 1.001).all())
    largest = exact.abs().amax(1)
    assert torch.allclose(near.abs().amax(1), largest, rtol=1e-5)  # the largest of each channel is exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_slices_of_a_matrix_are_restored_to_the_same_bits(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    made = quantise(weights(5, 10, 24))
    monkeypatch.setattr(cuda_fp8, "SLICE", 3)
    whole = (made.data.float() * made.scales[:, None]).to(dtype)
    assert torch.equal(restore(made, dtype), whole)


def test_a_channel_of_zeros_and_one_that_is_not_a_number() -> None:
    weight = torch.zeros(3, 16, device=DEVICE)
    weight[1, 2] = float("nan")
    weight[2, 3] = -LARGEST
    made = quantise(weight)
    near = restore(made, torch.float32)
    assert bool((near[0] == 0).all()) and bool(near[1].isnan().any()) and float(near[2, 3]) == -LARGEST
    found = kernels_fp8.fp8_linear(torch.ones(1, 16, device=DEVICE), made.data, made.scales, None)
    assert found.isnan().tolist() == [[False, True, False]]


@settings(max_examples=15, deadline=None)
@given(
    seed=seeds, rows=st.integers(1, 20), outer=st.integers(1, 70), inner=st.sampled_from([16, 48, 300]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]), biased=st.booleans(),
)  # fmt: skip
def test_the_kernel_multiplies_with_them(
    seed: int, rows: int, outer: int, inner: int, dtype: torch.dtype, biased: bool
) -> None:
    made = np.random.default_rng(seed)
    x = torch.from_numpy(made.standard_normal((rows, inner)).astype(np.float32)).to(dtype).to(DEVICE)
    weight = quantise(torch.from_numpy(made.standard_normal((outer, inner)).astype(np.float32)).to(DEVICE))
    bias = torch.from_numpy(made.standard_normal(outer).astype(np.float32)).to(dtype).to(DEVICE) if biased else None
    found = kernels_fp8.fp8_linear(x, weight.data, weight.scales, bias).float()
    expected = kernels_reference.fp8_linear(x, weight.data, weight.scales, bias).float()
    limit = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float32: 1e-5}[dtype]
    assert float((found - expected).abs().max()) <= limit * float(expected.abs().max()) + 1e-6


def test_every_pattern_of_eight_bits_is_the_number_that_it_stands_for() -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE)
    codes = codes[(codes & 0x7F) != 0x7F]  # not a number; no weight that is one becomes it
    data = codes.view(torch.float8_e4m3fn)[:, None].expand(-1, 16).contiguous()
    x = torch.zeros(1, 16, device=DEVICE)
    x[0, 5] = 1.0
    found = kernels_fp8.fp8_linear(x, data, torch.ones(len(codes), device=DEVICE), None)
    assert torch.equal(found[0], data[:, 0].float())


def test_many_rows_take_another_way_to_the_same_product() -> None:
    x = torch.randn(65, 32, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1))
    weight = quantise(weights(3, 8, 32, torch.float32))
    wide, narrow = linear(kernels_reference, x, weight), linear(kernels_reference, x[:3], weight)
    assert torch.allclose(wide[:3], narrow, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("products_by_row")
@pytest.mark.parametrize("rows", [1, 17])
def test_a_row_has_the_same_bits_beside_others(rows: int) -> None:
    x = torch.randn(17, 300, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(2)).to(torch.bfloat16)
    weight = quantise(weights(4, 33, 300))
    whole = kernels_fp8.fp8_linear(x, weight.data, weight.scales, None)
    part = kernels_fp8.fp8_linear(x[:rows], weight.data, weight.scales, None)
    assert torch.equal(whole[:rows], part)
