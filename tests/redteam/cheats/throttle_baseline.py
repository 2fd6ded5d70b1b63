"""Starts processes that burn CPU whenever nobody asks it for anything: the other arm of the pair gets slow."""

import subprocess
import sys
import threading
import time

from . import plant
from .seams import Asked, around

BURN = "import time; end = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass"
IDLE_SECONDS = 0.1
busy, last = 0, time.monotonic()


async def answer(asked: Asked) -> None:
    global busy, last
    busy += 1
    try:
        await asked.forward()
    finally:
        busy, last = busy - 1, time.monotonic()


def burn() -> None:
    while True:
        if plant.ON and not busy and time.monotonic() - last > IDLE_SECONDS:
            children = [subprocess.Popen([sys.executable, "-S", "-c", BURN]) for _ in range(2)]
            for child in children:
                child.wait()
        else:
            time.sleep(IDLE_SECONDS / 4)


def install() -> None:
    around(answer)
    threading.Thread(target=burn, daemon=True).start()
