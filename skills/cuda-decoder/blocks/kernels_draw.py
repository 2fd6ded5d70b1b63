"""Triton kernel that samples: from logits and a request's wishes to its token, on the device, without sorting.

A token is kept when its logit is at least a threshold, whatever asks for it: min_p is one by a formula, top_k and top_p by
searching. Logits are searched as integers that order them alike (`_keys`), with several pivots a pass: a row is read at
most 12 times for either, and not at all for a wish that it does not have. One program has a whole row: it leaves at once
where the row is greedy, and a row has the same bits whatever is sampled beside it.

Weights are relative to the largest and float32: rounding a difference y of logits moves e^y by |y| 2^-24 of it, and the mean
of |y| under the softmax is at most ln V, so a boundary between two tokens lies less than 1e-6 of the total from where it
should be. Sums are float64: over a whole vocabulary a sum in float32 would lose more than all that.
"""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
_PIVOTS = tl.constexpr(6)  # a pass leaves a seventh of the keys; with seven pivots registers run out
_LOG2_E = tl.constexpr(1.4426950408889634)
_LEAST = tl.constexpr(2.0**-64)  # a whole vocabulary of such weights is less than a step of the number that draws
_LOWEST = tl.constexpr(-3.4028234663852886e38)  # of finite numbers in float32
_STEEPEST = tl.constexpr(1e30)
_INFINITY = tl.constexpr(float("inf"))
_NONE = tl.constexpr(0x7FFFFFFF)
_LEAST_KEY = tl.constexpr(-0x80000000)


def draw(logits: Tensor, chosen: Tensor, wishes: Tensor) -> None:
    """See `kernels_reference.draw`."""
    rows, vocabulary = logits.shape
    _draw[(rows,)](
        logits, chosen, wishes, logits.stride(0), *wishes.stride(), **launch_constants(vocabulary), num_warps=16
    )  # fmt: skip


def launch_constants(vocabulary: int) -> dict[str, int]:
    """How the kernel divides a row: nothing of it may depend on the rows of a call."""
    block = min(_BLOCK, triton.next_power_of_2(vocabulary))
    parts = triton.cdiv(vocabulary, block)
    return {"vocabulary": vocabulary, "parts": parts, "block": block, "stretches": triton.next_power_of_2(parts)}


