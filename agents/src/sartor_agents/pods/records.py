"""A step's result into the run's repository, exactly once, however often the pod is killed and started again.

What is committed follows from the step alone (author, date, message, paths), and names the step. A pod that finds its step
there already was killed between its push and its report: it reports what it pushed and does the work no second time.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from sartor_agents.pods.contract import Pod, first_problem
from sartor_agents.pods.remote import MovedError, Remote, RemoteError
from sartor_agents.run.record_paths import TRAILER
from sartor_api.search.records import Cost, StepResult
from sartor_api.search.wire import StepReport

MAIN = "refs/heads/main"
STEP_TRAILER = "Sartor-Step: "
MOST_TRIES = 5
LARGEST_FILE = 48 << 20
"""Bytes of a file that goes into the repository; larger ones are left out, and the log says so."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a role found. `files` are what is kept beside its record, by name."""

    result: StepResult
    cost: Cost = field(default_factory=Cost)
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


def as_file(model: BaseModel) -> bytes:
    """A model as the content of a file: the same for the same model."""
    return (json.dumps(model.model_dump(mode="json", exclude_none=True), indent=1, ensure_ascii=False) + "\n").encode()


def message(pod: Pod, subject: str, branch: str, *more: str) -> str:
    """A commit message: a line for people, and whose record and step it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in subject).split())[:100]
    return "\n".join((line, "", f"{TRAILER}{branch}", f"{STEP_TRAILER}{pod.begin.id}", *more)) + "\n"


def earlier(remote: Remote, tip: str | None, path: str) -> StepReport | None:
    """The report that stands at `path` in the repository, with its commit and digest."""
    content = remote.read(tip, path) if tip is not None else None
    if tip is None or content is None:
        return None
    try:
        report = StepReport.model_validate_json(content)
    except ValidationError as error:
        raise RemoteError(f"{path} in the repository is no step report: {first_problem(error)}") from error
    return _referring(report, remote.added(tip, path), content)


def store(
    remote: Remote,
    pod: Pod,
    ref: str,
    path: str,
    report: StepReport,
    files: Callable[[str | None], Mapping[str, bytes]],
) -> StepReport:
    """Commit the full report at `path`, with `files` (by the present tip) beside it. Returns it with commit and digest.

    Raises `RemoteError` or `RefusedError`.
    """
    content = as_file(report)
    text = message(pod, f"{pod.begin.step.value} of step {pod.begin.id}", ref.removeprefix("refs/heads/"))
    for _ in range(MOST_TRIES):
        tip = remote.fetch_tip(ref)
        if (known := earlier(remote, tip, path)) is not None:
            return known
        commit = remote.commit(tip, {**files(tip), path: content}, text, pod.begin.begun)
        try:
            remote.push(commit, ref)
        except MovedError:
            continue
        return _referring(report, commit, content)
    raise RemoteError(f"{ref} moved on {MOST_TRIES} times while this step was stored")


def _referring(report: StepReport, commit: str, content: bytes) -> StepReport:
    digest = hashlib.sha256(content).hexdigest()
    return report.model_copy(update={"commit": commit, "digest": digest})


def kept_files(folder: Path, say: Say) -> dict[str, bytes]:
    """The files that a role left in its output folder, by name, those that are too large left out."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_file() or path.is_symlink():
            continue
        size = path.stat().st_size
        if size > LARGEST_FILE:
            say(f"{path.name} has {size >> 20} MiB and is not kept in the repository")
            continue
        found[path.name] = path.read_bytes()
    return found
