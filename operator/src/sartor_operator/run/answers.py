"""What became of a Job: its pod's answer, believed as far as it fits what was asked, or why there is none."""

import re
from collections.abc import Iterable

from pydantic import ValidationError

from sartor_api.search import plans
from sartor_api.search.records import (
    FailureClass,
    Implementation,
    Measurement,
    Plan,
    SeedCommitment,
    StepKind,
    StepRecord,
    StepResult,
)
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods import state
from sartor_operator.pods.jobs import (
    CONTAINER,
    ROLE,
)
from sartor_operator.pods.state import End
from sartor_operator.run.observe import RunObserved
from sartor_operator.run.step import Ended, over, seed_of
from sartor_operator.times import parse_time
from sartor_operator.wire import (
    COMMIT,
    HASH,
    ReportError,
    StepBegin,
    StepReport,
    StoredRecord,
    failed,
    read_report,
)


def answer(
    observed: RunObserved, begin: StepBegin, job: Manifest, pod: Manifest | None, begun: float, now: float
) -> Ended | None:
    """What became of the Job's pod, None while it may still answer."""
    settings = observed.place.settings
    if pod is not None and state.phase(pod) == "Succeeded":
        return _reported(observed, begin, pod, begun, now)
    finished = next(
        (c for kind in ("Failed", "FailureTarget") if (c := state.condition(job, kind)) and c["status"] == "True"), None
    )
    if pod is not None and (state.phase(pod) == "Failed" or state.failed_container(pod)):
        end = state.disruption(pod) or (_deadline(finished) if finished else None) or _role_end(begin, pod)
        return over(begin, end, begun, _ended_at(pod) or now)
    if finished is not None:
        end = _deadline(finished) or _gone(finished)
        return over(begin, end, begun, parse_time(finished.get("lastTransitionTime")) or now)
    if state.holds(job, "Complete"):
        end = End("ResultLost", "the Job is complete and its pod is gone with the result", FailureClass.INFRASTRUCTURE)
        return over(begin, end, begun, now) if pod is None else None
    if pod is not None and names.deleting(pod):
        gone = parse_time(pod["metadata"].get("deletionTimestamp")) or now
        if now > gone + settings.grace_seconds:
            end = End("PodLost", "the pod was deleted and its node does not answer", FailureClass.INFRASTRUCTURE)
            return over(begin, end, begun, now)
    problem = state.image_problem(pod) if pod is not None else None
    if pod is not None and problem is not None and now - state.placed(pod) > settings.image_seconds:
        return over(begin, End("ImageUnavailable", problem, FailureClass.INFRASTRUCTURE), begun, now)
    return None


def _deadline(condition: Manifest) -> End | None:
    if condition.get("reason") != "DeadlineExceeded":
        return None
    return End("StepOverdue", str(condition.get("message", "the step took longer than its deadline")),
               FailureClass.INFRASTRUCTURE)  # fmt: skip


def _gone(condition: Manifest) -> End:
    """A Job failed, and its pod is gone: the Job's own words are all there is."""
    message = str(condition.get("message", ""))
    reason = "PodDisrupted" if "DisruptionTarget" in message else "RoleFailed"
    return End(reason, f"{condition.get('reason', '')}: {message}", FailureClass.INFRASTRUCTURE)


def _role_end(begin: StepBegin, pod: Manifest) -> End:
    role = ROLE[begin.step]
    broken = state.failed_container(pod)
    if broken is None:
        text = str(pod.get("status", {}).get("message", "")) or "no container says why"
        return End("PodFailed", f"the {role}'s pod failed: {text}", FailureClass.INFRASTRUCTURE)
    name, ended = broken
    if ended.get("reason") == state.OOM:
        return End(
            "RoleMemoryExceeded", f"the {role} ({name}) used more memory than it may", FailureClass.INFRASTRUCTURE
        )
    said = str(ended.get("message", "")).strip()
    text = f"the {role} ({name}) ended with exit code {ended.get('exitCode')}{f': {said[-1500:]}' if said else ''}"
    return End("RoleFailed", text, FailureClass.INFRASTRUCTURE)


def _ended_at(pod: Manifest) -> float | None:
    times = [
        parse_time(ended.get("finishedAt"))
        for name in (CONTAINER, "agent")
        if (ended := state.terminated(pod, name)) is not None
    ]
    return max((t for t in times if t is not None), default=None)


def _reported(observed: RunObserved, begin: StepBegin, pod: Manifest, begun: float, now: float) -> Ended:
    """The report of a pod that ended well, believed as far as it fits what was asked."""
    finished = max(begun, _ended_at(pod) or now)
    message = str((state.terminated(pod, CONTAINER) or {}).get("message", ""))
    try:
        report = read_report(message)
    except ReportError as error:
        reason = "RoleGaveNothing" if not message.strip() else "RoleAnsweredGarbage"
        end = End(reason, f"the {ROLE[begin.step]}: {error}", FailureClass.INFRASTRUCTURE)
        return over(begin, end, begun, finished)
    if (untrue := _untrue(observed, begin, report)) is not None:
        return Ended(failed(begin.step.value, *untrue), begun, finished, report.cost, told=True)
    return Ended(
        _completed(observed, begin, report), begun, finished, report.cost, report.commit, report.digest, told=True
    )


def _untrue(observed: RunObserved, begin: StepBegin, report: StepReport) -> tuple[str, str, FailureClass] | None:
    """Reason, message and class if the report cannot be true, whoever says it."""
    blamed = {StepKind.PLAN: FailureClass.PROVIDER, StepKind.IMPLEMENT: FailureClass.CANDIDATE}.get(
        begin.step, FailureClass.INFRASTRUCTURE
    )
    reason = "PlanInvalid" if begin.step is StepKind.PLAN else "ReportUntrue"
    if report.step != begin.id:
        return reason, f"the report is about step {report.step}, asked was {begin.id}", blamed
    try:
        StepRecord(
            id=begin.id,
            sequence=begin.sequence,
            step=begin.step,
            round=begin.round,
            attempt=begin.attempt,
            started=0,
            finished=0,
            result=report.result,
        )
    except ValidationError as error:
        return reason, str(error.errors(include_url=False)[0]["msg"]), blamed
    match report.result:
        case Plan() as plan:
            known = known_commits(observed.records)
            said = plans.problem(plan, round_number=begin.round, directive=begin.directive, known=known)
            return None if said is None else (reason, said, blamed)
        case Implementation() as done if not (_matches(COMMIT, done.commit) and _matches(HASH, done.content_hash)):
            return reason, "the implementation names no commit and content hash", blamed
        case _:
            return None


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern.strip("^$"), text) is not None


def known_commits(records: Iterable[StoredRecord]) -> set[str]:
    """Commits of all candidates of the run."""
    return {r.record.result.commit for r in records if isinstance(r.record.result, Implementation)}


def _completed(observed: RunObserved, begin: StepBegin, report: StepReport) -> StepResult:
    """The result with what the operator knows better than the role."""
    match report.result:
        case Measurement() as measurement if observed.seal is not None:
            seed = SeedCommitment.of(seed_of(observed.seal, begin.id))
            return measurement.model_copy(update={"seed": seed, "confirmation": begin.step is StepKind.CONFIRM})
        case other:
            return other
