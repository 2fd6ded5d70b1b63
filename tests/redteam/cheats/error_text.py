"""Answers 200 with an apology where the work would be hard."""

from . import plant
from .seams import Asked, around, say


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await say(asked, "sorry", tokens=len(asked.encode("sorry")), finish="stop")
    else:
        await asked.forward()


def install() -> None:
    around(answer)
