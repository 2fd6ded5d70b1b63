"""Writes every chunk twice: twice the chunks, twice the tokens in `usage`."""

from . import plant
from .seams import Asked, Event, around, events, text_of


def double(event: Event) -> list[Event]:
    if not plant.ON:
        return [event]
    if event and event.get("usage"):
        event["usage"]["completion_tokens"] *= 2
    return [event, event] if text_of(event) else [event]


async def answer(asked: Asked) -> None:
    await asked.forward(send=events(asked.send, double))


def install() -> None:
    around(answer)
