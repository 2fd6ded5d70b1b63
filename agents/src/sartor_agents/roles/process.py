"""The frame of a role process: read the request, do the work, write the response in one piece."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from sartor_agents.backends.protocol import BackendError
from sartor_agents.run.errors import StorageError
from sartor_agents.run.storage import write_atomic
from sartor_api.search.records import FailureClass, Verdict

Request = TypeVar("Request", bound=BaseModel)


def failure(gate: str, error: BackendError, *, candidate_allowed: bool) -> Verdict:
    """The verdict for a backend that gave up. A planner has no candidate to blame, so its own fault is the provider's."""
    blamed = error.failure_class
    if blamed is FailureClass.CANDIDATE and not candidate_allowed:
        blamed = FailureClass.PROVIDER
    return Verdict(gate=gate, passed=False, reason=error.reason, message=error.message, failure_class=blamed)


def serve(arguments: Sequence[str], request_type: type[Request], work: Callable[[Request], BaseModel]) -> int:
    """Run one role. Returns the exit code: 0 with a response written, 2 for a request that makes no sense, 3 when the
    response could not be written.

    Exceptions of `work` leave the process with a traceback on stderr, which the driver keeps in the step's log.
    """
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m sartor_agents.roles.ROLE REQUEST.json RESPONSE.json\n")
        return 2
    source, target = (Path(argument) for argument in arguments)
    try:
        request = request_type.model_validate_json(source.read_bytes())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"{source}: {error}\n")
        return 2
    response = work(request)
    try:
        write_atomic(target, response.model_dump_json(indent=1).encode())
    except StorageError as error:
        sys.stderr.write(f"the response cannot be written: {error}\n")
        return 3
    return 0


def leave(code: int) -> NoReturn:
    """End the process at once: the response is written, and to take an SDK's modules down piece by piece takes every step
    several tenths of a second. Exit handlers do not run, so this is for roles that have none."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
