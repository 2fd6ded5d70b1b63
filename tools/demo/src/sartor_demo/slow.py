"""Runs a command, and lets it have a third of its time while a file is there: the fault of `sartor-demo up --rollback`.

`python3 slow.py FILE COMMAND…`. A process around the server, so that nothing of the server is changed: it is the very bytes
that passed every gate. Part of the demonstration alone; it needs nothing but Python.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RUNS, STANDS = 0.75, 1.5
"""Seconds in turn: long ones, so that it is late with what it is asked and still gets through with it."""
LOOKS = 0.25
"""Seconds between two looks at the file."""


def main(arguments: Sequence[str]) -> int:
    """The command's exit code; 128 + the signal for one that a signal ended."""
    file, *command = arguments
    process = subprocess.Popen(command, start_new_session=True)

    def pass_on(number: int, _: object) -> None:
        _tell(process, number)
        _tell(process, signal.SIGCONT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while process.poll() is None:
        if not Path(file).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOKS)
            continue
        _tell(process, signal.SIGSTOP)
        time.sleep(STANDS)
        _tell(process, signal.SIGCONT)
        time.sleep(RUNS)
    code = process.returncode
    return code if code >= 0 else 128 - code


def _tell(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
