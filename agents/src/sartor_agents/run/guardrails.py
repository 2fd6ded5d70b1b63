"""Bounds that a candidate must keep while it gets faster, checked on what the evaluator measured.

A bound against the baseline counts as broken only when the interval of the ratio lies beyond it: noise does not reject.
A failed request is an infinite latency, so a quantile that failures have made infinite breaks every bound on it; error rates
are compared by their difference, with an exact binomial bound.
Metrics that the evaluator of this scenario does not report are not checked here; a rollout checks them again on traffic.
"""

import math
from collections.abc import Mapping, Sequence

from scipy import stats

from sartor_agents.measurement.messages import GuardrailRatio
from sartor_api.search.records import ArmSummary, ConditionResult, FailureClass, GuardrailLimit, Measurement

Ratios = Mapping[str, Mapping[str, GuardrailRatio]]
"""The evaluator's ratios by condition, then metric; below 1 is better."""


_SURE = 0.05
"""One-sided error at which failures are believed to be more than chance."""

_LATENCIES = {
    "ttftP50": ("ttft_p50", 0.5),
    "ttftP99": ("ttft_p99", 0.01),
    "interTokenLatencyP50": ("inter_token_p50", 0.5),
    "interTokenLatencyP99": ("inter_token_p99", 0.01),
    "endToEndLatencyP50": ("end_to_end_p50", 0.5),
    "endToEndLatencyP99": ("end_to_end_p99", 0.01),
}
"""By metric: its field, and the share of requests that may fail before it is infinite."""


def _absolute(metric: str, arm: ArmSummary) -> float | None:
    """The metric as measured; None where there is nothing to measure it by, infinite where failures have made it so."""
    if metric == "errorRate":
        return arm.failed / arm.requests if arm.requests else None
    if metric == "outputTokensPerSecond":
        return arm.output_tokens_per_second
    if metric not in _LATENCIES:
        return None
    value: float | None = getattr(arm, _LATENCIES[metric][0])
    return math.inf if value is None and arm.failed else value


def _surely_failed(arm: ArmSummary) -> float:
    """The failures' true share is above this with probability 1 - `_SURE` (Clopper & Pearson, *Biometrika* 26, 1934)."""
    return float(stats.beta.ppf(_SURE, arm.failed, arm.requests - arm.failed + 1)) if arm.failed else 0.0


def _regression(limit: GuardrailLimit, allowed: float, condition: ConditionResult, ratios: Ratios) -> str | None:
    """A sentence when the candidate is worse than the baseline by more than `allowed`."""
    mine, theirs, metric = condition.candidate, condition.baseline, limit.metric
    failed = f"{mine.failed} of {mine.requests} requests failed"
    if metric == "errorRate":
        before = theirs.failed / theirs.requests if theirs.requests else 0.0
        if _surely_failed(mine) > before + allowed:
            return f"{metric} at {condition.name}: {failed}, the baseline's {theirs.failed} of {theirs.requests}"
        return None
    ratio = ratios.get(condition.name, {}).get(metric)
    if ratio is None:
        if metric in _LATENCIES and _surely_failed(mine) > _LATENCIES[metric][1]:
            return f"{metric} at {condition.name} is infinite: {failed}, each of them an infinite latency"
        return None
    if ratio.low <= 1 + allowed:
        return None
    return (
        f"{metric} at {condition.name} is {ratio.value:.2f} times the baseline's "
        f"[{ratio.low:.2f}, {ratio.high:.2f}]; {1 + allowed:.2f} is allowed"
    )


def broken_guardrail(
    limits: Sequence[GuardrailLimit], conditions: Sequence[ConditionResult], ratios: Ratios
) -> str | None:
    """A sentence for the first bound that is broken, or None."""
    for condition in conditions:
        for limit in limits:
            if limit.maximum_regression is not None:
                worse = _regression(limit, limit.maximum_regression, condition, ratios)
                if worse is not None:
                    return worse
            value = _absolute(limit.metric, condition.candidate)
            if value is None:
                continue
            if limit.at_most is not None and value > limit.at_most:
                return f"{limit.metric} at {condition.name} is {value:.4g}; at most {limit.at_most:.4g} is allowed"
            if limit.at_least is not None and value < limit.at_least:
                return f"{limit.metric} at {condition.name} is {value:.4g}; at least {limit.at_least:.4g} is asked"
    return None


def guarded(measurement: Measurement, limits: Sequence[GuardrailLimit], ratios: Ratios) -> Measurement:
    """The measurement, or a candidate failure with the same figures when a bound is broken."""
    if not measurement.valid:
        return measurement
    broken = broken_guardrail(limits, measurement.conditions, ratios)
    if broken is None:
        return measurement
    return measurement.model_copy(
        update={
            "valid": False,
            "speedup": None,
            "invalid_reason": "GuardrailBroken",
            "message": broken,
            "failure_class": FailureClass.CANDIDATE,
        }
    )
