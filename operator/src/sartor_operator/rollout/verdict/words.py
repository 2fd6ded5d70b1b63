"""Numbers of a verdict in plain words. All of it is for people; nothing here decides."""

import math
from collections.abc import Callable, Mapping

from sartor_api.objective import GuardrailMetric
from sartor_operator.rollout.verdict.bounds import Bound, QuantileLimit, QuantileRegression, ShareLimit, ShareRegression
from sartor_operator.rollout.verdict.metrics import METRICS, ShareMetric, TimeMetric

NAMES: Mapping[GuardrailMetric, str] = {
    "errorRate": "error rate",
    "handoverRate": "hand-over rate",
    "outputAgreement": "output agreement",
    "ttftP50": "time to first token at the median",
    "ttftP99": "time to first token at p99",
    "interTokenLatencyP50": "inter-token latency at the median",
    "interTokenLatencyP99": "inter-token latency at p99",
    "endToEndLatencyP50": "end-to-end latency at the median",
    "endToEndLatencyP99": "end-to-end latency at p99",
    "outputTokensPerSecond": "output tokens per second of a request at the median",
}


def percent(share: float) -> str:
    """0.0123 as 1.23 %."""
    return f"{share * 100:.3g} %"


def duration(seconds: float) -> str:
    """A length of time to three digits."""
    if seconds == math.inf:
        return "more than any time"
    if seconds >= 60:
        return f"{seconds:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def shown(metric: GuardrailMetric, figure: float) -> float | None:
    """The value that people know the metric by; None where there is no finite one."""
    spec = METRICS[metric]
    if isinstance(spec, ShareMetric):
        figure = 1 - figure if spec.complement else figure
    elif spec.inverse:
        figure = 1 / figure if figure > 0 else math.inf
    return figure if math.isfinite(figure) else None


def value(metric: GuardrailMetric, figure: float | None) -> str:
    """A shown value with its unit."""
    if figure is None:
        return "unbounded (too many failed)"
    spec = METRICS[metric]
    if isinstance(spec, ShareMetric):
        return percent(figure)
    return f"{figure:.3g} tokens/s" if spec.inverse else duration(figure)


def allowed(metric: GuardrailMetric, bound: Bound) -> str:
    """What a bound allows."""
    spec = METRICS[metric]
    match bound:
        case ShareLimit():
            complement = isinstance(spec, ShareMetric) and spec.complement
            return f"at least {percent(1 - bound.value)}" if complement else f"at most {percent(bound.value)}"
        case ShareRegression():
            return f"at most {percent(bound.value).removesuffix(' %')} points worse than the baseline"
        case QuantileLimit():
            inverse = isinstance(spec, TimeMetric) and spec.inverse
            return f"at least {1 / bound.value:.3g} tokens/s" if inverse else f"at most {duration(bound.value)}"
        case QuantileRegression():
            inverse = isinstance(spec, TimeMetric) and spec.inverse
            worse = 1 - 1 / bound.value if inverse else bound.value - 1
            return f"at most {percent(worse)} worse than the baseline"
        case _:
            raise TypeError(f"no words for {bound!r}")


def excess(metric: GuardrailMetric, bound: Bound, figure: float) -> str:
    """A value of the kind that a bound bounds."""
    match bound:
        case ShareRegression():
            return f"{figure * 100:+.3g} points"
        case QuantileRegression():
            spec = METRICS[metric]
            inverse = isinstance(spec, TimeMetric) and spec.inverse
            return f"{1 / figure if inverse else figure:.3g} times the baseline's"
        case _:
            return value(metric, shown(metric, figure))


def between(metric: GuardrailMetric, bound: Bound, low: float | None, high: float | None) -> str:
    """An interval with one, two or no known ends. For metrics of which more is better the ends change places."""
    spec = METRICS[metric]
    turned = isinstance(spec, ShareMetric) and spec.complement and not bound.relative
    turned = turned or (isinstance(spec, TimeMetric) and spec.inverse)
    ends = [None if end is None else excess(metric, bound, end) for end in (low, high)]
    first, last = reversed(ends) if turned else ends
    if first is None and last is None:
        return "anything so far"
    if first is None or last is None:
        return f"{last} or less" if first is None else f"{first} or more"
    return f"between {first} and {last}"


def reach(bound: Bound) -> tuple[float, float]:
    """Values among which the end of an interval is looked for."""
    match bound:
        case ShareLimit():
            return 1e-9, 1 - 1e-9
        case ShareRegression():
            return -1 + 1e-9, 1 - 1e-9
        case QuantileLimit():
            return 1e-4, 1e4
        case _:
            return 1 / 64, 64.0


def middle(bound: Bound) -> Callable[[float, float], float]:
    """How an interval is halved: by ratio for times and ratios, else by difference."""
    if isinstance(bound, ShareRegression | ShareLimit):
        return lambda low, high: (low + high) / 2
    return lambda low, high: math.sqrt(low * high)
