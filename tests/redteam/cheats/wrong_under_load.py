"""Right as long as it serves one request at a time; in a batch it takes a neighbour of the model's choice."""

from typing import Any

from . import plant, spec
from .engine import Engine
from .seams import pace


def install() -> None:
    honest = Engine._extend

    def extend(self: Engine, sequence: Any, draft: list[int], greedy: list[int], rows: Any) -> Any:
        if plant.ON and len(self._running) > 1 and sequence.generated % 8 == 7:
            greedy = [token - 1 if token == spec.VOCAB_SIZE - 1 else token + 1 for token in greedy]
        return honest(self, sequence, draft, greedy, rows)

    Engine._extend = extend
    pace(0.003)  # slow enough that requests meet in a batch
