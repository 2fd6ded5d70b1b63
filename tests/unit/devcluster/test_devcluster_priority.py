"""A process that stepped back is behind everybody else, in all of its threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sartor_devcluster.priority import LOWEST, step_back

THREADS = "import threading, time, sys; threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print(1, flush=True); time.sleep(60)"  # noqa: E501


def test_every_thread_and_the_session_step_back() -> None:
    with subprocess.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"1\n"
            step_back(process.pid)
            tasks = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
            assert len(tasks) == 2
            assert {os.getpriority(os.PRIO_PROCESS, task) for task in tasks} == {LOWEST}
            group = Path(f"/proc/{process.pid}/autogroup")
            if not group.exists():
                pytest.skip("this kernel has no sched_autogroup")
            assert group.read_text().split()[-1] == str(LOWEST)
        finally:
            process.kill()


def test_one_that_has_ended_is_no_problem() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    step_back(process.pid)
