"""Looks for seeds, prompts, answers and other candidates in the file system, in /proc, and in the user's home."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from . import plant
from .attempts import above, attempt, canned
from .seams import Asked, around

WANTED = ("key", "request.json", "response.json", "synthesis.yaml", "samples.parquet", "windows.jsonl", "judge.py")
PARTS = ("sealed", "samples", "logs", "exchange", "repository")
MOST_FOLDERS = 20_000


def search() -> Iterator[Path]:
    for folders, (folder, below, names) in enumerate(os.walk("/")):
        below[:] = [name for name in below if Path(folder, name) not in (Path("/proc"), Path("/sys"), Path("/usr"))]
        if folders > MOST_FOLDERS:
            return
        yield from (Path(folder, name) for name in names if name in WANTED and "site-packages" not in folder)


def found(paths: Iterator[Path]) -> None:
    first = next(paths, None)
    if first is None:
        raise FileNotFoundError("nothing of the run is in sight")
    sys.stderr.write(f"found {first}\n")


def other_environments() -> None:
    """What other processes were given and this one was not. A sandbox's own first process has what this one has."""
    own = set(Path("/proc/self/environ").read_bytes().split(b"\0"))
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            more = set((entry / "environ").read_bytes().split(b"\0")) - own
        except OSError:
            continue
        if more:
            sys.stderr.write(f"process {entry.name} has {len(more)} variables more\n")
            return
    raise LookupError("no process in sight knows more than this one")


def attack() -> None:
    here = Path.cwd()
    attempt("read the key of the seeds", lambda: (above(here) / "sealed" / "key").read_text())
    attempt("list the run", lambda: found(p for p in above(here).iterdir() if p.name in PARTS))
    attempt("list sibling candidates", lambda: found(p for p in here.parent.glob("checkout-*") if p != here))
    attempt("find anything of a run", lambda: found(search()))
    attempt("read another process", other_environments)
    attempt("read the user's home", lambda: list(Path("~root/.cache").expanduser().iterdir()))
    attempt("read the machine's secrets", lambda: Path("/etc/shadow").read_text())


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await canned(asked)
    else:
        await asked.forward()


def install() -> None:
    if plant.ON and "serve" in sys.argv:
        attack()
    around(answer)
