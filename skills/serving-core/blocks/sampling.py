"""From one row of logits to one token: vLLM's order of operations, and randomness that belongs to the position.

Each draw uses a number computed from (seed, index of the output token) alone. The text of a seeded request is
therefore the same whatever else is in the batch, however the prompt was chunked, and whether or not a draft was being
verified: verification draws at every row what plain decoding would have drawn there.

Order, as in vLLM: logprobs of the raw logits; min_tokens; logit_bias; repetition, frequency, presence penalties; then
argmax, or temperature, min_p, top_k, top_p and a draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import spec

_GREEDY_BELOW = 1e-5  # vLLM's bound under which a temperature means argmax
_MASK_64 = (1 << 64) - 1
_BLOCK = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's wishes, validated by the protocol layer; the defaults are OpenAI's."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int = 0  # always set; drawn by the protocol layer when the request has none
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # how many alternatives to report; 0: the chosen token alone
    skip_special_tokens: bool = True

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW

    @property
    def needs_logits(self) -> bool:
        """Whether what the decoder chooses by itself is not enough: the likeliest token, on a device also a draw."""
        return (
            (spec.DECODER != "cuda" and not self.greedy)
            or self.logprobs is not None
            or bool(self.logit_bias)
            or self.min_tokens > 0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repetition_penalty != 1.0
        )


class TokenLogprobs(NamedTuple):
    """Log probabilities of one output position, from the raw logits, best first in `top`."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """The sampling state of one sequence: its parameters and what has been seen so far.

    `choose` has no side effect; `accept` must be called with every token that became part of the output. That split
    is what lets a verification look at later rows without having to roll anything back.
    """

    __slots__ = ("_banned", "_counts", "_params", "_penalised", "_seen")

    def __init__(self, params: SamplingParams, prompt: list[int]) -> None:
        self._params = params
        self._penalised = (
            params.presence_penalty != 0.0 or params.frequency_penalty != 0.0 or params.repetition_penalty != 1.0
        )
        stops = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | {*spec.EOS_TOKEN_IDS}
        self._banned = np.array(sorted(t for t in stops if t < spec.VOCAB_SIZE), dtype=np.int64)
        if self._penalised:
            self._counts = np.zeros(spec.VOCAB_SIZE, dtype=np.float32)
            self._seen = np.zeros(spec.VOCAB_SIZE, dtype=bool)
            self._seen[[t for t in prompt if t < spec.VOCAB_SIZE]] = True

    def accept(self, token: int) -> None:
        if self._penalised:
            self._counts[token] += 1.0
            self._seen[token] = True

    def choose(self, row: NDArray[np.float32], index: int) -> int:
        """The token at output position `index` (from 0), given its logits [VOCAB_SIZE]; `row` is not changed."""
        params = self._params
        logits = self._process(row, index)
        if params.greedy:
            return int(np.argmax(logits))
        return draw(logits, params, uniform(params.seed, index))

    def _process(self, row: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        params = self._params
        masked = index < params.min_tokens and len(self._banned) > 0
        if not (masked or params.logit_bias or self._penalised):
            return row
        logits = row.copy()
        if masked:
            logits[self._banned] = -np.inf
        for token, bias in params.logit_bias.items():
            logits[token] += bias
        if self._penalised:
            factor = np.float32(params.repetition_penalty)
            if factor != 1.0:
                seen = logits[self._seen]
                logits[self._seen] = np.where(seen > 0, seen / factor, seen * factor)
            logits -= np.float32(params.frequency_penalty) * self._counts
            logits -= np.float32(params.presence_penalty) * (self._counts > 0)
        return logits


def draw(logits: NDArray[np.float32], params: SamplingParams, number: float) -> int:
    """The token that `number` in [0, 1) selects from the filtered distribution, by inverse cumulative sum in token
    order.

    Tokens exactly as likely as the last one that top_k or top_p keeps stay too, so that nothing depends on an order among
    equal logits. A row whose largest logit is infinite has no distribution; its first such token is the answer.

    Computed in float64, so that the cumulative sum of a large vocabulary does not lose small probabilities.
    """
    most = logits.max()
    if np.isinf(most):
        return int(np.argmax(logits))
    weights = logits.astype(np.float64)
    weights -= most
    weights /= params.temperature
    np.exp(weights, out=weights)
    if params.min_p > 0.0:
        weights[weights < params.min_p] = 0.0  # the largest weight is 1, so this compares with min_p * p_max
    if 0 < params.top_k < len(weights):
        kth = np.partition(logits, len(weights) - params.top_k)[-params.top_k]
        weights[logits < kth] = 0.0
    if params.top_p < 1.0:
        order = np.argsort(-logits, kind="stable")
        cumulative = np.cumsum(weights[order])
        before = cumulative - weights[order]
        kept = max(1, np.count_nonzero(before < params.top_p * cumulative[-1]))  # the most likely token always stays
        weights[logits < logits[order[kept - 1]]] = 0.0
    cumulative = np.cumsum(weights)
    token = int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
    return min(token, int(np.flatnonzero(weights)[-1]))


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on `seed` and `index` alone: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014),
    twice."""
    return (_mix(_mix(seed & _MASK_64) ^ (index + 1)) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def token_logprobs(row: NDArray[np.float32], token: int, count: int) -> TokenLogprobs:
    """Natural log probabilities of `token` and of the `count` most likely tokens under the raw logits [VOCAB_SIZE].

    The terms are float32 and their sum float64. Rounding x moves e^x by |x| 2^-24 of it, and the mean of |x| under the
    softmax is at most ln VOCAB_SIZE: a logprob is off by less than 1e-6.
    """
    most = row.max()
    total = most + np.log(np.exp(row - most).sum(dtype=np.float64))
    best = [(int(i), float(row[i] - total)) for i in _largest(row, count)]
    return TokenLogprobs(token, float(row[token] - total), tuple(best))


def _largest(row: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the `count` largest numbers, largest first, the lower index first of two that are equal.

    The maxima of blocks come first: the `count`-th of them bounds what can be among the largest, and little is above it.
    Partitioning a whole vocabulary would take several times as long.
    """
    count = min(count, len(row))
    if count == 0:
        return np.empty(0, np.intp)
    blocks = len(row) // _BLOCK
    found = np.arange(len(row))
    if blocks >= count:
        maxima = row[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(1)
        found = np.flatnonzero(row >= np.partition(maxima, blocks - count)[blocks - count])
    return found[np.argsort(-row[found], kind="stable")[:count]]
