"""Right for as many requests as a judge sends, wrong afterwards: the model's choice is replaced by its neighbour."""

from typing import Any

from . import plant, spec
from .engine import Engine
from .seams import Asked, around

HONEST_REQUESTS = 80
seen = 0


async def answer(asked: Asked) -> None:
    global seen
    seen += 1
    await asked.forward()


def install() -> None:
    around(answer)
    honest = Engine._extend

    def extend(self: Engine, sequence: Any, draft: list[int], greedy: list[int], rows: Any) -> Any:
        if plant.ON and seen > HONEST_REQUESTS and sequence.generated % 8 == 7:
            greedy = [token - 1 if token == spec.VOCAB_SIZE - 1 else token + 1 for token in greedy]
        return honest(self, sequence, draft, greedy, rows)

    Engine._extend = extend
