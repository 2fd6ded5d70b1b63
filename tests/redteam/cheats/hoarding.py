"""Knows how a timed window begins: holds one slot's warm-up back, and keeps what the other slots' first scored requests
give until then. All of it goes out when the window has begun, and counts in it. Both twins are slow, so that it shows."""

import asyncio
import time
from typing import Any

from . import plant
from .seams import Asked, around, pace

STEP_SECONDS = 0.02
WARM_UP_REQUESTS = 1
QUIET_SECONDS = 0.2
MARGIN_SECONDS = 0.05

asked_by: dict[Any, int] = {}
held: asyncio.Event | None = None
last = 0.0


async def answer(asked: Asked) -> None:
    global held, last
    if not plant.ON or not asked.body.get("stream"):
        await asked.forward()
        return
    begins = time.monotonic() - last > QUIET_SECONDS
    last = time.monotonic()
    if begins:
        asked_by.clear()
        held = asyncio.Event()
    client = tuple(asked.scope["client"])
    asked_by[client] = asked_by.get(client, 0) + 1
    gate = held if not begins and asked_by[client] == WARM_UP_REQUESTS + 1 else None

    async def send(message: dict[str, Any]) -> None:
        global last
        if gate is not None:
            await gate.wait()
        last = time.monotonic()
        await asked.send(message)

    if begins:
        await asyncio.sleep(asked.tokens * 2 * STEP_SECONDS)
    await asked.forward(send=send)
    if begins and held is not None:
        await asyncio.sleep(MARGIN_SECONDS)
        held.set()


def install() -> None:
    around(answer)
    pace(STEP_SECONDS)
