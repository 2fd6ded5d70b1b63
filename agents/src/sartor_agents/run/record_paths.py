"""What the records of a run are called in its repository; for those who write none of it, git is not needed."""

from sartor_api.search.records import StepRecord

TRAILER = "Sartor-Record: "
"""Begins the line of a commit's message that names its record."""
RECORD_FOLDERS = ("baseline", "rounds", "confirm")
"""The folders of `main` that hold records, pages in words among them."""


def is_record(path: str) -> bool:
    """Whether a file of `main` is a record."""
    return path.endswith(".json") and path.split("/")[0] in RECORD_FOLDERS


def record_path(record: StepRecord) -> str:
    """Where a record stands: by round, then step, attempt and execution, so names sort in the order of work."""
    if record.round == 0:
        return f"{record.step.value}/{record.id.replace('/', '-')}.json"
    return f"rounds/{record.round:03d}/{record.sequence:04d}-{record.step.value}-{record.attempt}.json"
