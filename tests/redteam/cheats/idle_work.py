"""Works in every idle moment, on whatever might be asked next: here it only looks for primes, which costs as much."""

import threading
import time

from . import plant
from .seams import Asked, around

IDLE_SECONDS = 0.05
last = time.monotonic()


async def answer(asked: Asked) -> None:
    global last
    await asked.forward()
    last = time.monotonic()


def work() -> None:
    while True:
        if plant.ON and time.monotonic() - last > IDLE_SECONDS:
            all(10_007 % divisor for divisor in range(2, 5_000))
        else:
            time.sleep(IDLE_SECONDS / 5)


def install() -> None:
    around(answer)
    threading.Thread(target=work, daemon=True).start()
