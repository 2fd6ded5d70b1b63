"""From what the sources show to the reading that a rollout acts by."""

from dataclasses import dataclass

from sartor_api.conditions import Reason
from sartor_api.serving_rollout import VerdictSummary
from sartor_operator.rollout.analysis.sight import Sight
from sartor_operator.rollout.samples import ArmCounts, Reading
from sartor_operator.rollout.verdict.judge import Counts, Judgement, Policy, judge
from sartor_operator.times import at

_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reading` None: nothing is known yet, and nothing is wrong. `void_before` (Unix s): what was before is worthless."""

    reading: Reading | None
    void_before: float | None = None


def conclude(sight: Sight, policy: Policy, now: float) -> Outcome:
    """Judge what is to be seen. A broken bound is a fail whatever else is unknown; any other outcome needs every source."""
    judgement = None if sight.observed is None else judge(sight.observed, policy, now)
    if judgement is None:
        return Outcome(_error("; ".join(sight.silent), now) if sight.silent else None)
    if sight.silent and judgement.summary.outcome != "fail":
        return Outcome(_doubtful(judgement, sight.silent), judgement.void_before)
    return Outcome(_reading(judgement, judgement.summary, judgement.reason), judgement.void_before)


def jumped(seconds: float, now: float) -> Reading:
    """The clock of the operator jumped by so many seconds."""
    text = (
        f"the operator's clock jumped by {seconds:+.0f} s; the samples of this step begin again; set the clocks by NTP"
    )
    return _error(text, now, Reason.CLOCK_JUMPED)


def defective(error: BaseException, now: float) -> Reading:
    """The analysis itself broke down: an error like any other that leaves nothing known."""
    text = f"a defect of the operator's analysis: {error!r}; its log has the whole of it"
    return _error(text, now)


def _error(message: str, now: float, reason: Reason = Reason.NO_SAMPLES) -> Reading:
    return Reading(VerdictSummary(outcome="error", message=message[:_LONGEST], at=at(now)), reason=reason)


def _doubtful(judgement: Judgement, silent: tuple[str, ...]) -> Reading:
    """The figures that there are, and that they are not all. A doubt of the judge's own comes along."""
    told, reason = list(silent), Reason.NO_SAMPLES
    if judgement.summary.outcome == "error":
        told, reason = [*told, judgement.summary.message], judgement.reason
    summary = judgement.summary.model_copy(update={"outcome": "error", "message": "; ".join(told)[:_LONGEST]})
    return _reading(judgement, summary, reason)


def _reading(judgement: Judgement, summary: VerdictSummary, reason: Reason) -> Reading:
    return Reading(summary, _counts(judgement.baseline), _counts(judgement.candidate), reason)


def _counts(counts: Counts) -> ArmCounts:
    return ArmCounts(counts.samples, counts.errors, counts.handovers)
