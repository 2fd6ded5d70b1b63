"""The judge's process: the candidate over HTTP, the reference by `transformers`."""

import functools
import sys
from pathlib import Path

import uvloop

from sartor_agents.judge.gate import judge
from sartor_agents.judge.reference_check import Checker
from sartor_agents.measurement.messages import JudgeRequest, JudgeResponse
from sartor_agents.measurement.progress import JsonLines
from sartor_agents.roles.process import serve


def open_reference(model_dir: Path, *, cache: Path | None = None, device: str = "cpu") -> Checker:
    """The reference of a model folder on `device`; what it reads is kept in `cache`, if that is given.

    Imported here: torch takes seconds and memory that a measurement must not share.
    """
    if device != "cpu":
        from sartor_agents.judge.reference_device import DeviceReference

        return DeviceReference(model_dir, device, cache_dir=cache)
    from sartor_agents.judge.reference import Reference

    return Reference(model_dir, cache_dir=cache)


def answer(request: JudgeRequest) -> JudgeResponse:
    request.output_dir.mkdir(parents=True, exist_ok=True)
    opened = functools.partial(open_reference, cache=request.reference_cache, device=request.reference)
    return uvloop.run(judge(request, open_reference=opened, progress=JsonLines()))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], JudgeRequest, answer))
