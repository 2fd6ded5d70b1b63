"""`fetch-model`: puts the checkpoint into an empty volume, for pods that do not mount a claim.

`SARTOR_MODEL_SOURCE` is the synthesis's `spec.model.source` as JSON, `SARTOR_MODEL` the folder, `SARTOR_MODEL_DTYPE` the
type of a synthetic one (bfloat16). `SARTOR_MODEL_PART` says how much of it gets there: `all`; `served`, without the answers
that a made checkpoint has beside its weights, which are sealed data; or `configuration`, without weights.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from sartor_agents.checkpoints import HubSource, Source, SyntheticSource, cache_folder, chain, check_checkpoint, resolve
from sartor_agents.pods.contract import ContractError, first_problem
from sartor_agents.run.model import CONFIGURATION
from sartor_agents.run.storage import storage_errors
from sartor_api.model import ModelSource
from sartor_api.search.wire import ModelPart


def fetch(values: Mapping[str, str]) -> None:
    """Raises `ContractError`, `CheckpointError`, `StorageError`. `HF_HOME` should lie on the volume of `SARTOR_MODEL`."""
    target = Path(values.get("SARTOR_MODEL") or "/model")
    if not target.is_dir():
        raise ContractError(f"SARTOR_MODEL: {target} is no folder; mount an empty volume there")
    scratch = target / ".fetch"
    wanted, much = source(values), values.get("SARTOR_MODEL_PART", "all")
    if much not in get_args(ModelPart):
        raise ContractError(f"SARTOR_MODEL_PART: {much!r} is none of {', '.join(get_args(ModelPart))}")
    with storage_errors(target):
        folder = held(wanted) or resolve(wanted, cache=scratch)
        for file in sorted(folder.iterdir()):
            if file.is_file() and _belongs(file.name, much):
                # The hub's client keeps links to its blobs; what counts is the file.
                if folder.is_relative_to(target):
                    _move(file.resolve(), target / file.name)
                else:
                    shutil.copyfile(file, target / file.name)
        shutil.rmtree(scratch, ignore_errors=True)
    if much != "configuration":
        check_checkpoint(target)


def _belongs(name: str, much: str) -> bool:
    if much == "configuration":
        return name in CONFIGURATION
    return much == "all" or name != chain.FILE_NAME


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
