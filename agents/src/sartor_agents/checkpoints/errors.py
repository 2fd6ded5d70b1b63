"""What can go wrong with a checkpoint, as one tree; every message says what, where, and what to do next."""


class CheckpointError(Exception):
    """Any problem with making, finding or reading a checkpoint. `str(error)` is meant for the user."""


class InvalidRequestError(CheckpointError):
    """What was asked for cannot be made: unknown size, kind or architecture, or a shape that does not fit together."""


class CheckpointExistsError(CheckpointError):
    """The folder to write to is already there; nothing is ever overwritten."""


class CheckpointWriteError(CheckpointError):
    """Writing failed (full disk, no permission). Nothing is left behind."""


class CheckpointNotFoundError(CheckpointError):
    """No folder, or no checkpoint in it."""


class UnsupportedArchitectureError(CheckpointError):
    """`config.json` names a model class that no building block implements."""


class DamagedCheckpointError(CheckpointError):
    """A file is truncated, unreadable, or contradicts another one. Names the file, and the tensor where there is one."""
