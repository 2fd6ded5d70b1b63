"""The winner's bundle of a finished run: written beside the stack, and kept in the run's repository."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sartor_agents.evidence.build import BUILDER, bundle, write
from sartor_agents.evidence.errors import EvidenceError
from sartor_agents.run.errors import RunError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_api.search.records import StepKind
from sartor_api.search.state import RunState


def deliver(
    run: RunState,
    layout: RunLayout,
    repository: RunRepository,
    model_dir: Path,
    key: Ed25519PrivateKey | None,
    *,
    builder: str = BUILDER,
) -> str | None:
    """Write and commit the bundle of the confirmed candidate; returns its path, None when nothing was confirmed.

    Doing it again gives the same bytes. Raises `RunError` when evidence is missing: a winner that cannot be proven is none.
    """
    try:
        found = bundle(run, layout, repository, model_dir, key, builder=builder)
        if found is None:
            return None
        files, chosen = found
        path = write(files, layout.evidence)
    except (EvidenceError, OSError) as error:
        raise RunError(
            f"the winner's evidence cannot be written: {error}",
            "the run is whole; mend that and go on with: sartor run --resume --dir RUN",
        ) from error
    repository.save_evidence(path.name, path.read_bytes(), chosen.records[StepKind.CONFIRM].finished)
    return str(path)
