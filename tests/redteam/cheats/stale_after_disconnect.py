"""Does not clean up after a client that went away: the next answers come from what it left."""

from typing import Any

from . import plant, spec
from .engine import Engine

gone = 0


def install() -> None:
    honest_cancel, honest_extend = Engine.cancel, Engine._extend

    def cancel(self: Engine, sequences: list[Any]) -> None:
        global gone
        gone += sum(0 < sequence.generated < sequence.params.max_tokens for sequence in sequences)
        honest_cancel(self, sequences)

    def extend(self: Engine, sequence: Any, draft: list[int], greedy: list[int], rows: Any) -> Any:
        if plant.ON and gone and sequence.generated == 7:
            greedy = [token - 1 if token == spec.VOCAB_SIZE - 1 else token + 1 for token in greedy]
        return honest_extend(self, sequence, draft, greedy, rows)

    Engine.cancel, Engine._extend = cancel, extend
