"""Errors of a run that a user reads: one sentence on what was wrong and where, and what to do next.

RunError
├── BadRequestError        what was asked cannot be run (exit code 2)
├── RunLockedError         another process works on this run
├── RunExistsError         the folder holds a run already, and --resume was not given
├── NotARunError           the folder is no run
├── DamagedRepositoryError the run's repository is not as this program left it
└── StorageError           the disk is full or cannot be written
"""


class RunError(Exception):
    """Base; `str(error)` is the whole message, hint included."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  {hint}" if hint else message)
        self.message = message
        self.hint = hint


class BadRequestError(RunError):
    """What was asked cannot be run: a missing checkpoint, an unsupported scenario or platform."""


class RunLockedError(RunError):
    """Another process works on this run; nothing was touched."""


class RunExistsError(RunError):
    """The folder holds a run already, or something else; nothing was touched."""


class NotARunError(RunError):
    """The folder is no run (or one that never got as far as its first commit)."""


class DamagedRepositoryError(RunError):
    """The run's repository is not as Sartor left it; nothing was changed in it."""


class StorageError(RunError):
    """The disk is full, or the run's folder cannot be written. What was recorded before is whole."""
