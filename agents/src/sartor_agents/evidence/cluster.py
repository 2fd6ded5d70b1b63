"""A run of a cluster, laid out as a run's folder, so that its winner's bundle is made and checked like any other.

In a cluster the operator keeps a run's memory in ConfigMaps and its key in a Secret, and judge and evaluator keep what is
large in the run's sealed repository. `read_export` reads the former as `kubectl get configmaps,secrets -o json` prints them;
a `Source` gives the latter. Each full record has to have the digest that the operator recorded, and each seed the hash that
was in its step before the step began.

What cannot be carried over is git's proof of order: when the hash of a seed was settled is what the API server says of an
immutable ConfigMap. The history of such a bundle is written here, so it names `CLUSTER_BUILDER`, and `sartor verify` calls
the order unchecked.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from sartor_agents.evidence.build import SEALED_STEPS
from sartor_agents.evidence.errors import EvidenceError
from sartor_agents.pods.remote import Remote
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import KEY_COMMITMENT, Seals, seed_path
from sartor_agents.run.storage import write_atomic
from sartor_api.search.budget import Ledger
from sartor_api.search.records import Implementation, RunSpec, StepKind, StepRecord
from sartor_api.search.wire import StepBegin, StepReport, StoredRecord

CLUSTER_BUILDER = "https://sartor.dev/builders/cluster/v1"

M = TypeVar("M", bound=BaseModel)

_PART = "sartor.dev/part"
_NOTES = "refs/notes/sartor/"


@dataclass(frozen=True)
class Export:
    """A run's memory. `steps` and `records` by the step's id."""

    spec: RunSpec
    key: str
    steps: Mapping[str, StepBegin]
    records: Mapping[str, StoredRecord]


class Source(Protocol):
    """What the roles kept. Both may raise `RemoteError` and `RefusedError`."""

    def sealed(self, step: StepKind, name: str) -> Mapping[str, bytes]:
        """The files that judge or evaluator kept of the step `name` (`001-judge-1-1`), empty if there are none."""
        ...

    def pack(self, commits: Sequence[str]) -> bytes:
        """These commits and all that they lead to, as git packs them."""
        ...


class Repositories:
    """The two repositories of a run, over HTTP, for somebody who may read both."""

    def __init__(self, candidates: Remote, sealed: Remote) -> None:
        self._candidates, self._sealed = candidates, sealed

    def sealed(self, step: StepKind, name: str) -> Mapping[str, bytes]:
        tip = self._sealed.fetch_tip(_NOTES + ("judge" if step is StepKind.JUDGE else "evaluator"), contents=True)
        folder = f"steps/{name}/"
        if tip is None or not self._sealed.paths(tip, folder):
            return {}
        return {path.removeprefix(folder): data for path, data in self._sealed.files(tip, folder).items()}

    def pack(self, commits: Sequence[str]) -> bytes:
        for commit in commits:
            self._candidates.fetch(commit, contents=True)
        return self._candidates.pack(commits)


def read_export(content: bytes) -> Export:
    """The memory of one run from `kubectl get configmaps,secrets -l sartor.dev/run=RUN -o json`.

    Raises `EvidenceError` naming the object and the field.
    """
    try:
        items: list[dict[str, Any]] = json.loads(content)["items"]
        parts = [(str(item["metadata"].get("labels", {}).get(_PART, "")), item) for item in items]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EvidenceError(
            "the export is no list of objects; make it with: kubectl get configmaps,secrets -l sartor.dev/run=RUN -o json"
        ) from None
    specs = [_parsed(item, "spec.json", RunSpec) for part, item in parts if part == "spec"]
    keys = [_key(item) for part, item in parts if part == "seal"]
    if len(specs) != 1 or len(keys) != 1:
        raise EvidenceError(
            f"the export has the memory of {len(specs)} runs and {len(keys)} keys; it takes one of each: the ConfigMaps and "
            "the Secret of one run (-l sartor.dev/run=RUN), exported by somebody who may read Secrets"
        )
    begun = [_parsed(item, "step.json", StepBegin) for part, item in parts if part == "step"]
    recorded = [_parsed(item, "record.json", StoredRecord) for part, item in parts if part == "record"]
    return Export(
        specs[0], keys[0], {step.id: step for step in begun}, {stored.record.id: stored for stored in recorded}
    )


def _parsed(item: Mapping[str, Any], name: str, model: type[M]) -> M:
    try:
        return model.model_validate_json(item["data"][name])
    except (KeyError, TypeError, ValidationError) as error:
        where = item["metadata"].get("name")
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is missing"
        raise EvidenceError(f"ConfigMap {where}, {name}: {problem}") from None


def _key(item: Mapping[str, Any]) -> str:
    try:
        key = base64.b64decode(item["data"]["key"], validate=True).decode("ascii")
        bytes.fromhex(key)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise EvidenceError(f"Secret {item['metadata'].get('name')} holds no key of a run's seeds") from None
    return key


def lay_out(export: Export, source: Source, root: Path) -> RunLayout:
    """The run as a folder like one of `sartor run`, in `root`, which is made. Raises `EvidenceError`."""
    layout = RunLayout(root)
    layout.make()
    write_atomic(layout.sealed / "key", export.key.encode(), mode=0o600)
    seals = Seals(layout.sealed)
    RunRepository.create(
        layout.repository,
        export.spec,
        json.dumps(export.spec.synthesis, indent=1) + "\n",
        export.spec.created,
        {KEY_COMMITMENT: seals.key_commitment()},
    )
    repository = RunRepository(layout.repository)
    stored = sorted(export.records.values(), key=lambda one: one.record.sequence)
    done = [one.record.result for one in stored if isinstance(one.record.result, Implementation)]
    if done:
        branches = {f"candidate/{number:03d}": one.commit for number, one in enumerate(done, 1)}
        repository.adopt(source.pack([one.commit for one in done]), branches)
    ledger = Ledger()
    for one in stored:
        step = export.steps.get(one.record.id)
        if step is None:
            raise EvidenceError(f"the export has a record of step {one.record.id}, and nothing of how it began")
        ledger = ledger.reserve(step.id, step.reserve, now=step.begun, deadline=step.begun + step.deadline_seconds)
        committed: dict[str, str] = {}
        if step.seed_digest is not None:
            commitment = seals.commitment(step.id)
            if commitment.digest != step.seed_digest:
                raise EvidenceError(
                    f"the seed of step {step.id} is not derived from the run's key: the Secret was made anew meanwhile"
                )
            committed[seed_path(step.id)] = commitment.model_dump_json() + "\n"
        repository.save_ledger(ledger, f"Begin {step.id}", step.begun, committed)
        record = _whole(one, source, layout)
        ledger = ledger.settle(step.id, record.cost)
        repository.save_record(record, ledger, {}, f"Record {step.id}")
    repository.close()
    return layout


def _whole(stored: StoredRecord, source: Source, layout: RunLayout) -> StepRecord:
    """The record with its details, what was kept beside it written to where a run has it."""
    record, name = stored.record, stored.record.id.replace("/", "-")
    if record.failure is not None or record.step not in (*SEALED_STEPS, StepKind.BASELINE):
        return record
    files = source.sealed(record.step, name)
    full = files.get("record.json")
    if full is None:
        raise EvidenceError(f"the sealed repository has nothing of step {record.id}")
    if hashlib.sha256(full).hexdigest() != stored.digest:
        raise EvidenceError(f"what the sealed repository has of step {record.id} is not what the operator recorded")
    folder = (layout.sealed if record.step is StepKind.JUDGE else layout.samples) / name
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        if "/" not in path:
            (folder / path).write_bytes(data)
    return record.model_copy(update={"result": StepReport.model_validate_json(full).result})
