"""What a human asks of a run under way: a file beside its repository, written by `sartor steer`, read before each step.

The wishes are no records: they are read when a step begins, and what came of them is recorded there (the message with the
plan that was told it, under `steering/` in the repository).
"""

from pathlib import Path

from pydantic import ValidationError

from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.storage import write_atomic
from sartor_api.search.control import Control


def read_control(layout: RunLayout) -> Control:
    """The wishes as they stand; none where nobody ever had one. Raises `BadRequestError` for a file that says nothing."""
    try:
        return Control.model_validate_json(layout.control.read_bytes())
    except FileNotFoundError:
        return Control()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRequestError(
            f"{layout.control}: {first['msg']}", "write it with sartor steer, or delete it"
        ) from error


def write_control(layout: RunLayout, **changes: object) -> Control:
    """Change some wishes and leave the others; returns what stands now. Raises `BadRequestError`, `StorageError`."""
    try:
        changed = Control.model_validate({**read_control(layout).model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRequestError(f"{first['loc'][0]}: {first['msg']}") from error
    write_atomic(Path(layout.control), (changed.model_dump_json(indent=1) + "\n").encode())
    return changed
