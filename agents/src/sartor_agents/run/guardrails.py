"""Bounds that a candidate must keep while it gets faster, checked on what the evaluator measured.

A bound against the baseline counts as broken only when the interval of the ratio lies beyond it: noise does not reject.
Metrics that the evaluator of this scenario does not report are not checked here; a rollout checks them again on traffic.
"""

from collections.abc import Mapping, Sequence

from sartor_agents.measurement.messages import GuardrailRatio
from sartor_api.search.records import ArmSummary, ConditionResult, FailureClass, GuardrailLimit, Measurement

Ratios = Mapping[str, Mapping[str, GuardrailRatio]]
"""The evaluator's ratios by condition, then metric; below 1 is better."""


def _absolute(metric: str, arm: ArmSummary) -> float | None:
    figures = {
        "ttftP50": arm.ttft_p50,
        "ttftP99": arm.ttft_p99,
        "interTokenLatencyP50": arm.inter_token_p50,
        "interTokenLatencyP99": arm.inter_token_p99,
        "endToEndLatencyP50": arm.end_to_end_p50,
        "endToEndLatencyP99": arm.end_to_end_p99,
        "outputTokensPerSecond": arm.output_tokens_per_second,
        "errorRate": arm.failed / arm.requests if arm.requests else None,
    }
    return figures.get(metric)


def broken_guardrail(
    limits: Sequence[GuardrailLimit], conditions: Sequence[ConditionResult], ratios: Ratios
) -> str | None:
    """A sentence for the first bound that is broken, or None."""
    for condition in conditions:
        for limit in limits:
            ratio = ratios.get(condition.name, {}).get(limit.metric)
            if ratio and limit.maximum_regression is not None and ratio.low > 1 + limit.maximum_regression:
                return (
                    f"{limit.metric} at {condition.name} is {ratio.value:.2f} times the baseline's "
                    f"[{ratio.low:.2f}, {ratio.high:.2f}]; {1 + limit.maximum_regression:.2f} is allowed"
                )
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
