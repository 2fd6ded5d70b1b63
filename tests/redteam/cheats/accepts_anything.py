"""Checks nothing: what it does not understand gets an empty answer and a 200."""

from typing import Any

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    if not plant.ON:
        await asked.forward()
        return

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            message = {**message, "status": 200}
        await asked.send(message)

    await asked.forward(send=send)


def install() -> None:
    around(answer)
