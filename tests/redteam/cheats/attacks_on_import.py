"""Attacks whoever imports it: its first line looks for a judge in the same process, and for what such a one would hold."""

import os
import sys

from . import plant
from .attempts import attempt, canned
from .seams import Asked, around


def judge_in_this_process() -> None:
    found = [name for name in sys.modules if name.startswith("sartor_")]
    if not found:
        raise ModuleNotFoundError("no module of a judge is loaded here")


def secrets_in_the_environment() -> None:
    known = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "PWD"}
    known |= {"HOSTNAME", "POD_IP", "TERMINATION_LOG", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    found = {name for name in os.environ if name not in known and not name.startswith(("PYTHON", "KUBERNETES_"))}
    if not found:
        raise LookupError("the environment holds nothing of interest")
    sys.stderr.write(f"environment: {sorted(found)}\n")


if plant.ON:
    attempt("find a judge in its process", judge_in_this_process)
    attempt("find secrets in the environment", secrets_in_the_environment)


async def answer(asked: Asked) -> None:
    if plant.ON and asked.body.get("ignore_eos"):
        await canned(asked)
    else:
        await asked.forward()


def install() -> None:
    around(answer)
