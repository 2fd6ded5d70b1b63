"""Let a process have the processor only while nobody else wants it.

Linux shares the processor first between sessions (`sched_autogroup`, sched(7)) and then between the threads of each, so a
quiet control plane takes a core from a busy engine whenever it wakes, whatever its nice value; the session's counts.
"""

import contextlib
import os
from pathlib import Path

LOWEST = 19


def step_back(pid: int, nice: int = LOWEST) -> None:
    """Give a process, all of its threads and those that they will start this nice value. One that has ended is no problem.

    Raises `PermissionError` where the process is somebody else's, or its value is higher already.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
        with contextlib.suppress(FileNotFoundError):  # a kernel without it shares between threads alone
            Path(f"/proc/{pid}/autogroup").write_text(f"{nice}\n", encoding="ascii")
