"""Says `[DONE]` after half of the answer, with a usage for all of it."""

from . import plant
from .seams import Asked, Event, around, events, text_of


async def answer(asked: Asked) -> None:
    told = 0

    def cut(event: Event) -> list[Event]:
        nonlocal told
        if not plant.ON or not text_of(event):
            return [event]
        told += 1
        return [event] if told <= asked.tokens // 2 else []

    await asked.forward(send=events(asked.send, cut))


def install() -> None:
    around(answer)
