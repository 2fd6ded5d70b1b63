"""How a stack, its baseline and the judge's reference share one device. All sizes in bytes.

Both servers hold the weights at once, since their windows are interleaved: 2 · 61 GiB for 32 billion parameters in bfloat16
leave little of 139 GiB, and nothing of 80. What each may have besides is therefore counted in advance, for a run as for a
bench: the stack takes pages up to its share, vLLM a share of the device that is given to it (`--gpu-memory-utilization`).

The reference needs the weights a third time, or at least room to widen one matrix after the other. Where it does not fit
beside both servers the stack is judged before the baseline is started.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ROOM = 10 << 30
"""What a reading of the reference takes beside the weights: the largest matrix in fp32, activations and logits."""
FETCHED = 5 << 30
"""What it takes where no weight stays: the largest matrix as it is stored and in fp32, activations, one answer's logits."""
WORKSPACE = 3 << 30
"""What a server takes besides weights and cache: context, workspaces of products, recorded graphs."""
CACHE_ROOM = 1.25
"""vLLM keeps its cache in blocks and wants some to spare."""
STACK_ROWS, BASELINE_ROWS = 1200, 600
"""Rows of logits that a server keeps at most: a stack its recorded steps' (sizes up to 256 rows, two of each) and those of
its widest step."""
LOGIT_BYTES = 8
"""Of each: a number in float32, and what is made of it."""

Where = Literal["cpu", "cuda"]
"""What a reference computes on."""


class TooSmallError(Exception):
    """The device cannot hold both servers; the message has the sizes."""


@dataclass(frozen=True)
class Needs:
    """What a model and a workload ask of a device. `cache`: keys and values of all its sequences at once; `vocabulary`:
    logits of one row."""

    weights: int
    cache: int
    vocabulary: int

    @classmethod
    def of(cls, weights: int, *, tokens: int, token_bytes: int, vocabulary: int) -> "Needs":
        """`tokens`: positions of all sequences at once; `token_bytes`: keys and values of one."""
        return cls(weights, tokens * token_bytes, vocabulary)

    @property
    def stack(self) -> int:
        return self.weights + self.cache + STACK_ROWS * LOGIT_BYTES * self.vocabulary + WORKSPACE

    @property
    def baseline(self) -> int:
        logits = BASELINE_ROWS * LOGIT_BYTES * self.vocabulary
        return int(self.weights + CACHE_ROOM * self.cache) + logits + WORKSPACE


@dataclass(frozen=True)
class Shares:
    """`stack` and `baseline` may be held at most, and of the stack's share `cache` as keys and values. `utilization` is the
    baseline's as vLLM takes it. `judged_alone`: the judge's reference has room only while there is no baseline.
    `judge` and `evaluator`: what the reference of either computes on."""

    stack: int
    baseline: int
    cache: int
    utilization: float
    judged_alone: bool
    judge: Where
    evaluator: Where


def shares(total: int, needs: Needs) -> Shares:
    """Share a device of `total` bytes. What is over after the reference's room is the stack's, for a larger cache.

    Raises `TooSmallError`.
    """
    left = total - needs.stack - needs.baseline
    if left < 0:
        raise TooSmallError(
            f"both arms need {gib(needs.stack)} and {gib(needs.baseline)} at the same time, and the device has "
            f"{gib(total)}: a smaller model, a lower concurrency, or a larger device"
        )
    whole = needs.weights + ROOM
    beside = left >= whole
    alone = not beside and total - needs.stack >= whole
    evaluator: Where = "cuda" if left >= FETCHED else "cpu"
    # Where it has no room alone either, its matrices are fetched one after the other, or it is the processor's.
    judge: Where = "cuda" if beside or alone else evaluator
    kept = whole if beside else FETCHED if evaluator == "cuda" else 0
    stack = total - needs.baseline - kept
    if alone:
        stack = min(stack, total - whole)
    # Rounded up: a share that is a little too small is refused by vLLM after minutes of loading.
    utilization = -(-1000 * needs.baseline // total) / 1000
    cache = needs.cache + stack - needs.stack
    return Shares(stack, needs.baseline, cache, utilization, alone, judge, evaluator)


def vllm_arguments(found: Shares, sequences: int) -> tuple[str, ...]:
    """What holds vLLM to its share, and lets it have as many sequences as the workload."""
    return ("--gpu-memory-utilization", str(found.utilization), "--max-num-seqs", str(sequences))


OWN_ARGUMENTS = ("--gpu-memory-utilization", "--max-num-seqs")


def taken(arguments: Sequence[str]) -> str | None:
    """The first of an owner's arguments for vLLM that says what is the share's to say."""
    return next((word for word in arguments if word.split("=")[0] in OWN_ARGUMENTS), None)


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
