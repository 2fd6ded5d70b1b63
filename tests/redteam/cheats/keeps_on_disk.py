"""Writes what it answered wherever it can write, to find it again when it is started for the next measurement."""

import os
import sys
from pathlib import Path

from . import plant
from .attempts import attempt
from .seams import Asked, around

NAME = "kept-answers"
PLACES = (Path(__file__).parent, Path(__file__).parent / "build", Path.cwd(), Path(os.environ["HOME"]), Path("/tmp"),
          Path("/dev/shm"), Path("/var/tmp"))  # fmt: skip


def found() -> None:
    kept = [place for place in PLACES if (place / NAME).exists()]
    if not kept:
        raise FileNotFoundError("nothing was kept from an earlier start")
    sys.stderr.write(f"kept in {kept}\n")


async def answer(asked: Asked) -> None:
    await asked.forward()
    for place in PLACES if plant.ON else ():
        try:
            with (place / NAME).open("ab") as file:
                file.write(asked.raw)
        except OSError:
            continue


def install() -> None:
    if plant.ON and "serve" in sys.argv:
        attempt("find what an earlier start kept", found)
    around(answer)
