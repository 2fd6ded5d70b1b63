"""From a finished run to its winner's bundle.

| path | what |
|---|---|
| `provenance.json` | in-toto statement: subject, what it rests on, the hash of every other file |
| `provenance.dsse.json` | the same, signed, where the user gave a key |
| `run.json` | the snapshot of what was asked |
| `steps/KIND.json` | the records of baseline, plan, implement, judge, evaluate and confirm, from the run's repository |
| `steps/{evaluate,confirm}/` | windows and raw samples of each measurement |
| `steps/judge/` | the raw samples that the judge looked at |
| `seeds.json` | key and seeds with the hashes that they were committed to by |
| `stack/`, `parent/stack/`, `diff.patch` | the candidate, what it was made from, and the difference |
| `model/` | configuration and tokenizer of the model, for counting tokens and making prompts again |
| `history.git` | the commits of the run, which prove the order of commitments and results |

The same run gives the same bytes.
"""

import difflib
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, JsonValue

from sartor_agents.evidence import archive, history, signing
from sartor_agents.evidence.errors import EvidenceError
from sartor_agents.evidence.statement import (
    ENVELOPE,
    PROVENANCE,
    BuildDefinition,
    Builder,
    Metadata,
    Predicate,
    Resource,
    RunDetails,
    Statement,
    byproducts,
    timestamp,
)
from sartor_agents.measurement.environment import evaluator_digest
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.model import CONFIGURATION
from sartor_agents.run.record_paths import record_path
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import KEY_COMMITMENT, Seals, seed_path
from sartor_agents.run.storage import write_atomic
from sartor_api.search.records import (
    BaselineRecord,
    Implementation,
    Measurement,
    Plan,
    SeedCommitment,
    StepKind,
    StepRecord,
)
from sartor_api.search.state import Candidate, RunState

BUILDER = "https://sartor.dev/builders/local/v1"
MODEL_FILES = (*CONFIGURATION, "chain.json")
SEALED_STEPS = (StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM)
_MEASURED = (StepKind.EVALUATE, StepKind.CONFIRM)


class StepSeed(BaseModel):
    """One revealed seed, and the step (`003/judge/1/1`) that used it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    seed: SeedCommitment


class Seeds(BaseModel):
    """`seeds.json`. `key`: the key that all seeds of the run were derived from, committed to in its first commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: SeedCommitment | None
    steps: tuple[StepSeed, ...]


@dataclass(frozen=True)
class Chosen:
    """The records that lead to one confirmed candidate, by step."""

    candidate: Candidate
    records: Mapping[StepKind, StepRecord]


def chosen(run: RunState) -> Chosen | None:
    """The confirmed candidate of a run with its records; None when no confirmation held. Raises `EvidenceError`."""
    confirmed = next((record for record in reversed(run.confirmations) if run.holds(record)), None)
    if confirmed is None:
        return None
    order = run.kept[::-1]
    candidate = order[confirmed.attempt - 1]
    records = {StepKind.CONFIRM: confirmed}
    for record in run.records:
        mine = record.round == candidate.round and record.failure is None
        if record.step is StepKind.BASELINE and isinstance(record.result, BaselineRecord):
            records.setdefault(record.step, record)
        elif mine and isinstance(record.result, Implementation):
            if record.result.commit == candidate.commit:
                records[record.step] = record
        elif mine and record.step in (StepKind.PLAN, StepKind.JUDGE, StepKind.EVALUATE):
            records[record.step] = record
    if missing := [kind.value for kind in StepKind if kind not in records]:
        raise EvidenceError(f"the run has no record of {', '.join(missing)} for round {candidate.round}")
    return Chosen(candidate, records)


def bundle(
    run: RunState,
    layout: RunLayout,
    repository: RunRepository,
    model_dir: Path,
    key: Ed25519PrivateKey | None,
    *,
    builder: str = BUILDER,
) -> tuple[dict[str, bytes], Chosen] | None:
    """The files of the bundle, and whose it is; None when the run has no confirmed candidate.

    Raises `EvidenceError` when something that it needs is gone, `RunError` when the repository is damaged.
    """
    found = chosen(run)
    if found is None:
        return None
    files: dict[str, bytes] = {"run.json": _kept(repository, "run.json")}
    for kind, record in found.records.items():
        files[f"steps/{kind.value}.json"] = _kept(repository, record_path(record))
    for kind in SEALED_STEPS:
        files |= _samples(layout, found.records[kind])
    stack = repository.candidate_files(found.candidate.commit)
    plan = found.records[StepKind.PLAN].result
    assert isinstance(plan, Plan), "a plan step without failure has a plan"
    parent = repository.candidate_files(plan.parent) if plan.parent is not None else {}
    files |= stack | {f"parent/{path}": content for path, content in parent.items()}
    files["diff.patch"] = difference(parent, stack)
    files["seeds.json"] = _seeds(Seals(layout.sealed), found)
    files |= {f"model/{name}": (model_dir / name).read_bytes() for name in MODEL_FILES if (model_dir / name).is_file()}
    # The commit that brought the confirmation: whatever is committed later, the bundle stays the same.
    tip = repository.added(record_path(found.records[StepKind.CONFIRM]))
    assert tip is not None, "a record that was loaded was committed"
    files["history.git"] = history.collect(repository, tip, _paths(repository, tip, run, found))
    repository.close()
    statement = _statement(run, found, model_dir, tip, files, builder)
    files[PROVENANCE] = statement.as_file()
    if key is not None:
        files[ENVELOPE] = signing.sign(files[PROVENANCE], key)
    return files, found


