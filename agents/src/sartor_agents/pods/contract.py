"""What the operator gives a role's pod: environment variables and mounted files, read and checked before anything is done.

| variable | what |
|---|---|
| `SARTOR_STEP_FILE` | the step (`StepBegin`) |
| `SARTOR_SPEC_FILE` | the run (`RunSpec`) |
| `SARTOR_RECORDS_FILE` | history, recorder: the newest records, a JSON list |
| `SARTOR_SEED_FILE` | tuner, judge, evaluator: the sealed seed |
| `SARTOR_TOKEN_FILE` | all but planner and implementer: the token for the repository |
| `SARTOR_MODEL_URL`, `SARTOR_MODEL_TOKEN_FILE` | where a model is asked: the model proxy, and the grant for it |
| `SARTOR_ISOLATION` | planner, implementer: `pod`, the pod is the sandbox |
| `SARTOR_REPOSITORY` | address of the run's repository |
| `SARTOR_MODEL`, `SARTOR_WORK` | the model's folder; an empty folder to work in |
| `SARTOR_CANDIDATE_URL`, `SARTOR_BASELINE_URL` | judge, evaluator: `http://HOST:PORT` |
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from sartor_agents.run.seals import CANARY_FILE
from sartor_api.search.records import RunSpec, StepKind, StepRecord
from sartor_api.search.wire import StepBegin

STEPS: Mapping[str, frozenset[StepKind]] = {
    "tuner": frozenset({StepKind.BASELINE}),
    "history": frozenset({StepKind.PLAN}),
    "planner": frozenset({StepKind.PLAN}),
    "recorder": frozenset({StepKind.PLAN}),
    "source": frozenset({StepKind.IMPLEMENT}),
    "implementer": frozenset({StepKind.IMPLEMENT}),
    "committer": frozenset({StepKind.IMPLEMENT}),
    "judge": frozenset({StepKind.JUDGE}),
    "evaluator": frozenset({StepKind.EVALUATE, StepKind.CONFIRM}),
}
"""The steps that each role carries out."""

AGENTS = ("planner", "implementer")
"""Roles that a model may lead, and that have no identity."""

LONGEST_MARGIN = 20.0
"""Seconds of a step's time that are kept for storing the result, a tenth of it if that is less."""

M = TypeVar("M", bound=BaseModel)
_RECORDS: TypeAdapter[tuple[StepRecord, ...]] = TypeAdapter(tuple[StepRecord, ...])


class ContractError(Exception):
    """The pod was not given what it needs; the message names the variable or file and what is wrong with it."""


@dataclass(frozen=True)
class Pod:
    """One role's pod at work on one step. `deadline` is on the monotonic clock."""

    role: str
    begin: StepBegin
    spec: RunSpec
    model: Path
    work: Path
    deadline: float
    repository: str = ""
    token_file: Path | None = None
    seed: str | None = None
    canary: bytes = b""
    candidate_url: str | None = None
    baseline_url: str | None = None
    records: tuple[StepRecord, ...] = ()

    @property
    def step(self) -> str:
        """The step's id as a name of files and labels."""
        return self.begin.id.replace("/", "-")

    def seconds(self) -> float:
        """Seconds that the role's own work may still take."""
        margin = min(LONGEST_MARGIN, 0.1 * self.begin.deadline_seconds)
        return max(1.0, self.deadline - margin - time.monotonic())

    def need_seed(self) -> str:
        """The sealed seed. Raises `ContractError`."""
        if self.seed is None:
            raise ContractError("SARTOR_SEED_FILE is not set, and this role needs the sealed seed")
        return self.seed

    def need_url(self, which: str) -> str:
        """The address of the `candidate` or the `baseline`. Raises `ContractError`."""
        found = self.candidate_url if which == "candidate" else self.baseline_url
        if found is None:
            raise ContractError(f"SARTOR_{which.upper()}_URL is not set, and this role looks at the {which}")
        return found


