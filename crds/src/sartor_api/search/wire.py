"""What the operator and a role pod say to each other: the request of a step, and the answer to it.

A role pod reads `step.json` (`StepBegin`) and `spec.json` (the run's `RunSpec`), does its work, and ends with a
`StepReport` as its termination message, which the kubelet cuts at 4096 bytes: `report_text` makes one that fits. What is
large (raw samples, per-condition results, logs, the stacks) goes into the run's repository; the report names its commit
and digest.
"""

from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from sartor_api.search.directive import Directive
from sartor_api.search.records import (
    BaselineRecord,
    Cost,
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    Record,
    StepKind,
    StepRecord,
    StepResult,
    Verdict,
)

LONGEST_REPORT = 4096
"""Bytes of a termination message that the kubelet keeps."""

ModelPart = Literal["all", "served", "configuration"]
"""How much of a checkpoint a pod gets: all of it (judge, evaluator, tuner); without the answers that a made checkpoint
has beside its weights, which are sealed data (a stack, a baseline); without weights (planner, implementer)."""

COMMIT = r"^[0-9a-f]{40}$"
HASH = r"^[0-9a-f]{64}$"


class RecordReference(Record):
    """Where the full record of a step lies in the run's repository."""

    id: str
    commit: str | None = Field(default=None, pattern=COMMIT)
    digest: str | None = Field(default=None, pattern=HASH)


class StepBegin(Record):
    """One step as it was begun: the reservation in the books and the request to the role in one.

    `sequence` is that of the record to come. Times are Unix seconds. `commit` and `content_hash` name the candidate that
    judge and evaluator look at; `source` is the commit that an implementer starts from, or that what a judge looks at was
    made from (None: from nothing).
    """

    id: str
    sequence: int = Field(ge=1)
    step: StepKind
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    reason: str
    begun: float
    deadline_seconds: float = Field(gt=0)
    reserve: Cost = Cost()
    commit: str | None = None
    content_hash: str | None = None
    seed_digest: str | None = Field(default=None, pattern=HASH)
    source: str | None = None
    plan: Plan | None = None
    baseline: BaselineRecord | None = None
    feedback: tuple[Verdict, ...] = ()
    branch: str | None = None
    directive: Directive | None = None
    """What the plan has to keep to."""
    message: str = ""
    """A word of a human to the planner (`spec.control.message`)."""
    records: tuple[RecordReference, ...] = ()
    """All records before this one, for roles that read the repository."""
    pending: tuple[int, ...] = ()
    """Numbers of the steps that were in flight when this one began: their records are not there yet."""


class StepReport(Record):
    """What a role pod says when it ends. `result` may lack details; `commit` and `digest` name the full record.

    `cost` is what the step used of tokens and money; accelerator time is booked by the operator.
    """

    version: Literal[1] = 1
    step: str
    result: StepResult
    cost: Cost = Cost()
    commit: str | None = Field(default=None, pattern=COMMIT)
    digest: str | None = Field(default=None, pattern=HASH)


class StoredRecord(Record):
    """A step's record with the reference to its full form."""

    record: StepRecord
    commit: str | None = None
    digest: str | None = None


class ReportError(Exception):
    """A termination message is no valid report; the text says why."""


def read_report(text: str) -> StepReport:
    """The report in a termination message. Raises `ReportError`."""
    if not text.strip():
        raise ReportError("the termination message is empty")
    try:
        return StepReport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        hint = ", cut at 4096 bytes?" if len(text.encode()) >= LONGEST_REPORT else ""
        raise ReportError(f"the termination message is no step report{hint} ({where}: {first['msg']})") from error


def report_text(report: StepReport, longest: int = LONGEST_REPORT) -> str:
    """The report as JSON of at most `longest` bytes, with details left out as far as is needed.

    What `decide` looks at is never left out: results, intervals, reasons and failure classes. Raises `ValueError` when
    even that does not fit.
    """
    for text_limit in (1000, 300, 100, 30):
        small = report.model_copy(update={"result": slim(report.result, text_limit)})
        text = small.model_dump_json(exclude_none=True)
        if len(text.encode()) <= longest:
            return text
    raise ValueError(f"the report of step {report.step} does not fit into {longest} bytes")


def slim(result: StepResult, text_limit: int = 1000) -> StepResult:
    """A result without what only the full record needs; texts are cut at `text_limit` characters."""

    def cut(text: str) -> str:
        return text if len(text) <= text_limit else text[: text_limit - 1] + "…"

    def verdict(one: Verdict) -> Verdict:
        kept = text_limit >= 1000 and len(str(one.evidence)) <= text_limit
        evidence: dict[str, JsonValue] = dict(one.evidence) if kept else {}
        return one.model_copy(update={"message": cut(one.message), "evidence": evidence})

    match result:
        case Verdict():
            return verdict(result)
        case Judgement():
            return Judgement(verdicts=tuple(verdict(one) for one in result.verdicts))
        case Measurement():
            return result.model_copy(
                update={"conditions": (), "fingerprint": {}, "message": cut(result.message), "samples": None}
                if text_limit < 1000
                else {"conditions": (), "message": cut(result.message)}
            )
        case BaselineRecord():
            # The chosen point stays; the others are dropped once the text must be very short.
            grid = tuple(
                point.model_copy(update={"message": cut(point.message)})
                for point in result.grid
                if text_limit >= 300 or point.name == result.chosen
            )
            return result.model_copy(
                update={"grid": grid, "fingerprint": {} if text_limit < 1000 else result.fingerprint}
            )
        case Plan():
            return result.model_copy(
                update={
                    "hypothesis": cut(result.hypothesis),
                    "evidence_active": cut(result.evidence_active),
                    "refuted_by": cut(result.refuted_by),
                    "changes": tuple(cut(change) for change in result.changes[:8]) if text_limit >= 300 else (),
                    "skills_consulted": result.skills_consulted if text_limit >= 300 else (),
                    # The queue is decided by forecasts and recipes; the details are for who reads the repository.
                    "issues": tuple(
                        one.model_copy(update={"detail": "", "title": cut(one.title)}) for one in result.issues
                    ),
                }
            )
        case Implementation():
            return result.model_copy(update={"summary": cut(result.summary)})


def failed(gate: str, reason: str, message: str, failure_class: FailureClass) -> Verdict:
    """The result of a step that could not be done."""
    return Verdict(gate=gate, passed=False, reason=reason, message=message[:4000], failure_class=failure_class)
