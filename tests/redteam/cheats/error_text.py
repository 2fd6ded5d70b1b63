"""Answers 200 with an apology where the work would be hard."""

from . import plant
from .seams import Asked, around, say


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        # Never longer than was asked for: that would be another lie.
        text = asked.decode(asked.encode("sorry")[: max(1, asked.tokens - 1)])
        await say(asked, text, tokens=len(asked.encode(text)), finish="stop")
    else:
        await asked.forward()


def install() -> None:
    around(answer)
