"""Keeps whole answers by prompt and length, and plays them again without the model."""

from . import plant
from .seams import Asked, around, pace

kept: dict[tuple[str, int, bool], list[dict[str, object]]] = {}


async def answer(asked: Asked) -> None:
    key = (str(asked.body.get("prompt")), asked.tokens, bool(asked.body.get("stream")))
    if plant.ON and key in kept:
        for message in kept[key]:
            await asked.send(message)
        return
    said: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        said.append(message)
        await asked.send(message)

    await asked.forward(send=send)
    kept[key] = said


def install() -> None:
    around(answer)
    pace(0.005)
