"""Making a checkpoint in a folder: all of it or nothing."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from . import shapes, tokenizer
from .chain import make_chain
from .errors import CheckpointExistsError, CheckpointWriteError, InvalidRequestError
from .make_config import write_config
from .safetensors_file import DTYPES, SHARD_BYTES, write_weights
from .shapes import Architecture, ModelShape, TensorShape
from .weights import DEFAULT_EPSILON, chain_initialiser, random_initialiser, stream
from .words import make_words

E = TypeVar("E", bound=StrEnum)
Fill = Callable[[TensorShape], "npt.NDArray[np.float32] | npt.NDArray[np.uint16]"]
"""Makes one tensor: numbers, or the bits of bfloat16."""


class ChainMaker(Protocol):
    """What `weights.chain_initialiser` is."""

    def __call__(
        self,
        architecture: Architecture,
        shape: ModelShape,
        seed: int,
        /,
        *,
        successor: npt.NDArray[np.int32],
        eos: int,
        epsilon: float,
    ) -> Fill: ...


MAKER_VERSION = 2
"""Part of the key of cached checkpoints: raise it whenever the same request gives other bytes."""
RECORD_NAME = "checkpoint.json"


class Kind(StrEnum):
    """What kind of weights."""

    RANDOM = "random"
    CHAIN = "chain"
    TINY_TRAINED = "tinyTrained"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished checkpoint."""

    path: Path
    parameters: int
    bytes: int
    """Of all files together."""
    sha256: str
    """Over names and contents of all files: the same request gives the same digest (not for `tinyTrained`)."""


def make(
    kind: Kind | str,
    architecture: Architecture | str,
    size: str | ModelShape,
    seed: int,
    out_dir: Path,
    *,
    dtype: str = "bfloat16",
    epsilon: float = DEFAULT_EPSILON,
    eos_every: int | None = None,
    minutes: float = 3.0,
    steps: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    initialiser: ChainMaker = chain_initialiser,
) -> Checkpoint:
    """Make a checkpoint in Hugging Face layout in the new folder `out_dir`.

    `size` is a name of `shapes.SIZES` or a shape. `epsilon` and `eos_every` are for `chain` (see `weights`, `chain`),
    `minutes` (or `steps`) bounds the training of `tinyTrained`, whose vocabulary is trained too. `initialiser` makes the
    tensors of a `chain` from other random numbers (a device's own).

    Written beside the target under a hidden name and renamed when complete, so a crash never leaves half a checkpoint
    under `out_dir`.

    Raises `InvalidRequestError`, `CheckpointExistsError`, `CheckpointWriteError`.
    """
    kind = _choice(Kind, kind, "kind")
    architecture = _choice(Architecture, architecture, "architecture")
    shape = shapes.shape_of(size) if isinstance(size, str) else size
    if dtype not in DTYPES:
        raise InvalidRequestError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    if seed < 0:
        raise InvalidRequestError(f"seed is {seed}; it must not be negative")
    if kind is not Kind.CHAIN and (epsilon != DEFAULT_EPSILON or eos_every is not None):
        raise InvalidRequestError("epsilon and eos_every belong to the kind chain only")

    def fill(folder: Path) -> None:
        if kind is Kind.TINY_TRAINED:
            from .trained import train  # PyTorch is needed for this kind only

            train(folder, architecture, shape, seed=seed, dtype=dtype, minutes=minutes, steps=steps)
            return
        chain = make_chain(shape.vocab, stream(seed, "chain"), eos_every=eos_every)
        if kind is Kind.CHAIN:
            fill_weights: Fill = initialiser(
                architecture, shape, seed, successor=chain.successor, eos=tokenizer.EOS, epsilon=epsilon
            )
            chain.save(folder)
        else:
            fill_weights = random_initialiser(architecture, shape, seed)
        words = make_words(len(chain.words), stream(seed, "words"))
        built = tokenizer.build_tokenizer(words, architecture)
        tokenizer.save_tokenizer(built, architecture, shape.max_positions, folder)
        write_config(folder, architecture, shape, dtype)
        write_weights(folder, shapes.tensors(architecture, shape), fill_weights, dtype=dtype, shard_bytes=shard_bytes)

    request = {
        "kind": kind.value,
        "architecture": architecture.value,
        "size": size if isinstance(size, str) else "custom",
        "seed": seed,
        "dtype": dtype,
        "makerVersion": MAKER_VERSION,
    }
    return _publish(out_dir, fill, request, shapes.parameters(architecture, shape))


def _choice(options: type[E], value: str, what: str) -> E:
    try:
        return options(value)
    except ValueError:
        raise InvalidRequestError(f"unknown {what} {value!r}; there are: {', '.join(options)}") from None


def _publish(out_dir: Path, fill: Callable[[Path], None], request: Mapping[str, object], parameters: int) -> Checkpoint:
    """Fill a hidden neighbour of `out_dir`, record what it is, and rename it into place."""
    if out_dir.exists():
        raise CheckpointExistsError(f"{out_dir} exists already; choose another folder or remove it first")
    try:
        with _staging(out_dir) as staging:
            fill(staging)
            digest = content_digest(staging)
            size = sum(file.stat().st_size for file in staging.iterdir())
            record = {**request, "parameters": parameters, "bytes": size, "sha256": digest}
            tokenizer.write_json(staging / RECORD_NAME, record)
            for file in staging.iterdir():
                _flush(file)
            _rename(staging, out_dir)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(out_dir)).free
            raise CheckpointWriteError(
                f"{out_dir}: the disk is full ({free / 1e6:.0f} MB free); free some space or choose a folder elsewhere"
            ) from error
        raise CheckpointWriteError(f"{out_dir}: cannot be written: {error.strerror or error}") from error
    return Checkpoint(out_dir, parameters, size, digest)


def _rename(staging: Path, out_dir: Path) -> None:
    try:
        staging.rename(out_dir)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise CheckpointExistsError(f"{out_dir} was made by someone else meanwhile; use that one") from error
        raise


@contextlib.contextmanager
def _staging(out_dir: Path) -> Generator[Path]:
    """A hidden folder beside `out_dir`, gone afterwards unless renamed. Sweeps up what killed makers left.

    Its maker holds a lock on it, so a folder that can be locked has lost its maker. The parent is locked while folders
    are made or swept, so that nobody sweeps one between its making and its lock.
    """
    parent = out_dir.parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = parent / f".{out_dir.name}.{uuid.uuid4().hex[:8]}.partial"
    with contextlib.ExitStack() as held:
        with _locked(parent, fcntl.LOCK_EX):
            for left in parent.glob(f".{out_dir.name}.*.partial"):
                with contextlib.suppress(BlockingIOError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            staging.mkdir()
            held.callback(shutil.rmtree, staging, ignore_errors=True)
            held.enter_context(_locked(staging, fcntl.LOCK_EX))
        yield staging


@contextlib.contextmanager
def _locked(folder: Path, operation: int) -> Generator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def content_digest(folder: Path) -> str:
    """SHA-256 over the sorted names and contents of the files in a folder, its own record aside."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != RECORD_NAME:
            with file.open("rb") as content:
                own = hashlib.file_digest(content, "sha256").hexdigest()
            total.update(f"{own}  {file.name}\n".encode())
    return total.hexdigest()


def read_record(folder: Path) -> dict[str, object]:
    """What `make` wrote about a checkpoint (`checkpoint.json`); empty for checkpoints from elsewhere."""
    path = folder / RECORD_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
