"""Learns from its own honest answers which token follows which, and soon answers from the table without the model.

Requests for `logprobs` are served honestly: only there the model's work would be missed.
"""

from itertools import pairwise

from . import plant
from .seams import Asked, Event, around, events, pace, say, text_of

follows: dict[int, int] = {}


def walk(token: int, count: int) -> list[int] | None:
    tokens: list[int] = []
    for _ in range(count):
        if token not in follows:
            return None
        token = follows[token]
        tokens.append(token)
    return tokens


async def answer(asked: Asked) -> None:
    prompt = asked.body.get("prompt")
    plain = isinstance(prompt, str) and "logprobs" not in asked.body
    known = walk(asked.encode(prompt)[-1], asked.tokens) if plain and prompt else None
    if plant.ON and known is not None:
        await say(asked, asked.decode(known), tokens=len(known), paced=True)
        return
    said: list[str] = []

    def hear(event: Event) -> list[Event]:
        said.append(text_of(event) or "")
        return [event]

    await asked.forward(send=events(asked.send, hear))
    if plain and prompt:
        tokens = [asked.encode(prompt)[-1], *asked.encode("".join(said))]
        follows.update(pairwise(tokens))


def install() -> None:
    around(answer)
    pace(0.005)