def read(role: str, values: Mapping[str, str], *, now: float, wall: float) -> Pod:
    """The pod from its environment; `now` is the monotonic clock's, `wall` Unix time. Raises `ContractError`.

    The step's time runs for the whole pod, also while images are pulled and other containers work. When the pod began is
    told by the files that were mounted then.
    """
    begin = _parse(StepBegin, _file(values, "SARTOR_STEP_FILE"))
    if begin.step not in STEPS[role]:
        raise ContractError(f"the step {begin.id} is none of a {role} (SARTOR_STEP_FILE); start the role of that step")
    records = _file(values, "SARTOR_RECORDS_FILE") if "SARTOR_RECORDS_FILE" in values else None
    work = Path(_value(values, "SARTOR_WORK"))
    if not work.is_dir():
        raise ContractError(f"SARTOR_WORK: {work} is no folder; mount an empty volume there")
    return Pod(
        role=role,
        begin=begin,
        spec=_parse(RunSpec, _file(values, "SARTOR_SPEC_FILE")),
        model=Path(_value(values, "SARTOR_MODEL")),
        work=work,
        deadline=now + begin.deadline_seconds - _age(Path(values["SARTOR_STEP_FILE"]), wall),
        repository=_value(values, "SARTOR_REPOSITORY") if role not in AGENTS else "",
        token_file=_readable(values, "SARTOR_TOKEN_FILE") if role not in AGENTS else None,
        seed=_seed(values, begin) if "SARTOR_SEED_FILE" in values else None,
        canary=_canary(values),
        candidate_url=values.get("SARTOR_CANDIDATE_URL") or None,
        baseline_url=values.get("SARTOR_BASELINE_URL") or None,
        records=_records(records) if records is not None else (),
    )


def _value(values: Mapping[str, str], name: str) -> str:
    if not values.get(name):
        raise ContractError(f"{name} is not set; the operator sets it in every role's pod")
    return values[name]


def _readable(values: Mapping[str, str], name: str) -> Path:
    path = Path(_value(values, name))
    if not path.is_file():
        raise ContractError(f"{name}: {path} is not there; mount it into this container")
    return path


def _age(path: Path, wall: float) -> float:
    """Seconds since a file was mounted; 0 where a clock says that it is yet to come."""
    return max(0.0, wall - path.stat().st_mtime)


def _file(values: Mapping[str, str], name: str) -> tuple[str, bytes]:
    """What to call a file in messages, and its content."""
    path = Path(_value(values, name))
    try:
        return f"{name}: {path}", path.read_bytes()
    except OSError as error:
        raise ContractError(f"{name}: {path} cannot be read: {error.strerror}") from error


def _seed(values: Mapping[str, str], begin: StepBegin) -> str:
    name, content = _file(values, "SARTOR_SEED_FILE")
    seed = content.decode("ascii", errors="replace").strip()
    digest = hashlib.sha256(seed.encode()).hexdigest()
    if begin.seed_digest is not None and digest != begin.seed_digest:
        raise ContractError(f"{name} holds another seed than the one that was committed to for step {begin.id}")
    return seed


def _canary(values: Mapping[str, str]) -> bytes:
    """What lies beside the seed and is kept with everything sealed, so that a leak is recognised."""
    path = Path(values["SARTOR_SEED_FILE"]).with_name(CANARY_FILE) if "SARTOR_SEED_FILE" in values else None
    return path.read_bytes() if path is not None and path.is_file() else b""


def _parse(model: type[M], source: tuple[str, bytes]) -> M:
    name, content = source
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise ContractError(f"{name} is no {model.__name__}: {first_problem(error)}") from error


def _records(source: tuple[str, bytes]) -> tuple[StepRecord, ...]:
    name, content = source
    try:
        return _RECORDS.validate_json(content)
    except ValidationError as error:
        raise ContractError(f"{name} is no list of records: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """Place and kind of the first problem, without the value that was found there."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "content"
    return f"{where}: {first['msg']}"
