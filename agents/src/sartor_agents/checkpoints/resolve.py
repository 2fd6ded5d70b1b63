"""From where a model is said to be to a checked folder on this machine."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.cache import cache_folder

from .check import check_checkpoint
from .errors import CheckpointError, CheckpointExistsError, CheckpointNotFoundError
from .make import MAKER_VERSION, make


@dataclass(frozen=True, slots=True)
class SyntheticSource:
    """A checkpoint that Sartor makes itself."""

    kind: str = "chain"
    architecture: str = "llama"
    size: str = "52m"
    seed: int = 0
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """Folder name in the cache: everything that decides the bytes."""
        return f"{self.kind}-{self.architecture}-{self.size}-seed{self.seed}-{self.dtype}-v{MAKER_VERSION}"


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder on this machine (a persistent volume claim without a cluster)."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a model hub at a commit."""

    repository: str
    revision: str
    """40 hex digits: branches and tags move."""
    endpoint: str | None = None
    token: str | None = None


Source = SyntheticSource | FolderSource | HubSource

HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt")


def resolve(source: Source, *, cache: Path | None = None) -> Path:
    """The folder of a checkpoint, checked by its headers; made or fetched where it is not there yet.

    Safe when several processes ask at once: a checkpoint appears complete or not at all, and the first one stays.
    Raises `CheckpointError`.
    """
    match source:
        case SyntheticSource():
            folder = (cache or cache_folder()) / "checkpoints" / source.name
            if not folder.is_dir():
                with contextlib.suppress(CheckpointExistsError):
                    make(source.kind, source.architecture, source.size, source.seed, folder, dtype=source.dtype)
        case FolderSource():
            folder = source.path
        case HubSource():
            folder = _fetch(source)
    check_checkpoint(folder)
    return folder


def _fetch(source: HubSource) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where = f"{source.repository} at {source.revision}"
    try:
        return Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                endpoint=source.endpoint,
                token=source.token,
                allow_patterns=list(HUB_FILES),
            )
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{where}: not in the local cache and the hub cannot be reached; check the network, or point to a folder"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{where} could not be fetched: {first}; check the name, the revision and HF_TOKEN"
        ) from error
