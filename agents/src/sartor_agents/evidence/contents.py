"""A bundle's files as typed parts. Everything that is read here was written by a stranger."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sartor_agents.evidence.build import Seeds
from sartor_agents.evidence.errors import BundleUnreadableError
from sartor_agents.evidence.statement import PROVENANCE, Statement
from sartor_api.search.records import (
    BaselineRecord,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    RunSpec,
    StepKind,
    StepRecord,
)

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

LARGEST_JSON = 64 << 20
"""Bytes of a file that is read as JSON."""


@dataclass(frozen=True)
class Contents:
    """The files by path, and those that are typed."""

    files: Mapping[str, bytes]
    statement: Statement
    spec: RunSpec
    records: Mapping[StepKind, StepRecord]
    seeds: Seeds

    @property
    def stack(self) -> dict[str, bytes]:
        """The candidate's files by path (`stack/…`)."""
        return {path: data for path, data in self.files.items() if path.startswith("stack/")}

    @property
    def parent(self) -> dict[str, bytes]:
        """The files that it was made from, by the same paths."""
        return {path.removeprefix("parent/"): data for path, data in self.files.items() if path.startswith("parent/")}

    @property
    def plan(self) -> Plan:
        return _result(self.records[StepKind.PLAN], Plan)

    @property
    def implementation(self) -> Implementation:
        return _result(self.records[StepKind.IMPLEMENT], Implementation)

    @property
    def judgement(self) -> Judgement:
        return _result(self.records[StepKind.JUDGE], Judgement)

    @property
    def baseline(self) -> BaselineRecord:
        return _result(self.records[StepKind.BASELINE], BaselineRecord)

    def measurement(self, kind: StepKind) -> Measurement:
        return _result(self.records[kind], Measurement)

    def samples(self, kind: StepKind) -> dict[str, bytes]:
        """What lies beside the record of a step, by file name."""
        prefix = f"steps/{kind.value}/"
        return {path.removeprefix(prefix): data for path, data in self.files.items() if path.startswith(prefix)}


def _result(record: StepRecord, kind: type[R]) -> R:
    assert isinstance(record.result, kind), "checked when the bundle was read"
    return record.result


_RESULTS: Mapping[StepKind, type[object]] = {
    StepKind.BASELINE: BaselineRecord,
    StepKind.PLAN: Plan,
    StepKind.IMPLEMENT: Implementation,
    StepKind.JUDGE: Judgement,
    StepKind.EVALUATE: Measurement,
    StepKind.CONFIRM: Measurement,
}


def read_contents(files: Mapping[str, bytes]) -> Contents:
    """The typed parts of a bundle. Raises `BundleUnreadableError` naming the file and the field."""
    records = {kind: _read(files, f"steps/{kind.value}.json", StepRecord) for kind in StepKind}
    for kind, record in records.items():
        if record.step is not kind or not isinstance(record.result, _RESULTS[kind]):
            raise BundleUnreadableError(f"steps/{kind.value}.json is no successful record of that step")
    for needed in ("diff.patch", "history.git"):
        if needed not in files:
            raise BundleUnreadableError(f"{needed} is missing from the bundle")
    return Contents(
        files=files,
        statement=_read(files, PROVENANCE, Statement),
        spec=_read(files, "run.json", RunSpec),
        records=records,
        seeds=_read(files, "seeds.json", Seeds),
    )


def _read(files: Mapping[str, bytes], path: str, model: type[M]) -> M:
    content = files.get(path)
    if content is None:
        raise BundleUnreadableError(f"{path} is missing from the bundle")
    if len(content) > LARGEST_JSON:
        raise BundleUnreadableError(f"{path} has {len(content) >> 20} MiB; at most {LARGEST_JSON >> 20} are read")
    try:
        return model.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise BundleUnreadableError(f"{path}: {where}: {first['msg']}") from None
        raise BundleUnreadableError(f"{path} is nested too deeply") from None
