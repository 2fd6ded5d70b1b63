"""From samples to numbers: the metric of each condition in a window, latencies, summaries, goodput.

Failed samples stay in every list, as rates of zero and infinite latencies; what is shown of infinite quantiles is `None`
together with the number of failures, since records hold finite numbers only.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sartor_api.search.records import ArmSummary

from .samples import Sample
from .slo import ServiceLevel, attainment
from .statistics import quantile

_STEPS = 40  # a distribution is kept at 41 evenly spaced probabilities


@dataclass(frozen=True, slots=True)
class Latencies:
    """Per request, seconds: time to first token and end to end from the scheduled time; per token: the gap before it."""

    ttft: tuple[float, ...]
    inter_token: tuple[float, ...]
    end_to_end: tuple[float, ...]


def latencies(samples: Iterable[Sample]) -> Latencies:
    """Latencies of `samples`; a failed sample is infinite in all three."""
    ttft: list[float] = []
    gaps: list[float] = []
    whole: list[float] = []
    for sample in samples:
        ttft.append(sample.ttft)
        whole.append(sample.latency)
        gaps.extend(sample.inter_token() if sample.ok else [math.inf])
    return Latencies(tuple(ttft), tuple(gaps), tuple(whole))


def request_rate(samples: Sequence[Sample]) -> float:
    """Median over requests of tokens ÷ latency; a failed request has rate zero. Zero without requests."""
    return quantile([sample.rate for sample in samples], 0.5) if samples else 0.0


def throughput(samples: Iterable[Sample], start: float, end: float) -> float:
    """Tokens per second that arrived in [start, end); tokens of a sample that failed later do not count."""
    if end <= start:
        return 0.0
    return tokens_between(samples, start, end) / (end - start)


def tokens_between(samples: Iterable[Sample], start: float, end: float) -> float:
    """Tokens of successful samples that arrived in [start, end).

    Of a request that began earlier they count at most for the share of its writing time that lies after `start`: a server
    that recognises the ramp could keep tokens back and send them once the window has begun. Writing begins when the
    prompt has been read, for which the median of the requests that began within the window is allowed.
    """
    good = [sample for sample in samples if sample.ok and sample.arrivals]
    within = [sample.ttft + sample.scheduled - sample.sent for sample in good if start <= sample.sent < end]
    reading = quantile(within, 0.5) if within else 0.0
    total = 0.0
    for sample in good:
        arrived = sum(n for time, n in sample.arrivals if start <= time < end)
        begun, last = sample.sent + reading, sample.arrivals[-1][0]
        if arrived and begun < start:
            arrived = min(arrived, sample.tokens * (last - start) / (last - begun))
        total += arrived
    return total


def summarise(
    metric: float, samples: Sequence[Sample], *, level: ServiceLevel | None = None, goodput: float | None = None
) -> ArmSummary:
    """One arm under one condition, all its scored samples together; `metric` is its rate, `goodput` its requests/s
    within `level`."""
    times = latencies(samples)
    busy = math.fsum(sample.end - sample.sent for sample in samples)
    tokens = sum(sample.counted for sample in samples)
    distributions = {"ttft": times.ttft, "inter_token": times.inter_token, "end_to_end": times.end_to_end}
    return ArmSummary(
        metric=metric,
        requests=len(samples),
        failed=sum(not sample.ok for sample in samples),
        output_tokens=tokens,
        output_tokens_per_second=tokens / busy if busy > 0 else None,
        goodput=goodput,
        attainment=attainment(samples, level) if level is not None and samples else None,
        ttft_p50=_finite(times.ttft, 0.5),
        ttft_p99=_finite(times.ttft, 0.99),
        inter_token_p50=_finite(times.inter_token, 0.5),
        inter_token_p99=_finite(times.inter_token, 0.99),
        end_to_end_p50=_finite(times.end_to_end, 0.5),
        end_to_end_p99=_finite(times.end_to_end, 0.99),
        quantiles={
            name: tuple(quantile(finite, step / _STEPS) for step in range(_STEPS + 1))
            for name, values in distributions.items()
            if (finite := [value for value in values if math.isfinite(value)])
        },
    )


def _finite(values: Sequence[float], probability: float) -> float | None:
    value = quantile(values, probability) if values else math.inf
    return value if math.isfinite(value) else None
