"""The implementer's process: writes `stack/` into its worktree, and nothing else."""

import sys

from sartor_agents.backends import load_backend
from sartor_agents.backends.protocol import BackendError
from sartor_agents.roles.messages import ImplementRequest, ImplementResponse
from sartor_agents.roles.process import failure, leave, serve


def answer(request: ImplementRequest) -> ImplementResponse:
    backend = load_backend(request.backend)
    try:
        done = backend.implement(request.context)
    except BackendError as error:
        failed = failure("implement", error, candidate_allowed=True)
        return ImplementResponse(failure=failed, usage=backend.usage())
    return ImplementResponse(implementation=done, usage=backend.usage())


if __name__ == "__main__":
    leave(serve(sys.argv[1:], ImplementRequest, answer))
