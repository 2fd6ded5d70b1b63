"""`fetch-model`: puts the checkpoint into an empty volume, for pods that do not mount a claim.

`SARTOR_MODEL_SOURCE` is the synthesis's `spec.model.source` as JSON, `SARTOR_MODEL` the folder, `SARTOR_MODEL_DTYPE` the
type of a synthetic one (bfloat16). With `SARTOR_CONFIGURATION_ONLY` = true nothing but the configuration gets there.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from sartor_agents.checkpoints import HubSource, Source, SyntheticSource, cache_folder, check_checkpoint, resolve
from sartor_agents.pods.contract import ContractError, first_problem
from sartor_agents.run.model import CONFIGURATION
from sartor_agents.run.storage import storage_errors
from sartor_api.model import ModelSource


def fetch(values: Mapping[str, str]) -> None:
    """Raises `ContractError`, `CheckpointError`, `StorageError`. `HF_HOME` should lie on the volume of `SARTOR_MODEL`."""
    target = Path(values.get("SARTOR_MODEL") or "/model")
    if not target.is_dir():
        raise ContractError(f"SARTOR_MODEL: {target} is no folder; mount an empty volume there")
    scratch = target / ".fetch"
    wanted = source(values)
    with storage_errors(target):
        folder = held(wanted) or resolve(wanted, cache=scratch)
        only = values.get("SARTOR_CONFIGURATION_ONLY") == "true"
        for file in sorted(folder.iterdir()):
            if file.is_file() and (not only or file.name in CONFIGURATION):
                # The hub's client keeps links to its blobs; what counts is the file.
                if folder.is_relative_to(target):
                    _move(file.resolve(), target / file.name)
                else:
                    shutil.copyfile(file, target / file.name)
        shutil.rmtree(scratch, ignore_errors=True)
    if not only:
        check_checkpoint(target)


def held(wanted: Source) -> Path | None:
    """The folder of a checkpoint that the image has already (below `$SARTOR_CACHE`), if it has."""
    if not isinstance(wanted, SyntheticSource) or "SARTOR_CACHE" not in os.environ:
        return None
    folder = cache_folder() / "checkpoints" / wanted.name
    return folder if folder.is_dir() else None


def _move(file: Path, target: Path) -> None:
    try:
        file.replace(target)
    except OSError:
        shutil.copyfile(file, target)


def source(values: Mapping[str, str]) -> Source:
    """Where the checkpoint comes from. Raises `ContractError`."""
    text = values.get("SARTOR_MODEL_SOURCE")
    if not text:
        raise ContractError("SARTOR_MODEL_SOURCE is not set; the operator sets it")
    try:
        asked = ModelSource.model_validate_json(text)
    except ValidationError as error:
        raise ContractError(f"SARTOR_MODEL_SOURCE is no source of a model: {first_problem(error)}") from error
    if (made := asked.synthetic) is not None:
        dtype = values.get("SARTOR_MODEL_DTYPE") or "bfloat16"
        return SyntheticSource(made.kind, made.architecture, made.size, made.seed, dtype)
    if (hub := asked.hugging_face) is not None:
        endpoint = str(hub.endpoint) if hub.endpoint else None
        return HubSource(hub.repository, hub.revision, endpoint, values.get("HF_TOKEN") or None)
    raise ContractError(
        "SARTOR_MODEL_SOURCE: models from oci and s3 cannot be fetched yet; use huggingFace, synthetic, or a "
        "persistentVolumeClaim that holds the checkpoint"
    )
