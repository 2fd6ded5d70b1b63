"""The service level that a request has to meet, and goodput under it.

Goodput is the rate of requests that meet every limit (Zhong et al., DistServe, OSDI 2024); `vllm bench serve --goodput` and
GuideLLM mean the same. A request is looked at by itself and by what its user saw: the time to the first token and to the end
count from the moment at which it was due, the inter-token latency is the mean gap after the first token. A failed request
meets nothing, and without limits every request that succeeded is good.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from .samples import Sample


class ServiceLevel(BaseModel):
    """Limits of one request, seconds; `attainment` is the share of requests that has to meet them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft: float | None = Field(default=None, gt=0, description="to the first token, from the scheduled moment")
    inter_token: float | None = Field(default=None, gt=0, description="mean gap between tokens after the first")
    end_to_end: float | None = Field(default=None, gt=0, description="to the end, from the scheduled moment")
    attainment: float = Field(default=0.99, gt=0, le=1, description="share of requests that has to meet every limit")

    def met_by(self, sample: Sample) -> bool:
        """Whether the request succeeded within every limit."""
        return (
            sample.ok
            and sample.ttft <= _limit(self.ttft)
            and sample.mean_gap <= _limit(self.inter_token)
            and sample.latency <= _limit(self.end_to_end)
        )


class Bound(Protocol):
    """A guardrail as far as it is a service level: the largest value of a metric, by the API's name."""

    @property
    def metric(self) -> str: ...

    @property
    def at_most(self) -> float | None: ...


def from_guardrails(bounds: Iterable[Bound]) -> ServiceLevel:
    """The service level that absolute bounds on 99th percentiles state: of each 100 requests 99 within the bound."""
    limits = {bound.metric: bound.at_most for bound in bounds if bound.at_most is not None}
    return ServiceLevel(
        ttft=limits.get("ttftP99"),
        inter_token=limits.get("interTokenLatencyP99"),
        end_to_end=limits.get("endToEndLatencyP99"),
    )


def attainment(samples: Sequence[Sample], level: ServiceLevel) -> float:
    """Share of `samples` that meet `level`; zero without samples."""
    return sum(level.met_by(sample) for sample in samples) / len(samples) if samples else 0.0


def goodput(samples: Iterable[Sample], seconds: float, level: ServiceLevel) -> float:
    """Requests per second that met `level`, of requests that belong to a time of `seconds`."""
    return sum(level.met_by(sample) for sample in samples) / seconds if seconds > 0 else 0.0


def _limit(value: float | None) -> float:
    return math.inf if value is None else value
