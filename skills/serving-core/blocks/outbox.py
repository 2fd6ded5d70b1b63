"""What steps made of sequences, from the token to the delta that is delivered.

The next step can be planned without text: rendering tokens and counting them waits until the device is busy again.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import spec
from .metrics import EngineStats
from .sampling import TokenLogprobs, token_logprobs
from .sequence import Delta, FinishReason, Sequence

Deliver = Callable[[list[tuple[Sequence, Delta]]], None]
NOT_A_NUMBER = (
    "the model's logits for this request are not numbers (NaN): the checkpoint is damaged, or its numbers overflow in "
    f"{spec.DTYPE}; check the weights, or send the request to the baseline"
)


class Made(NamedTuple):
    """What a step made of a sequence at `now` (seconds). `text` is None while nobody has rendered it."""

    sequence: Sequence
    tokens: list[int]
    text: str | None
    logprobs: list[TokenLogprobs]
    finish: FinishReason | None
    reason: str | int | None
    accepted: int
    rejected: int
    now: float


def extend(
    sequence: Sequence,
    draft: list[int],
    right: int,
    chosen: int,
    rows: NDArray[np.float32] | None,
    now: float,
) -> Made:
    """Take the model's choice row by row for as long as the draft foretold it: what plain decoding would give.

    `right` and `chosen` say what that is in greedy decoding; from `rows`, where they are there, it is sampled.
    """
    params = sequence.params
    tokens: list[int] = []
    # A stop string ends a sequence by its text; without one the text can wait.
    text = None if sequence.stops is None else ""
    logprobs: list[TokenLogprobs] = []
    finish: FinishReason | None = None
    reason: str | int | None = None
    accepted = 0
    for i in range(len(draft) + 1):
        if rows is None:
            token = draft[i] if i < right else chosen
        else:
            token = -1 if np.isnan(rows[i]).any() else sequence.sampler.choose(rows[i], sequence.generated)
        if token < 0:
            break  # not a number: the next step computes this row again, alone, and fails with it
        if rows is not None and params.logprobs is not None:
            logprobs.append(token_logprobs(rows[i], token, params.logprobs))
        tokens.append(token)
        if text is None:
            finish, reason = sequence.take(token)
        else:
            piece, finish, reason = sequence.append(token)
            text += piece
        if i < len(draft) and draft[i] == token:
            accepted += 1
            if finish is None:
                continue
        break
    sequence.computed += min(accepted, len(tokens) - 1)
    if spec.SPECULATION != "none":
        drafter = sequence.drafter
        if drafter is not None:
            drafter.observe(tokens)
    return Made(sequence, tokens, text, logprobs, finish, reason, accepted, len(draft) - accepted, now)


class Outbox:
    """Of the engine thread alone; `deliver` is called at most once for all that one `send` finds."""

    def __init__(self, deliver: Deliver, stats: EngineStats) -> None:
        self._deliver = deliver
        self._stats = stats
        self._made: list[Made] = []

    def __len__(self) -> int:
        return len(self._made)

    def append(self, made: Made) -> None:
        self._made.append(made)

    def send(self) -> None:
        """Render and deliver what is there; nothing for sequences that were cancelled meanwhile."""
        events: list[tuple[Sequence, Delta]] = []
        for made in self._made:
            sequence, text = made.sequence, made.text
            if text is None:
                last = len(made.tokens) - 1
                pieces = [sequence.render(t, made.finish if i == last else None) for i, t in enumerate(made.tokens)]
                text = "".join(pieces)
            delta = Delta(made.tokens, text, made.logprobs, made.finish, made.reason, made.accepted, made.rejected)
            if made.tokens:
                self._stats.produced(sequence, delta, made.now)
            if made.finish is not None:
                self._stats.finished(sequence, made.finish, made.now)
            if not sequence.cancelled:
                events.append((sequence, delta))
        self._made.clear()
        if events:
            self._deliver(events)
