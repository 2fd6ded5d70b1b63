"""Checkpoints that Sartor makes itself, and finding and checking any checkpoint."""

from .chain import ChainFacts
from .errors import (
    CheckpointError,
    CheckpointExistsError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    DamagedCheckpointError,
    InvalidRequestError,
    UnsupportedArchitectureError,
)
from .make import Checkpoint, Kind, content_digest, make, read_record
from .shapes import SIZES, Architecture, ModelShape, parameters

__all__ = [
    "SIZES",
    "Architecture",
    "ChainFacts",
    "Checkpoint",
    "CheckpointError",
    "CheckpointExistsError",
    "CheckpointNotFoundError",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "InvalidRequestError",
    "Kind",
    "ModelShape",
    "UnsupportedArchitectureError",
    "content_digest",
    "make",
    "parameters",
    "read_record",
]
