"""Stops at seven tenths of the length that was asked for, and says so in `usage`."""

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    share = 0.7 if plant.ON else 1.0
    await asked.forward({**asked.body, "max_tokens": max(1, int(asked.tokens * share))})


def install() -> None:
    around(answer)
