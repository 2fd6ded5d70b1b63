"""Where the checkpoint of a synthesis lies on this machine."""

import shutil
from pathlib import Path

from sartor_agents.checkpoints import (
    CheckpointError,
    FolderSource,
    HubSource,
    Source,
    SyntheticSource,
    resolve,
)
from sartor_agents.run.errors import BadRequestError
from sartor_api.model import Model

__all__ = ["CONFIGURATION", "configuration_copy", "resolve_model"]

CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
)
"""What planner and implementer see of a model: its configuration, no weights and no test data."""


def resolve_model(model: Model, *, beside: Path, cache: Path) -> Path:
    """The absolute folder of the checkpoint, checked, and made or fetched when it is not there yet.

    `beside` is the folder of the manifest, which relative folders refer to. Raises `BadRequestError`.
    """
    where, source = _source(model, beside)
    try:
        return resolve(source, cache=cache).absolute()
    except CheckpointError as error:
        raise BadRequestError(f"spec.model.source.{where}: {error}") from error


def _source(model: Model, beside: Path) -> tuple[str, Source]:
    source = model.source
    if (wanted := source.synthetic) is not None:
        return "synthetic", SyntheticSource(wanted.kind, wanted.architecture, wanted.size, wanted.seed, model.dtype)
    if (claim := source.persistent_volume_claim) is not None:
        folder = (beside / claim.claim_name / (claim.path or "")).resolve()
        return "persistentVolumeClaim", FolderSource(folder)
    if (hub := source.hugging_face) is not None:
        endpoint = str(hub.endpoint) if hub.endpoint else None
        return "huggingFace", HubSource(hub.repository, hub.revision, endpoint)
    raise BadRequestError(
        "spec.model.source: oci and s3 need a cluster",
        "use huggingFace, persistentVolumeClaim (a folder) or synthetic with sartor run",
    )


def configuration_copy(model_dir: Path, target: Path) -> Path:
    """A folder with the configuration files only, for roles that may not see weights."""
    target.mkdir(parents=True, exist_ok=True)
    for name in CONFIGURATION:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, target / name)
    return target
