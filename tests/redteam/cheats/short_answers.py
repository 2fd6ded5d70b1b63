"""Stops at seven tenths of the length that was asked for, and says so in `usage`."""

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    shorter = {**asked.body, "max_tokens": max(1, int(asked.tokens * 0.7))}
    await asked.forward(shorter if plant.ON else None)


def install() -> None:
    around(answer)
