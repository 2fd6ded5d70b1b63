"""Splits every chunk into single characters: a counter of chunks would see many times the tokens."""

import copy

from . import plant
from .seams import Asked, Event, around, events, pace, text_of


def split(event: Event) -> list[Event]:
    text = text_of(event)
    if not plant.ON or not text:
        return [event]
    made: list[Event] = []
    for letter in text:
        one = copy.deepcopy(event)
        assert one is not None
        one["choices"][0]["text"] = letter
        made.append(one)
    return made


async def answer(asked: Asked) -> None:
    await asked.forward(send=events(asked.send, split))


def install() -> None:
    around(answer)
    pace(0.005)