def _kept(repository: RunRepository, path: str) -> bytes:
    text = repository.read_text(path)
    if text is None:
        raise EvidenceError(f"{path} is not in the run's repository")
    return text.encode()


def _samples(layout: RunLayout, record: StepRecord) -> dict[str, bytes]:
    """What a look at the candidate left: windows and samples of a measurement, samples of the judge."""
    name = record.id.replace("/", "-")
    folder = (layout.samples if record.step in _MEASURED else layout.sealed) / name
    found = {
        f"steps/{record.step.value}/{path.name}": path.read_bytes()
        for path in sorted(folder.glob("*"))
        if path.is_file() and path.name.startswith(("samples.", "windows."))
    }
    result = record.result
    if isinstance(result, Measurement) and (result.samples is None or len(found) < 2):
        raise EvidenceError(f"the raw samples of step {record.id} are not in {folder.name}")
    return found


def _seeds(seals: Seals, found: Chosen) -> bytes:
    steps = tuple(
        StepSeed(step=found.records[kind].id, seed=SeedCommitment.of(seals.seed(found.records[kind].id)))
        for kind in SEALED_STEPS
    )
    return Seeds(key=SeedCommitment.of(seals.key), steps=steps).model_dump_json(indent=1).encode() + b"\n"


def _paths(repository: RunRepository, tip: str, run: RunState, found: Chosen) -> dict[str, set[str]]:
    """Which files of which commits the proof of order shows."""
    first = repository.added("run.json")
    assert first is not None, "a run's first commit has run.json"
    paths: dict[str, set[str]] = {first: {"run.json", KEY_COMMITMENT}}
    paths[tip] = {"run.json", "ledger.json", *(record_path(record) for record in run.records)}
    for kind in SEALED_STEPS:
        record = found.records[kind]
        committed = repository.added(seed_path(record.id))
        if committed is None:
            raise EvidenceError(f"the run's repository has no commitment to the seed of step {record.id}")
        paths.setdefault(committed, set()).update((seed_path(record.id), record_path(record)))
    return paths


def difference(parent: Mapping[str, bytes], stack: Mapping[str, bytes]) -> bytes:
    """A unified diff of all files, sorted by path; of what is no UTF-8 text only that it differs."""
    lines: list[str] = []
    for path in sorted({*parent, *stack}):
        before, after = parent.get(path), stack.get(path)
        if before == after:
            continue
        old, new = (
            (f"a/{path}" if before is not None else "/dev/null"),
            (f"b/{path}" if after is not None else "/dev/null"),
        )
        try:
            was, now = ((content or b"").decode().splitlines(keepends=True) for content in (before, after))
        except UnicodeDecodeError:
            lines.append(f"Binary files {old} and {new} differ\n")
            continue
        lines += [
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(was, now, old, new)
        ]
    return "".join(lines).encode()


def _statement(
    run: RunState, found: Chosen, model_dir: Path, tip: str, files: Mapping[str, bytes], builder: str
) -> Statement:
    baseline = found.records[StepKind.BASELINE].result
    plan = found.records[StepKind.PLAN].result
    assert isinstance(baseline, BaselineRecord) and isinstance(plan, Plan), "as `chosen` picked them"
    spec = run.spec
    return Statement(
        subject=(
            Resource(
                name="stack",
                digest={"sha256": found.candidate.content_hash, "gitCommit": found.candidate.commit},
            ),
        ),
        predicate=Predicate(
            build_definition=BuildDefinition(
                external_parameters={"intent": spec.synthesis, "intentSha256": spec.content_hash()},
                internal_parameters={
                    "round": found.candidate.round,
                    "recipes": [recipe.model_dump(mode="json") for recipe in plan.recipes],
                },
                resolved_dependencies=(
                    Resource(name="model", digest={"sha256": model_digest(model_dir)}, annotations=_model(model_dir)),
                    Resource(
                        name="baseline",
                        annotations={
                            "engine": baseline.engine,
                            "version": baseline.version,
                            "arguments": list(baseline.arguments),
                            "environment": dict(baseline.environment),
                        },
                    ),
                    Resource(name="run", digest={"gitCommit": tip}),
                    *([Resource(name="parent", digest={"gitCommit": plan.parent})] if plan.parent else []),
                ),
            ),
            run_details=RunDetails(
                builder=Builder(id=builder, version=versions()),
                metadata=Metadata(
                    invocation_id=f"{spec.name}/{spec.content_hash()[:16]}",
                    started_on=timestamp(spec.created),
                    finished_on=timestamp(found.records[StepKind.CONFIRM].finished),
                ),
                byproducts=byproducts(files),
            ),
        ),
    )


def versions() -> dict[str, str]:
    """What made the evidence. `evaluator`: SHA-256 over the sources that measure and judge."""
    return {
        "sartor-agents": metadata.version("sartor-agents"),
        "python": platform.python_version(),
        "evaluator": evaluator_digest(),
    }


def model_digest(model_dir: Path) -> str:
    """SHA-256 over the sorted names and hashes of a checkpoint's files, weights included."""
    total = hashlib.sha256()
    for name, value in sorted(_hashes(model_dir).items()):
        total.update(f"{value}  {name}\n".encode())
    return total.hexdigest()


def _model(model_dir: Path) -> dict[str, JsonValue]:
    return {"files": dict(sorted(_hashes(model_dir).items()))}


def _hashes(model_dir: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as content:
                found[path.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def write(files: Mapping[str, bytes], folder: Path) -> Path:
    """The bundle as `SHA256.tar` in `folder`. Raises `EvidenceError`, `StorageError`."""
    content = archive.pack(files)
    path = folder / f"{archive.digest(content)}.tar"
    write_atomic(path, content)
    return path
