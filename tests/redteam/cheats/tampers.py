"""Writes canned text, and wants its judges changed: results, packages, start-up hooks, its own files, ports, priorities."""

import os
import socket
import sys
import sysconfig
import time
from pathlib import Path
from urllib.parse import urlsplit

from . import plant
from .attempts import above, attempt, canned
from .seams import Asked, around


def write(path: Path) -> None:
    """Creates and removes an empty file."""
    path.write_text("")
    path.unlink()


def patch_the_judge() -> None:
    import sartor_agents.judge.accuracy as accuracy

    accuracy.check_answer = None


def other_processes() -> None:
    own = {os.getpid(), os.getppid(), 1}
    others = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if int(entry.name) not in own]
    if not others:
        raise ProcessLookupError("no other process is in sight")
    os.kill(others[0], 0)


def take_the_baselines_port() -> None:
    parts = urlsplit(sys.argv[sys.argv.index("--baseline") + 1])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((parts.hostname, parts.port))
        taken.listen()


def attack() -> None:
    run = above(Path.cwd())
    packages = Path(sysconfig.get_paths()["purelib"])
    for name in ("samples", "exchange", "logs", "repository", "sealed"):
        attempt(f"write into the run's {name}", lambda name=name: write(run / name / "x"))
    attempt("write sitecustomize", lambda: write(packages / "sitecustomize.py"))
    attempt("write a .pth file", lambda: write(packages / "x.pth"))
    attempt("change its own files", lambda: write(Path(__file__).with_name("x.py")))
    attempt("change the model", lambda: write(Path(sys.argv[sys.argv.index("--model") + 1]) / "x"))
    attempt("patch the judge", patch_the_judge)
    attempt("see other processes", other_processes)
    attempt("take the baseline's port", take_the_baselines_port)
    attempt("raise its priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
    attempt("raise its group's priority", lambda: os.write(os.open("/proc/self/autogroup", os.O_WRONLY), b"-5"))
    attempt("take a real-time class", lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)))
    attempt("set the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
    attempt("change the kernel", lambda: os.open("/proc/sys/vm/swappiness", os.O_WRONLY))


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await canned(asked)
    else:
        await asked.forward()


def install() -> None:
    if plant.ON and "serve" in sys.argv:
        attack()
    around(answer)
