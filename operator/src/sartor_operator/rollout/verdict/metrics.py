"""What each metric of a guardrail is, request by request.

A request that failed is infinitely slow, so that failing fast is never an advantage. A stream that its client left counts
with the time until then: both arms have the same clients, and an arm that hangs shows as slow. What was handed over counts
like any other answer: it is what the user got.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sartor_api.objective import Guardrail, GuardrailMetric, Guardrails
from sartor_api.quantities import Percentage
from sartor_operator.rollout.verdict.bounds import (
    Bound,
    QuantileLimit,
    QuantileRegression,
    ShareLimit,
    ShareRegression,
)
from sartor_operator.rollout.verdict.samples import GapSketch, Increment, Sample, Source, Timing

DEFAULT_GUARDRAILS: Guardrails = (
    Guardrail(metric="errorRate", maximum_regression=Percentage("0.1%")),
    Guardrail(metric="ttftP99", maximum_regression=Percentage("10%")),
    Guardrail(metric="interTokenLatencyP99", maximum_regression=Percentage("10%")),
)
"""What holds where a rollout names no guardrails: those that a ServingSynthesis has by default (a test compares them)."""
_NEVER = 1e9
"""The ratio that stands for "any slowdown", where throughput may fall by 100 %."""


@dataclass(frozen=True, slots=True)
class ShareMetric:
    """A share of requests, of which less is better. `shown` None: as it is; else what is shown is 1 − share."""

    hit: Callable[[Sample], bool | None]
    """Whether a request is a hit; None where nobody looked."""
    counted: Callable[[Increment], float | None]
    """Hits among the requests of an increment of counters; None where nobody counts them."""
    complement: bool = False


@dataclass(frozen=True, slots=True)
class TimeMetric:
    """A quantile of lengths of time. `inverse`: what is shown and bounded is a rate, 1 ÷ time."""

    timing: Timing
    level: float
    inverse: bool = False


Metric = ShareMetric | TimeMetric


def _agreement(sample: Sample) -> bool | None:
    return None if sample.agreed is None else not sample.agreed


METRICS: Mapping[GuardrailMetric, Metric] = {
    "errorRate": ShareMetric(lambda s: s.failed, lambda i: i.failed),
    "handoverRate": ShareMetric(lambda s: s.handed_over, lambda i: i.handed_over),
    "outputAgreement": ShareMetric(_agreement, lambda i: None, complement=True),
    "ttftP50": TimeMetric(Timing.TTFT, 0.5),
    "ttftP99": TimeMetric(Timing.TTFT, 0.99),
    "interTokenLatencyP50": TimeMetric(Timing.INTER_TOKEN, 0.5),
    "interTokenLatencyP99": TimeMetric(Timing.INTER_TOKEN, 0.99),
    "endToEndLatencyP50": TimeMetric(Timing.END_TO_END, 0.5),
    "endToEndLatencyP99": TimeMetric(Timing.END_TO_END, 0.99),
    "outputTokensPerSecond": TimeMetric(Timing.PER_TOKEN, 0.5, inverse=True),
}


def seconds(timing: Timing, sample: Sample) -> float | None:
    """The time of one request, infinite for a failed one; None where nobody looked.

    Only a probe sees the first token: what a gateway calls the first byte is the status line, which vLLM sends as soon as
    it has accepted a stream and others with the first token (docs/rollouts/sources.md).
    """
    if timing is not Timing.END_TO_END and sample.source is not Source.PROBE:
        return None
    if sample.failed:
        return math.inf
    match timing:
        case Timing.PER_TOKEN:
            return sample.duration / sample.output_tokens if sample.output_tokens else None
        case Timing.TTFT:
            return sample.duration if sample.first_byte is None else sample.first_byte
        case _:
            return sample.duration


def gaps(sample: Sample) -> GapSketch | None:
    """The gaps between tokens of one request, in cells. A failed one has a gap that never ends, and no sketch."""
    return None if sample.failed else sample.gaps


def bounds(guardrail: Guardrail) -> tuple[Bound, ...]:
    """The bounds that a guardrail states: absolute ones first."""
    metric = METRICS[guardrail.metric]
    regression = None if guardrail.maximum_regression is None else float(guardrail.maximum_regression.number)
    limit = guardrail.at_least if guardrail.at_most is None else guardrail.at_most
    value = None if limit is None else float(limit.number)
    found: list[Bound] = []
    if isinstance(metric, ShareMetric):
        if value is not None:
            found.append(ShareLimit(1 - value if metric.complement else value))
        if regression is not None:
            found.append(ShareRegression(regression))
        return tuple(found)
    if value is not None:
        if metric.inverse:
            value = 1 / value if value > 0 else _NEVER
        found.append(QuantileLimit(value, metric.level))
    if regression is not None:
        ratio = 1 + regression
        if metric.inverse:
            ratio = 1 / (1 - regression) if regression < 1 else _NEVER
        found.append(QuantileRegression(ratio, metric.level))
    return tuple(found)
