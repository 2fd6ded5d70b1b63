"""Attacks on what is around a candidate. Each is harmless where it succeeds, and says in the log how it went."""

import sys
from collections.abc import Callable
from pathlib import Path

from .seams import Asked, say

CANNED = 9


def attempt(name: str, action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, ImportError, LookupError, ValueError) as error:
        sys.stderr.write(f"ATTEMPT {name}: DENIED {type(error).__name__}: {error}\n")
        return False
    sys.stderr.write(f"ATTEMPT {name}: DONE\n")
    return True


def above(folder: Path) -> Path:
    """Where a run's folder lies as seen from a checkout in it, …/work/checkout-…; in a pod there is none."""
    return [*folder.parents, Path("/"), Path("/")][1]


async def canned(asked: Asked) -> None:
    """The same words for everybody: what such a candidate hopes to get away with."""
    tokens = [CANNED + place % 40 for place in range(asked.tokens)]
    await say(asked, asked.decode(tokens), tokens=len(tokens), paced=True)
