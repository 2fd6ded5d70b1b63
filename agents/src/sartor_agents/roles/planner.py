"""The planner's process: one hypothesis for the next round."""

import sys

from sartor_agents.backends import load_backend
from sartor_agents.backends.protocol import BackendError
from sartor_agents.roles.messages import PlanRequest, PlanResponse
from sartor_agents.roles.process import failure, leave, serve


def answer(request: PlanRequest) -> PlanResponse:
    backend = load_backend(request.backend)
    try:
        plan = backend.plan(request.context)
    except BackendError as error:
        return PlanResponse(failure=failure("plan", error, candidate_allowed=False), usage=backend.usage())
    return PlanResponse(plan=plan, usage=backend.usage())


if __name__ == "__main__":
    leave(serve(sys.argv[1:], PlanRequest, answer))
