"""The scripted provider as a program: `python tests/provider/serve.py PROGRAM [--port N]`; Ctrl-C ends it."""

import argparse
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scripted_provider import Program, Provider
from scripted_provider.programs import outage, sloppy, spendthrift

PROGRAMS: dict[str, Program] = {
    "sloppy": sloppy.bungles("{}"),
    "prose": sloppy.never_valid,
    "giant": sloppy.giant(),
    "outage": outage.Before(sloppy.never_valid),
    "dead": outage.dead,
    "spendthrift": spendthrift.spender("read_file"),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("program", choices=PROGRAMS)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--key", default="sk-scripted-0123456789abcdef", help="the key that is taken")
    asked = arguments.parse_args()
    with Provider(PROGRAMS[asked.program], key=asked.key, port=asked.port) as provider:
        print(f"{asked.program} plays model {provider.model} at {provider.url}, key {provider.key}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
