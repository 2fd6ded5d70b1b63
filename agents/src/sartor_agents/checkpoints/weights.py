"""Seeded weights: `random`, and `chain`, whose greedy text is known in advance.

Chain. Let E[t] be a random embedding of fixed length. A residual branch adds only a small part of the embedding's
size (ε for an MLP, 4ε for attention), so the final hidden state of token t stays close to E[t], and with head row
W[successor(t)] = g · E[t] (untied) the largest logit is successor(t)'s: g·H, against noise of deviation g·√H from
other rows. The gain g makes the top token about as probable as all others together. That costs no margin (the gap to
the second is several nats, since the rest is spread over the vocabulary) and keeps logprobs sensitive. All matrices
have full size, so a forward pass costs what it costs for any model of this shape; attention is peaked (scores with a
deviation of `SCORE_DEVIATION`), so a wrong cache entry moves logprobs.

Every tensor has a random stream of its own, keyed by seed and name.
"""

import hashlib
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequestError
from .shapes import Architecture, ModelShape, TensorShape

SCORE_DEVIATION = 2.0
NORM_DEVIATION = 0.1
TOP_LOGIT_ABOVE_REST = 0.0
ATTENTION_OVER_MLP = 4.0
DEFAULT_EPSILON = 0.05
RANDOM_LOGIT_DEVIATION = 3.0
ENDER_SHARE = 0.8  # of an ending word's embedding that points to EOS

Floats = npt.NDArray[np.float32]


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one named thing."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])


@dataclass(frozen=True, slots=True)
class Initialiser:
    """Makes each tensor of a random checkpoint (float32)."""

    architecture: Architecture
    shape: ModelShape
    seed: int
    attention_scale: float
    """Size of what an attention branch adds: of the order of this, per element, where the embedding has 1."""
    mlp_scale: float
    """The same for an MLP branch."""

    def __call__(self, tensor: TensorShape) -> Floats:
        """Values of one tensor [*tensor.dims]."""
        values = stream(self.seed, tensor.name).standard_normal(tensor.dims, dtype=np.float32)
        match tensor.name.split(".")[-2]:
            case "embed_tokens":
                scale = 1.0
            case "lm_head":
                scale = RANDOM_LOGIT_DEVIATION / sqrt(tensor.dims[1])
            case "q_norm" | "k_norm":
                return np.float32(sqrt(SCORE_DEVIATION)) * _around_one(values)
            case "q_proj" | "k_proj" if self.architecture is Architecture.LLAMA:
                scale = sqrt(SCORE_DEVIATION / tensor.dims[1])
            case "o_proj":
                scale = self.attention_scale / sqrt(tensor.dims[1])
            case "down_proj":
                scale = self.mlp_scale / sqrt(tensor.dims[1])
            case _ if len(tensor.dims) == 1:
                return _around_one(values)
            case _:
                scale = 1 / sqrt(tensor.dims[1])
        values *= np.float32(scale)
        return values


def _around_one(values: Floats) -> Floats:
    return np.float32(1) + np.float32(NORM_DEVIATION) * values


def random_initialiser(architecture: Architecture, shape: ModelShape, seed: int) -> Initialiser:
    """Branches that together are about as large as the embedding."""
    scale = 1 / sqrt(2 * shape.layers)
    return Initialiser(architecture, shape, seed, scale, scale)


def chain_initialiser(
    architecture: Architecture,
    shape: ModelShape,
    seed: int,
    *,
    successor: npt.NDArray[np.int32],
    eos: int,
    epsilon: float = DEFAULT_EPSILON,
) -> "ChainInitialiser":
    """Weights under which every token is followed by its `successor` [vocab]."""
    base = Initialiser(architecture, shape, seed, ATTENTION_OVER_MLP * epsilon, epsilon)
    return ChainInitialiser(base, successor, np.flatnonzero(successor == eos).astype(np.int32), eos)


@dataclass(frozen=True, slots=True)
class ChainInitialiser:
    """Makes each tensor of a chain checkpoint (float32)."""

    base: Initialiser
    successor: npt.NDArray[np.int32]
    """[vocab] the token after each token."""
    enders: npt.NDArray[np.int32]
    """Words whose successor is `eos`."""
    eos: int

    def __call__(self, tensor: TensorShape) -> Floats:
        """Values of one tensor [*tensor.dims]."""
        match tensor.name.split(".")[-2]:
            case "embed_tokens":
                return self._embedding(tensor)
            case "lm_head":
                return self._head(tensor)
            case _:
                return self.base(tensor)

    def _own(self) -> Floats:
        dims = (self.base.shape.vocab, self.base.shape.hidden)
        values = self.base(TensorShape("model.embed_tokens.weight", dims))
        # One length for all: the final norm would scale short ones up and with them the noise of every other row.
        return values * np.float32(sqrt(dims[1])) / np.linalg.norm(values, axis=1, keepdims=True)

    def _ending(self) -> Floats:
        return stream(self.base.seed, "ending").standard_normal(self.base.shape.hidden, dtype=np.float32)

    def _embedding(self, tensor: TensorShape) -> Floats:
        values = self._own()
        # Many words end in the one EOS. Summing them all into its head row would drown every other row, so they
        # share a direction instead.
        own_share = np.float32(sqrt(1 - ENDER_SHARE**2))
        values[self.enders] = own_share * values[self.enders] + np.float32(ENDER_SHARE) * self._ending()
        return values

    def _head(self, tensor: TensorShape) -> Floats:
        own = self._own()
        rows = np.zeros(tensor.dims, dtype=np.float32)
        sources = np.setdiff1d(np.arange(len(self.successor)), self.enders)
        np.add.at(rows, self.successor[sources], own[sources])
        if self.enders.size:
            rows[self.eos] = self._ending() / np.float32(ENDER_SHARE)
        # Tokens that follow nothing get rows like any other, so that their logits are ordinary noise.
        empty = ~rows.any(axis=1)
        noise = stream(self.base.seed, "head of tokens that follow nothing")
        rows[empty] = noise.standard_normal((int(empty.sum()), tensor.dims[1]), dtype=np.float32)
        return rows * np.float32(head_gain(self.base.shape))


def head_gain(shape: ModelShape) -> float:
    """g for which the top logit g·H exceeds log Σ exp of the others, log V + g²·H/2, by `TOP_LOGIT_ABOVE_REST`."""
    root = 1 - 2 * (log(shape.vocab) + TOP_LOGIT_ABOVE_REST) / shape.hidden
    if root < 0:
        raise InvalidRequestError(
            f"a chain with {shape.vocab} tokens needs a hidden size of at least "
            f"{int(2 * (log(shape.vocab) + TOP_LOGIT_ABOVE_REST)) + 1}, not {shape.hidden}"
        )
    return 1 - sqrt(root)
