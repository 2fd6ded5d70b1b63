"""The verdict on one step of a rollout: a pure function of the samples of both arms, the policy and the time.

It keeps nothing between two calls: every call looks at all samples of the step again. With 100,000 requests of each arm that
takes about two seconds of a core, so ask it outside the event loop. Being asked more often, or by another process, changes
no answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sartor_api.conditions import Reason
from sartor_api.objective import Guardrail, GuardrailMetric
from sartor_api.quantities import DecimalString
from sartor_api.rollout_policy import Analysis
from sartor_api.serving_rollout import GuardrailState, ServingRolloutSpec, VerdictSummary
from sartor_operator.rollout.verdict import guardrail as guardrails
from sartor_operator.rollout.verdict import integrity
from sartor_operator.rollout.verdict.bounds import Bound
from sartor_operator.rollout.verdict.budget import Budget
from sartor_operator.rollout.verdict.guardrail import Judged, Standing
from sartor_operator.rollout.verdict.integrity import PATIENCE, Doubt
from sartor_operator.rollout.verdict.metrics import DEFAULT_GUARDRAILS, bounds
from sartor_operator.rollout.verdict.reading import Gathered
from sartor_operator.rollout.verdict.samples import ArmName, Observed
from sartor_operator.times import at

_LONGEST_TEXT = 4096
_LONGEST_SOURCE = 256
_LARGEST_SHOWN = 1e15


@dataclass(frozen=True, slots=True)
class Policy:
    """What a verdict is reached by. `steps`: how many steps of the rollout get a verdict."""

    analysis: Analysis
    guardrails: tuple[Guardrail, ...]
    steps: int

    @classmethod
    def of(cls, spec: ServingRolloutSpec) -> "Policy":
        """Of a rollout. Without guardrails of its own the defaults of a ServingSynthesis hold."""
        judged = sum(step.pause is None for step in spec.policy.steps)
        return cls(spec.policy.analysis, tuple(spec.guardrails) or DEFAULT_GUARDRAILS, max(1, judged))


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of one arm in this step: all, failed ones, handed-over ones."""

    samples: int = 0
    errors: int = 0
    handovers: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what a rollout needs beside it.

    `reason` is for the condition: `GuardrailFailed`, `Inconclusive`, or what an error comes from; for a pass `Succeeded`.
    With `void_before` the samples before that time (Unix s) are worthless: go on with `since` set to it.
    """

    summary: VerdictSummary
    reason: Reason
    baseline: Counts = Counts()
    candidate: Counts = Counts()
    void_before: float | None = None


def verdict(observed: Observed, policy: Policy, now: float) -> VerdictSummary:
    """Whether the candidate keeps its guardrails in this step: pass, fail, inconclusive, or error (nothing can be known).

    It may be asked as often as one likes: the tests are valid under continuous looking. `now` is in Unix seconds.
    """
    return judge(observed, policy, now).summary


def judge(observed: Observed, policy: Policy, now: float) -> Judgement:
    """Like `verdict`, with the reason and the counts of both arms."""
    early = integrity.clock(observed, now) or integrity.records(observed) or integrity.stale(observed, now)
    if early is not None:
        return _doubtful(early, now)
    gathered = integrity.gather(observed, policy.analysis.sources)
    if isinstance(gathered, Doubt):
        return _doubtful(gathered, now)
    baseline, candidate = _counts(gathered, ArmName.BASELINE), _counts(gathered, ArmName.CANDIDATE)
    patient = now - observed.since < PATIENCE
    if (doubt := integrity.arms(gathered, patient=patient)) is not None:
        return _doubtful(doubt, now, baseline, candidate)
    stated: list[tuple[GuardrailMetric, tuple[Bound, ...]]] = [(one.metric, bounds(one)) for one in policy.guardrails]
    budget = Budget(
        alpha=1 - float(policy.analysis.confidence.number),
        bounds=sum(len(found) for _, found in stated),
        steps=policy.steps,
    )
    judged = [
        guardrails.judge(metric, found, gathered, budget, minimum=policy.analysis.minimum_samples, patient=patient)
        for metric, found in stated
    ]
    outcome, reason = _together(judged)
    return Judgement(_summary(outcome, _message(outcome, judged), now, judged), reason, baseline, candidate)


def _together(judged: Sequence[Judged]) -> tuple[Standing, Reason]:
    """A bound that is surely broken is a fail whatever else is unknown; else what is not known outweighs what is."""
    outcomes = {one.outcome for one in judged}
    if "fail" in outcomes:
        return "fail", Reason.GUARDRAIL_FAILED
    if "error" in outcomes:
        both = any(one.both_bad for one in judged)
        return "error", Reason.BOTH_ARMS_BAD if both else Reason.NO_SAMPLES
    if "inconclusive" in outcomes:
        return "inconclusive", Reason.INCONCLUSIVE
    return "pass", Reason.SUCCEEDED


def _message(outcome: Standing, judged: Sequence[Judged]) -> str:
    told = [one.message for one in judged if one.outcome == outcome]
    head = "every guardrail holds. " if outcome == "pass" else ""
    return head + ". ".join(told)


def _summary(outcome: Standing, message: str, now: float, judged: Sequence[Judged] = ()) -> VerdictSummary:
    return VerdictSummary(
        outcome=outcome,
        message=message[:_LONGEST_TEXT],
        at=at(now),
        guardrails=tuple(
            GuardrailState(
                metric=one.metric,
                outcome=one.outcome,
                baseline=_decimal(one.baseline),
                candidate=_decimal(one.candidate),
                source=one.source[:_LONGEST_SOURCE],
                message=one.message[:_LONGEST_TEXT],
            )
            for one in judged
        ),
    )


def _doubtful(doubt: Doubt, now: float, baseline: Counts = Counts(), candidate: Counts = Counts()) -> Judgement:
    return Judgement(_summary("error", doubt.message, now), doubt.reason, baseline, candidate, doubt.void_before)


def _counts(gathered: Gathered, arm: ArmName) -> Counts:
    return Counts(*(round(count) for count in gathered.requests(arm)))


def _decimal(value: float | None) -> DecimalString | None:
    return None if value is None or not 0 <= value < _LARGEST_SHOWN else DecimalString(f"{value:.6f}")
