"""One role process: request in, response out, with only what the role may see."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.storage import storage_errors, write_atomic

Response = TypeVar("Response", bound=BaseModel)


class RoleError(Exception):
    """A role process gave no valid response: an infrastructure failure. `reason` is a CamelCase constant."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def role_command(role: str) -> Sequence[str]:
    """How a role is started; tests put other programs here."""
    return (sys.executable, "-m", f"sartor_agents.roles.{role}")


def run_role(
    role: str,
    request: BaseModel,
    response_type: type[Response],
    *,
    folder: Path,
    log: Path,
    timeout: float,
    memory_bytes: int | None,
    on_progress: Callable[[str], None] = lambda _: None,
    command: Callable[[str], Sequence[str]] = role_command,
    environment: Callable[[Path], Mapping[str, str]] = lambda _: {},
) -> Response:
    """Run `role` in the fresh working folder `folder` and return its response. Raises `RoleError`.

    `environment` gives variables for it, and may put files that they name into the folder.

    JSON lines on its standard error that have a `message` are progress; everything it prints goes to `log`.
    """
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
    source, target = folder / "request.json", folder / "response.json"
    write_atomic(source, request.model_dump_json(indent=1).encode(), mode=0o600)

    def line(text: str) -> None:
        if (message := _progress(text)) is not None:
            on_progress(message)

    with GuardedProcess(
        (*command(role), str(source), str(target)),
        cwd=folder,
        environment=scrubbed_environment(folder, environment(folder)),
        log=log,
        memory_bytes=memory_bytes,
        on_line=line,
    ) as process:
        ended = process.wait(timeout)
    match ended.problem:
        case "TimedOut":
            raise RoleError("RoleTimedOut", f"the {role} did not answer within {timeout:.0f} s; see {log.name}")
        case "MemoryExceeded":
            limit = (memory_bytes or 0) >> 20
            raise RoleError("RoleMemoryExceeded", f"the {role} used more than {limit} MiB of memory; see {log.name}")
        case _ if ended.code != 0:
            raise RoleError("RoleFailed", f"the {role} ended with exit code {ended.code}: {_last(process)}")
        case _:
            pass
    try:
        return response_type.model_validate_json(target.read_bytes())
    except FileNotFoundError:
        raise RoleError("RoleGaveNothing", f"the {role} ended without a response; see {log.name}") from None
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()
        raise RoleError("RoleAnsweredGarbage", f"the {role}'s response is not valid: {' '.join(first[:3])}") from error


def _progress(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    message = content.get("message") if isinstance(content, dict) else None
    return message if isinstance(message, str) else None


def _last(process: GuardedProcess) -> str:
    return process.tail(1) or "it wrote nothing"
