"""The evaluator's process: candidate and baseline over HTTP, nothing else of either."""

import functools
import resource
import sys

import uvloop

from sartor_agents.judge.audit import Auditor
from sartor_agents.judge.verify import verifier
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import EvaluateRequest, EvaluateResponse
from sartor_agents.measurement.progress import JsonLines
from sartor_agents.roles.judge import open_reference
from sartor_agents.roles.process import serve


def answer(request: EvaluateRequest) -> EvaluateResponse:
    # An open loop may have as many connections in flight as the server lets pile up.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    request.output_dir.mkdir(parents=True, exist_ok=True)
    # Its weights are loaded once.
    reference = functools.partial(open_reference, cache=request.reference_cache, device=request.reference)
    opened = functools.cache(reference)
    verify, audit = verifier(opened), Auditor(opened)
    return uvloop.run(evaluate(request, verify=verify, audit=audit, progress=JsonLines()))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], EvaluateRequest, answer))
