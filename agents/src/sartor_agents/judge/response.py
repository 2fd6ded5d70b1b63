"""From checks to the judge's answer: one verdict per gate, the first failed check speaks for its gate."""

from collections.abc import Sequence
from typing import Any

from sartor_agents.measurement.messages import REASON_MEANING, Check, FailureClass, JudgeResponse, Reason
from sartor_api.search.records import Judgement, Verdict

from .opening import Bench
from .under_load import SAMPLES

GATE_OF = {
    "accuracy": "accuracy",
    "handover": "accuracy",
    "logprobs": "accuracy",
    "alone-or-batched": "metamorphic",
    "streamed-or-not": "metamorphic",
    "prediction": "metamorphic",
    "after-disconnect": "metamorphic",
    "cache-hit-or-miss": "metamorphic",
    "interleaved-prefixes": "metamorphic",
    "cross-talk": "metamorphic",
    "novel-or-repeated": "metamorphic",
    "bad-input": "robustness",
    "bad-http": "robustness",
    "idle-connections": "robustness",
    "half-requests": "robustness",
    "slow-reader": "robustness",
}


def response(bench: Bench, checks: Sequence[Check], handovers: int | None) -> JudgeResponse:
    """What the judge answers after these checks."""
    verdicts: list[Verdict] = []
    for gate in dict.fromkeys(GATE_OF.values()):
        mine = [check for check in checks if GATE_OF[check.name] == gate]
        if not mine:
            continue
        bad = next((check for check in mine if not check.passed), None)
        verdicts.append(_passed(gate, mine) if bad is None else _failed(gate, bad))
    tokens = sum(len(answer.output_ids) for answer in bench.answers)
    return JudgeResponse(
        judgement=Judgement(verdicts=tuple(verdicts)),
        checks=tuple(checks),
        agreement=sum(answer.agreed for answer in bench.answers) / tokens if tokens else None,
        samples=len(bench.answers),
        ties=sum(answer.flips for answer in bench.answers),
        handovers=handovers,
        logprob_distance=bench.divergence.mean_distance if bench.logprobs_offered else None,
        logprob_limit=bench.limit,
        samples_path=bench.request.output_dir / SAMPLES,
    )


def cannot_judge(reason: Reason, failure_class: FailureClass, message: str) -> JudgeResponse:
    """The answer of a judge that could not begin or go on."""
    verdict = Verdict(gate="accuracy", passed=False, reason=reason.value, message=message, failure_class=failure_class)
    return JudgeResponse(judgement=Judgement(verdicts=(verdict,)))


def _passed(gate: str, checks: Sequence[Check]) -> Verdict:
    message = "; ".join(f"{check.name}: {check.message or 'ok'}" for check in checks)
    return Verdict(gate=gate, passed=True, reason=Reason.PASSED.value, message=message)


def _failed(gate: str, check: Check) -> Verdict:
    evidence: dict[str, Any] = {"check": check.name, **check.evidence}
    if check.reproduce is not None:
        evidence["reproduce"] = check.reproduce
    return Verdict(
        gate=gate,
        passed=False,
        reason=check.reason.value,
        message=f"{REASON_MEANING[check.reason]} {check.message}",
        failure_class=FailureClass.CANDIDATE,
        evidence=evidence,
    )