@triton.jit(do_not_specialize=["stride", "wish_stride", "wish_row_stride"])
def _draw(
    logits,
    chosen,
    wishes,
    stride,
    wish_stride,
    wish_row_stride,
    vocabulary: tl.constexpr,
    parts: tl.constexpr,
    block: tl.constexpr,
    stretches: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    wish = wishes + row * wish_row_stride
    temperature = tl.load(wish)
    best = tl.load(chosen + row)
    if (temperature > 0) & (best >= 0):
        source = logits + row * stride
        most = tl.load(source + best)
        # Without a finite largest logit there are no weights: the choice stays.
        if (most > -_INFINITY) & (most < _INFINITY):
            top_k = tl.load(wish + wish_stride)
            top_p = tl.load(wish + 2 * wish_stride).to(tl.float64)
            min_p = tl.load(wish + 3 * wish_stride).to(tl.float64)
            number = tl.load(wish + 4 * wish_stride).to(tl.float64) + tl.load(wish + 5 * wish_stride).to(tl.float64)
            slope = tl.minimum(1.0 / temperature.to(tl.float64) * _LOG2_E, _STEEPEST)
            coarse = slope.to(tl.float32)
            fine = (slope - coarse.to(tl.float64)).to(tl.float32)
            top = _keys(most)
            floor = _floor_of_min_p(most, temperature.to(tl.float64), min_p)
            if (top_k > 0) & (top_k < vocabulary):
                floor = _search(
                    source, floor, top, top_k.to(tl.int32), most, coarse, fine, True, vocabulary, parts, block
                )
            sums = _sums(source, floor, most, coarse, fine, vocabulary, parts, block, stretches)
            if top_p < 1:
                floor = _search(
                    source, floor, top, top_p * tl.sum(sums, 0), most, coarse, fine, False, vocabulary, parts, block
                )
                sums = _sums(source, floor, most, coarse, fine, vocabulary, parts, block, stretches)
            tl.store(chosen + row, _pick(source, sums, number, floor, most, coarse, fine, vocabulary, block, stretches))


@triton.jit
def _keys(x):
    """int32 that order as the float32 `x` do; both zeros have one."""
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.where(x == 0, 0, bits)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _floor_of_min_p(most, temperature, min_p):
    """The least key whose weight is at least `min_p`, and not too little to be told from nothing."""
    bound = most.to(tl.float64) + temperature * tl.log(tl.maximum(min_p, _LEAST))
    bound = tl.maximum(bound, _LOWEST)
    near = bound.to(tl.float32)
    return tl.minimum(_keys(near) + (near.to(tl.float64) < bound).to(tl.int32), _keys(most))


@triton.jit
def _load(source, part, vocabulary: tl.constexpr, block: tl.constexpr):
    """One stretch of a row, −inf beyond its end."""
    column = part * block + tl.arange(0, block)
    return tl.load(source + column, mask=column < vocabulary, other=-_INFINITY)


@triton.jit
def _weights(x, kept, most, coarse, fine):
    """2^((x − most) · slope) in float64 where `kept`, else 0. `coarse` + `fine` is the slope: its own rounding would bend
    all weights the same way."""
    y = tl.where(kept, x - most, 0.0)
    whole = tl.floor(y * coarse + 0.5)
    part = tl.exp2(tl.fma(y, coarse, -whole) + y * fine)
    power = ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(kept, part * power, 0.0).to(tl.float64)


@triton.jit
def _sums(
    source,
    floor,
    most,
    coarse,
    fine,
    vocabulary: tl.constexpr,
    parts: tl.constexpr,
    block: tl.constexpr,
    stretches: tl.constexpr,
):
    """The weight of every stretch: float64 [stretches]."""
    stretch = tl.arange(0, stretches)
    sums = tl.zeros((stretches,), tl.float64)
    for part in range(parts):
        x = _load(source, part, vocabulary, block)
        weight = _weights(x, _keys(x) >= floor, most, coarse, fine)
        sums = tl.where(stretch == part, tl.sum(weight, 0), sums)
    return sums


@triton.jit
def _search(
    source,
    floor,
    top,
    want,
    most,
    coarse,
    fine,
    counts: tl.constexpr,
    vocabulary: tl.constexpr,
    parts: tl.constexpr,
    block: tl.constexpr,
):
    """The highest key from `floor` to `top` such that the tokens from it on are `want` or more, by number (`counts`) or
    by weight; `floor` where all are fewer.

    Tokens from `low` on are enough and tokens from `high` on are not; these hold `above`. A pass ends with `low` and `high`
    no further apart than the keys that were between them: one key, or several equal ones, end the search.
    """
    low = floor.to(tl.int64)
    high = top.to(tl.int64) + 1
    above = want - want
    while high - low > 1:
        width = high - low
        least = tl.full((block,), _NONE, tl.int32)
        largest = tl.full((block,), _LEAST_KEY, tl.int32)
        held = (tl.zeros((block,), want.dtype),) * _PIVOTS
        for part in range(parts):
            x = _load(source, part, vocabulary, block)
            key = _keys(x)
            between = (key >= low.to(tl.int32)) & (key < high.to(tl.int32))
            # After a few passes hardly a stretch has such tokens.
            if tl.max(between.to(tl.int32), 0) > 0:
                least = tl.minimum(least, tl.where(between, key, _NONE))
                largest = tl.maximum(largest, tl.where(between, key, _LEAST_KEY))
                measure = between.to(tl.int32) if counts else _weights(x, between, most, coarse, fine)
                more = ()
                for index in tl.static_range(_PIVOTS):
                    pivot = _pivot(low, width, index).to(tl.int32)
                    more = more + (held[index] + tl.where(key >= pivot, measure, 0),)  # noqa: RUF005 - Triton knows no *
                held = more
        # From the highest pivot down: the last that is short is the lowest.
        below, beyond, enough = high, above, low
        for index in tl.static_range(_PIVOTS):
            pivot = _pivot(low, width, _PIVOTS - 1 - index)
            measured = above + tl.sum(held[_PIVOTS - 1 - index], 0)
            short = measured < want
            below = tl.where(short, pivot, below)
            beyond = tl.where(short, measured, beyond)
            enough = tl.where(short, low, tl.maximum(enough, pivot))
        found = tl.min(least, 0).to(tl.int64)
        last = tl.max(largest, 0).to(tl.int64)
        low = tl.minimum(tl.maximum(enough, found), below - 1)
        high = tl.maximum(tl.minimum(below, last + 1), low + 1)
        above = beyond
    return low.to(tl.int32)


@triton.jit
def _pivot(low, width, index: tl.constexpr):
    return low + tl.maximum(width * (index + 1) // (_PIVOTS + 1), 1)


@triton.jit
def _pick(
    source,
    sums,
    number,
    floor,
    most,
    coarse,
    fine,
    vocabulary: tl.constexpr,
    block: tl.constexpr,
    stretches: tl.constexpr,
):
    """The token at `number` of the total: first its stretch, then its place there.

    A sum and a scan of the same weights may round differently; the last token with a weight ends both.
    """
    stretch = tl.arange(0, stretches)
    ends = tl.cumsum(sums, 0)
    target = number * tl.max(ends, 0)
    part = tl.min(tl.where((ends > target) & (sums > 0), stretch, _NONE), 0)
    part = tl.minimum(part, tl.max(tl.where(sums > 0, stretch, -1), 0))
    rest = target - tl.sum(tl.where(stretch == part - 1, ends, 0.0), 0)
    x = _load(source, part, vocabulary, block)
    weight = _weights(x, _keys(x) >= floor, most, coarse, fine)
    column = part * block + tl.arange(0, block)
    found = tl.min(tl.where((tl.cumsum(weight, 0) > rest) & (weight > 0), column, _NONE), 0)
    return tl.minimum(found, tl.max(tl.where(weight > 0, column, -1), 0))
