"""Exit codes, and how errors reach a user: one sentence, never a traceback."""

import functools
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from sartor_agents.checkpoints import CheckpointError
from sartor_agents.evidence.signing import SignatureError
from sartor_agents.run.errors import (
    BadRequestError,
    DamagedRepositoryError,
    NotARunError,
    RunError,
    RunExistsError,
    RunLockedError,
    StorageError,
)
from sartor_agents.run.servers import ServerError
from sartor_api.search.records import Outcome

P = ParamSpec("P")


class ExitCode(IntEnum):
    """What `sartor` exits with."""

    CONFIRMED = 0
    """The command did what it should; for `run`: a speed-up was confirmed."""
    CRASHED = 1
    """A defect in Sartor; the message names the file with the traceback."""
    BAD_REQUEST = 2
    """Wrong options, a bad manifest, a missing or damaged checkpoint."""
    NO_SPEEDUP = 3
    """The search ended normally; nothing beat the baseline by the minimum effect."""
    NOT_CONFIRMED = 4
    """A candidate looked faster, and the confirmation did not hold."""
    FAILED = 5
    """The run could not be carried out (baseline, machine, provider)."""
    NOT_POSSIBLE = 6
    """The folder is in use by another process, holds something else, or is no run."""
    DAMAGED = 7
    """The run's repository is damaged; the message says how to go back."""
    STORAGE = 8
    """The disk is full, or cannot be written; what was recorded is whole."""
    NOT_PROVEN = 9
    """`verify`: the bundle does not hold together, or its claim was not found again. `evaluate`: a gate did not pass."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C or SIGTERM; `--resume` goes on."""


OUTCOMES = {
    Outcome.CONFIRMED: ExitCode.CONFIRMED,
    Outcome.NO_SPEEDUP: ExitCode.NO_SPEEDUP,
    Outcome.NOT_CONFIRMED: ExitCode.NOT_CONFIRMED,
    Outcome.FAILED: ExitCode.FAILED,
}

_ERRORS: tuple[tuple[type[Exception], ExitCode], ...] = (
    (BadRequestError, ExitCode.BAD_REQUEST),
    (CheckpointError, ExitCode.BAD_REQUEST),
    (RunLockedError, ExitCode.NOT_POSSIBLE),
    (RunExistsError, ExitCode.NOT_POSSIBLE),
    (NotARunError, ExitCode.NOT_POSSIBLE),
    (DamagedRepositoryError, ExitCode.DAMAGED),
    (StorageError, ExitCode.STORAGE),
    (SignatureError, ExitCode.BAD_REQUEST),
    (RunError, ExitCode.FAILED),
    (ServerError, ExitCode.FAILED),
)


def _fail(message: str, code: ExitCode) -> NoReturn:
    print(f"sartor: {message}", file=sys.stderr)
    raise typer.Exit(code)


def user_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Turn every error of a command into its message and exit code; a defect into a log file."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone; there is nobody to tell.
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - the last place where an error can become a sentence
            for kind, code in _ERRORS:
                if isinstance(error, kind):
                    _fail(str(error), code)
            _fail(
                f"defect: {type(error).__name__}: {_first(error)}; the details are in {_write_crash()}",
                ExitCode.CRASHED,
            )

    return wrapped


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")[:200]


def _write_crash() -> Path:
    with tempfile.NamedTemporaryFile("w", prefix="sartor-crash-", suffix=".log", delete=False) as file:
        traceback.print_exc(file=file)
        return Path(file.name)


def terminate_like_interrupt() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: cleanly, with everything that it started."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, interrupt)
