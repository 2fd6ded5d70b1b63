"""Checkpoints that Sartor makes itself, and finding and checking any checkpoint."""

from .chain import ChainFacts
from .check import SUPPORTED, Inspected, check_checkpoint
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
from .resolve import FolderSource, HubSource, Source, SyntheticSource, cache_folder, resolve
from .shapes import SIZES, Architecture, ModelShape, parameters

__all__ = [
    "SIZES",
    "SUPPORTED",
    "Architecture",
    "ChainFacts",
    "Checkpoint",
    "CheckpointError",
    "CheckpointExistsError",
    "CheckpointNotFoundError",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "FolderSource",
    "HubSource",
    "Inspected",
    "InvalidRequestError",
    "Kind",
    "ModelShape",
    "Source",
    "SyntheticSource",
    "UnsupportedArchitectureError",
    "cache_folder",
    "check_checkpoint",
    "content_digest",
    "make",
    "parameters",
    "read_record",
    "resolve",
]
