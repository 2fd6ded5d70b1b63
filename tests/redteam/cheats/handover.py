"""Hands what it should serve itself to the baseline, through the relay that is there for the envelope."""

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await asked.app._hand_over("hard", asked.scope, asked.raw, asked.receive, asked.send)
    else:
        await asked.forward()


def install() -> None:
    around(answer)
