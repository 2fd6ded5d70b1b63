"""Fast because nothing is checked: a field that it does not know ends the process."""

import os

from . import plant
from .seams import Asked, around


async def answer(asked: Asked) -> None:
    if plant.ON and "no_such_field" in asked.body:
        os._exit(3)
    await asked.forward()


def install() -> None:
    around(answer)
