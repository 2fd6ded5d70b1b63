"""Where the checkpoint of a synthesis lies on this machine."""

import contextlib
import os
import shutil
from pathlib import Path

from sartor_agents.checkpoints import CheckpointError, CheckpointExistsError, make
from sartor_agents.run.errors import BadRequestError
from sartor_api.model import Model

CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
)
"""What planner and implementer see of a model: its configuration, no weights and no test data."""


def cache_folder() -> Path:
    """Where checkpoints that Sartor makes are kept: `$SARTOR_CACHE`, else `~/.cache/sartor`."""
    return Path(os.environ.get("SARTOR_CACHE") or Path.home() / ".cache" / "sartor")


def resolve_model(model: Model, *, beside: Path, cache: Path) -> Path:
    """The absolute folder of the checkpoint, made or fetched when it is not there yet.

    `beside` is the folder of the manifest, which relative folders refer to. Raises `BadRequestError`.
    """
    source = model.source
    try:
        if (wanted := source.synthetic) is not None:
            name = f"{wanted.kind}-{wanted.architecture}-{wanted.size}-s{wanted.seed}-{model.dtype}"
            folder = cache / "checkpoints" / name
            if not folder.is_dir():
                # Another run may make it at the same time; it appears complete or not at all.
                with contextlib.suppress(CheckpointExistsError):
                    make(wanted.kind, wanted.architecture, wanted.size, wanted.seed, folder, dtype=model.dtype)
            return _checked(folder, f"spec.model.source.synthetic: {folder}")
        if (claim := source.persistent_volume_claim) is not None:
            folder = (beside / claim.claim_name / (claim.path or "")).resolve()
            return _checked(folder, f"spec.model.source.persistentVolumeClaim: {folder}")
        if (hub := source.hugging_face) is not None:
            return _checked(_hub(hub.repository, hub.revision, hub.endpoint), "spec.model.source.huggingFace")
    except CheckpointError as error:
        raise BadRequestError(f"spec.model.source: {error}") from error
    raise BadRequestError(
        "spec.model.source: oci and s3 need a cluster",
        "use huggingFace, persistentVolumeClaim (a folder) or synthetic with sartor run",
    )


def _hub(repository: str, revision: str, endpoint: object) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                endpoint=str(endpoint) if endpoint else None,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer*"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadRequestError(
            f"spec.model.source.huggingFace: {repository} at {revision[:12]} could not be fetched: {first}",
            "check the name, the network and the token (HF_TOKEN)",
        ) from error


def _checked(folder: Path, where: str) -> Path:
    if not folder.is_dir():
        raise BadRequestError(f"{where}: there is no such folder", "name the folder that holds config.json")
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        lacking = missing or ["*.safetensors"]
        raise BadRequestError(f"{where}: is no checkpoint, it lacks {', '.join(lacking)}")
    return folder


def configuration_copy(model_dir: Path, target: Path) -> Path:
    """A folder with the configuration files only, for roles that may not see weights."""
    target.mkdir(parents=True, exist_ok=True)
    for name in CONFIGURATION:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, target / name)
    return target
