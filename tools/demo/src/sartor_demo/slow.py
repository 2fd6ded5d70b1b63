"""Runs a command, and stops it for seconds again and again while a file is there: the fault of `sartor-demo up --rollback`.

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

RUNS, STANDS = 0.1, 4.0
"""Seconds in turn. Nearly all that it is asked comes while it stands: half of all answers wait for two seconds, however fast
it is. A readiness probe waits for longer than it stands, so it is slow, not gone."""
MOST_RUNS = 80
"""It runs on, so many times as long at most, while it has work: a slow machine gets through with what it is asked, too."""
IDLE = 0.2
"""Share of a processor below which it has none..."""
IDLE_LOOKS = 2
"""...so many times in a row: a process may have to wait for its processor."""
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
        idle = 0
        for _ in range(MOST_RUNS):
            worked = _worked(process.pid)
            time.sleep(RUNS)
            idle = idle + 1 if _worked(process.pid) - worked < IDLE * RUNS else 0
            if idle == IDLE_LOOKS:
                break
    code = process.returncode
    return code if code >= 0 else 128 - code


def _worked(pid: int) -> float:
    """Seconds of CPU that a process has used; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tell(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
