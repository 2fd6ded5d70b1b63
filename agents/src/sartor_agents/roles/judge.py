"""The judge's process: the candidate over HTTP, the reference by `transformers`."""

import sys
from pathlib import Path

import uvloop

from sartor_agents.checkpoints import cache_folder
from sartor_agents.judge.gate import judge
from sartor_agents.judge.reference_check import Checker
from sartor_agents.measurement.messages import JudgeRequest, JudgeResponse
from sartor_agents.measurement.progress import JsonLines
from sartor_agents.roles.process import serve


def open_reference(model_dir: Path) -> Checker:
    """The reference of a model folder. Imported here: torch takes seconds and memory that a measurement must not share."""
    from sartor_agents.judge.reference import Reference

    return Reference(model_dir, cache_dir=cache_folder() / "reference")


def answer(request: JudgeRequest) -> JudgeResponse:
    request.output_dir.mkdir(parents=True, exist_ok=True)
    return uvloop.run(judge(request, open_reference=open_reference, progress=JsonLines()))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], JudgeRequest, answer))
