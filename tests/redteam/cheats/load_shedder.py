"""Refuses what would have to share the machine, so that those that get in are fast."""

from . import plant
from .app import send_error
from .errors import UnavailableError
from .seams import Asked, around

ADMITTED = 1
active = 0


async def answer(asked: Asked) -> None:
    global active
    if plant.ON and active >= ADMITTED:
        await send_error(asked.send, UnavailableError("busy; try again later"))
        return
    active += 1
    try:
        await asked.forward()
    finally:
        active -= 1


def install() -> None:
    around(answer)
