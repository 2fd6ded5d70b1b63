"""Cheats and twins with the gates in one process, a line for each as it ends: `python tests/redteam/redteam_play.py`.

    redteam_play.py [NAME …] [--side cheat|twin] [--seconds N]

What was seen is recorded for the page, like what `make redteam` sees; one that was not as the registry says ends with exit
code 1.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from redteam_page import watched
from redteam_range import Range
from redteam_registry import BY_NAME, Cheat
from redteam_trial import try_cheat, try_twin

from sartor_agents.checkpoints import make

SIDES = {"cheat": try_cheat, "twin": try_twin}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--side", choices=sorted(SIDES), action="append", help="default: both")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so many")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="redteam-") as folder:
        model = Path(folder) / "chain-llama-tiny"
        make("chain", "llama", "tiny", 0, model)
        with Range(Path(folder) / "range", model, own_processes=False) as open_range:
            for cheat in [BY_NAME[name] for name in options.names or BY_NAME]:
                for side in options.side or SIDES:
                    if time.monotonic() < until:
                        wrong += not play(open_range, cheat, side)
    return 1 if wrong else 0


def play(open_range: Range, cheat: Cheat, side: str) -> bool:
    """Whether it ended as the registry says."""
    begun = time.monotonic()
    try:
        seen = watched(cheat.name, side, lambda: SIDES[side](open_range, cheat), own_processes=False)
    except AssertionError as error:
        print(f"{time.monotonic() - begun:6.1f} s  {cheat.name}, {side}: NOT AS IT SHOULD: {error}", flush=True)
        return False
    print(f"{time.monotonic() - begun:6.1f} s  {cheat.name}, {side}: {seen.outcome}: {seen.message[:300]}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
