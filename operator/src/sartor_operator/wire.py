"""What is stored: the typed content of a run's ConfigMaps. What is sent to and by role pods is in `sartor_api.search.wire`.

A run's memory is one immutable ConfigMap for each step begun and one for each step recorded, owned by the SynthesisRun.
They hold all that `decide` looks at, so the operator needs nothing but the API server to go on, also while the run
repository is away. What is large (raw samples, per-condition results, logs, the stacks) stays in the repository; a record
names its commit and digest. A run of 20 rounds is about 160 small objects of 1 to 3 KiB.
"""

from typing import Literal

from sartor_api.search.records import Finished, Record, Verdict
from sartor_api.search.wire import (
    COMMIT,
    HASH,
    LONGEST_REPORT,
    RecordReference,
    ReportError,
    StepBegin,
    StepReport,
    StoredRecord,
    failed,
    read_report,
    report_text,
    slim,
)

__all__ = [
    "COMMIT",
    "HASH",
    "LONGEST_REPORT",
    "Ending",
    "RecordReference",
    "ReportError",
    "StackIndex",
    "StackPart",
    "StepBegin",
    "StepReport",
    "StoredRecord",
    "failed",
    "read_report",
    "report_text",
    "slim",
]


class Ending(Record):
    """The end of a run. `finished` is what the search said; without it a human or a newer run ended it."""

    how: Literal["finished", "cancelled", "superseded", "refused", "unprofitable"]
    message: str = ""
    at: float
    finished: Finished | None = None


class StackPart(Record):
    """One ConfigMap with a piece of the archive."""

    name: str
    bytes: int


class StackIndex(Record):
    """A stack as it lies in the cluster: a tar.gz in parts, verified by the hash of its files wherever it is unpacked.

    `problem` says why there is no stack, where that is for good; it is a verdict about the candidate.
    """

    commit: str
    content_hash: str
    archive_sha256: str = ""
    files: int = 0
    bytes: int = 0
    parts: tuple[StackPart, ...] = ()
    problem: Verdict | None = None
