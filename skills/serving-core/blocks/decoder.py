"""The border between the engine and the arithmetic: what a decoder is given, and what it returns.

A decoder knows nothing of requests, sampling or time; an engine knows nothing of weights. Both sides rest on one
promise: a row's result is bit-identical whatever else is in the step. Batch invariance and lossless speculation
follow from it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """How a token is drawn (`sampling.draw`), with the number that belongs to `seed` and `index` of the output token."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    index: int


class Segment(NamedTuple):
    """The new rows of one sequence in one step.

    `pages`: int32, the pages of this sequence; page `i` of it holds positions `i * PAGE_TOKENS` and following.
    `start`: the position of `tokens[0]`; keys and values of all earlier positions have been written.
    `outputs`: how many trailing rows want a result: 0 inside a prompt, 1 to decode, K + 1 to verify K draft tokens.
    `logits`: whether full logits are wanted for these rows as well.

    For decoders on a device: `follows` ≥ 0 says that the only row's token is what the step begun before this one makes of
    that one of its segments with outputs (`tokens` is then not looked at). `draw`: how the first output row's token is
    drawn, and with the numbers of the next indices those behind it; None takes the likeliest.
    """

    pages: NDArray[np.int32]
    start: int
    tokens: Sequence[int]
    outputs: int
    logits: bool
    follows: int = -1
    draw: Draw | None = None


class Outcome(NamedTuple):
    """What a step gave the segments that wanted outputs, in their order.

    `accepted`: how many of a segment's drafted tokens, from the first, the model chose itself. `chosen`: what it makes of
    the row behind them: the next token, or −1 where the logits are not numbers. `logits` as `forward` gives them.
    """

    accepted: list[int]
    chosen: list[int]
    logits: NDArray[np.float32] | None


class Launched(Protocol):
    """A step that a device is busy with."""

    def wait(self) -> Outcome:
        """Until it is done. Raises what `forward` raises."""
        ...


class Decoder(Protocol):
    """Runs the model over at most `spec.STEP_TOKENS` rows a call; called from one thread at a time."""

    @property
    def arithmetic(self) -> str:
        """Number formats and what computes them, for the log at start."""
        ...

    @property
    def pages(self) -> int:
        """Pages of the cache: `spec.KV_PAGES`, or fewer where the device has no memory for all of them."""
        ...

    def forward(self, segments: Sequence[Segment]) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
        """Write K and V of every row, and return `(argmax, logits)`.

        `argmax` is int32 [sum of outputs]; `logits` is float32 [sum of outputs of the segments that asked,
        VOCAB_SIZE], or None when none asked. Rows come in the order of the segments. The arrays may be overwritten by
        the next call. A row whose logits are not numbers has argmax −1.

        Raises `StepMemoryError` when the step takes more memory than is left; it may be repeated with fewer rows.
        Whatever else is raised ends the engine.
        """
        ...

    def launch(self, segments: Sequence[Segment]) -> Launched:
        """Begin the step that `forward` would do, and leave the host to its own work: decoders on a device have this
        (`spec.DECODER` says which they are). One more step may be begun before this one is waited for, if this one gives
        no logits; they are waited for in their order."""
        ...

    def close(self) -> None:
        """Release memory and threads; idempotent."""
        ...


def accept(
    segments: Sequence[Segment], argmax: NDArray[np.int32], logits: NDArray[np.float32] | None = None
) -> Outcome:
    """What follows from the tokens that the model chose for every output row (arXiv 2211.17192, greedy)."""
    choices: list[int] = argmax.tolist()
    accepted: list[int] = []
    chosen: list[int] = []
    row = 0
    for segment in segments:
        count = segment.outputs
        if count == 0:
            continue
        draft = segment.tokens[len(segment.tokens) - count + 1 :]
        right = 0
        while right < count - 1 and choices[row + right] == draft[right]:
            right += 1
        accepted.append(right)
        chosen.append(choices[row + right])
        row += count
    return Outcome(accepted, chosen, logits)
