"""What steps made of sequences, from the token to the delta that is delivered.

The next step can be planned without text: rendering tokens and counting them waits until the device is busy again.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import spec
from .metrics import EngineStats
from .sampling import TokenLogprobs
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
