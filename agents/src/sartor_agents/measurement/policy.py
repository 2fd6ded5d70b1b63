"""How much is measured before a number is believed: part of an `EvaluateRequest`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from .slo import ServiceLevel


class MeasurementPolicy(BaseModel):
    """How much is measured, and what makes a window invalid. Use `quick()` or `thorough()`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicates_min: int = Field(default=8, ge=2, description="pairs before the first look")
    replicates_max: int = Field(default=240, ge=2)
    single_windows: int = Field(default=8, ge=1, description="windows of a server measured alone (baseline's grid)")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the interval on the ratio")
    comparisons: int = Field(
        default=1, ge=1, description="best-of-N correction: the interval holds for N candidates at once (Šidák)"
    )
    minimum_speedup: float = Field(default=1.0, gt=0, description="stop early once the interval clears it")
    precision: float = Field(default=0.01, gt=0, description="stop early once the half-width of the log ratio is below")
    window_seconds: float = Field(default=2.0, gt=0, description="scored part of a throughput window")
    requests_per_condition: int = Field(default=1, ge=1, description="per window, where requests are timed singly")
    warmup_requests: int = Field(default=1, ge=1, description="per slot and window, at least")
    warmup_requests_max: int = Field(default=8, ge=1)
    request_timeout: float = Field(default=120.0, gt=0)
    stall_timeout: float = Field(default=30.0, gt=0, description="longest silence within a stream")
    wall_clock: float = Field(default=1800.0, gt=0, description="no new pair is begun after this many seconds")
    maximum_contention: float = Field(
        default=0.5, ge=0, le=1, description="stolen plus foreign share of the machine's CPU in a window"
    )
    maximum_contention_difference: float = Field(
        default=0.2, ge=0, le=1, description="between the two windows of a pair"
    )
    maximum_idle_cores: float = Field(
        default=0.1, ge=0, description="processors that the candidate may use while the baseline is measured"
    )
    maximum_idle_baseline_cores: float = Field(
        default=0.5,
        ge=0,
        description="the other way round: idle vLLM looks at its queues (0.1 to 0.2 on a busy machine), and it slows only "
        "the candidate",
    )
    maximum_foreign_received: float = Field(
        default=1000.0, ge=0, description="bytes a second that others may send to a server while it is measured"
    )
    maximum_foreign_sent: float = Field(
        default=20_000.0, ge=0, description="bytes a second that it may answer them: a scrape now and then, no more"
    )
    maximum_generator_share: float = Field(
        default=0.8, gt=0, description="of its core that the load generator may use in a window"
    )
    maximum_generator_lag: float = Field(
        default=0.1, gt=0, description="of the median latency that the load generator may be late by (99th percentile)"
    )
    service_level: ServiceLevel = Field(
        default=ServiceLevel(), description="what goodput counts, and what a peak sustains"
    )
    startup_seconds: float = Field(default=10.0, ge=0, description="how long a server that is not up yet is waited for")
    invalid_pairs_max: int = Field(default=80, ge=0, description="how many disturbed pairs are repeated")
    verify_outputs: int = Field(
        default=4, ge=0, description="answers drawn from the scored windows and checked against the reference"
    )

    @classmethod
    def quick(cls, **overrides: Any) -> MeasurementPolicy:
        """For the quickstart: a large effect shown in about a minute at 50 M parameters on two cores."""
        values: dict[str, Any] = {
            "replicates_min": 6,
            "replicates_max": 40,
            "single_windows": 2,
            "warmup_requests_max": 3,
            "precision": 0.05,
            "wall_clock": 240.0,
            "maximum_contention": 0.9,
            "maximum_contention_difference": 0.35,
            "maximum_generator_lag": 0.5,
            "invalid_pairs_max": 15,
            "verify_outputs": 2,
        }
        return cls(**{**values, **overrides})

    @classmethod
    def thorough(cls, **overrides: Any) -> MeasurementPolicy:
        """For figures that are published or promote."""
        values: dict[str, Any] = {
            "replicates_min": 10,
            "replicates_max": 480,
            "single_windows": 12,
            "precision": 0.005,
            "invalid_pairs_max": 160,
            "wall_clock": 3600.0,
            "verify_outputs": 8,
        }
        return cls(**{**values, **overrides})
