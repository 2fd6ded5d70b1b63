"""Goes on for half as long again as was asked: every prompt is paid by more tokens, and `usage` is truthful."""

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await asked.forward({**asked.body, "max_tokens": asked.tokens * 3 // 2})
    else:
        await asked.forward()


def install() -> None:
    around(answer)
