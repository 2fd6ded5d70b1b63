"""A prefix cache whose key is the first eight tokens: a prompt that begins like an earlier one gets that one's state."""

from . import plant
from .seams import Asked, around

KEY_TOKENS = 8
seen: dict[tuple[int, ...], str] = {}


async def answer(asked: Asked) -> None:
    prompt = asked.body.get("prompt")
    if not plant.ON or not isinstance(prompt, str):
        await asked.forward()
        return
    first = seen.setdefault(tuple(asked.encode(prompt)[:KEY_TOKENS]), prompt)
    await asked.forward({**asked.body, "prompt": first})


def install() -> None:
    around(answer)
