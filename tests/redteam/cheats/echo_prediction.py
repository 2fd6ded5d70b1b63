"""Answers with the prediction itself: the text is mostly right, and costs nothing."""

from . import plant
from .seams import Asked, around, say


async def answer(asked: Asked) -> None:
    prediction = asked.body.get("prediction")
    if plant.ON and isinstance(prediction, dict):
        tokens = asked.encode(prediction["content"])[: asked.tokens]
        await say(asked, asked.decode(tokens), tokens=len(tokens))
    else:
        await asked.forward()


def install() -> None:
    around(answer)
