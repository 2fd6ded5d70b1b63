"""The judge's review by a model: after the gates, of what passed them all. It can reject, and it accepts nothing.

A review that came to nothing by the model's own fault (it was talked into endless turns, say, by what it read) rejects the
candidate as well: it is the candidate's text that it could not get through. A provider that is out is nobody's fault, and
the step is tried again.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sartor_agents.backends.protocol import ReviewContext
from sartor_agents.roles.messages import ReviewRequest, ReviewResponse
from sartor_agents.run.role import RoleError
from sartor_agents.run.storage import storage_errors
from sartor_agents.tools.review import reviewed
from sartor_api.search.agents import AgentSettings
from sartor_api.search.records import FailureClass, Judgement, RunSpec, StepKind, Verdict

Files = Mapping[str, bytes]


def wants_review(spec: RunSpec, judgement: Judgement) -> bool:
    """Whether a model is to read this candidate: the profile says so, and no gate has rejected it."""
    asks = AgentSettings.model_validate(spec.agents).asks(StepKind.JUDGE) is not None
    return asks and all(verdict.passed for verdict in judgement.verdicts)


def review_request(
    spec: RunSpec, round_number: int, attempt: int, after: Files, before: Files | None, folder: Path
) -> ReviewRequest:
    """The request, with the files written below `folder`. Raises `StorageError`."""
    shutil.rmtree(folder, ignore_errors=True)
    _write(folder / "after", after)
    if before is not None:
        _write(folder / "before", before)
    context = ReviewContext(
        run=spec,
        round=round_number,
        attempt=attempt,
        worktree=folder / "after",
        before=folder / "before" if before is not None else None,
    )
    return ReviewRequest(context=context)


def with_review(judgement: Judgement, files: Files, ask: Callable[[], ReviewResponse]) -> Judgement | Verdict:
    """The judgement with the review's rejection in it, if it rejects; a failure of the step where nobody could review."""
    try:
        response = ask()
    except RoleError as error:
        return Verdict(
            gate="review", passed=False, reason=error.reason, message=str(error),
            failure_class=FailureClass.INFRASTRUCTURE,
        )  # fmt: skip
    if response.review is not None:
        verdict = reviewed(response.review, files).verdict
    else:
        verdict = response.failure
        if verdict is not None and verdict.failure_class is not FailureClass.CANDIDATE:
            return verdict
    return judgement if verdict is None else Judgement(verdicts=(*judgement.verdicts, verdict))


def _write(folder: Path, files: Files) -> None:
    for path, data in files.items():
        target = folder / path
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
