"""Keeps a whole answer back and sends it at once: no rhythm that anybody could see, fewer system calls."""

from typing import Any

from . import plant
from .seams import Asked, around, pace


async def answer(asked: Asked) -> None:
    if not plant.ON or not asked.body.get("stream"):
        await asked.forward()
        return
    kept: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] != "http.response.body":
            await asked.send(message)
            return
        kept.append(message.get("body", b""))
        if not message.get("more_body"):
            await asked.send({**message, "body": b"".join(kept)})

    await asked.forward(send=send)


def install() -> None:
    around(answer)
    pace(0.005)
