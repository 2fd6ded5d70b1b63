"""What judge and evaluator say of a candidate and of the baseline. Ratios are candidate ÷ baseline, times are seconds."""

import hashlib
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from sartor_api.search.base import FailureClass, Record


class Speedup(Record):
    """A ratio candidate ÷ baseline in the direction in which more is better, with its interval.

    `n` is the number of independent replicates (interleaved pairs) behind it, `confidence` the level of the interval.
    """

    value: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    n: int = Field(ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"interval [{self.low}, {self.high}] does not contain the value {self.value}")
        return self


class ArmSummary(Record):
    """One side (candidate or baseline) under one condition, as the evaluator saw it from outside.

    `metric` is the scenario's objective for this side. `quantiles` maps a latency's name (`ttft`, `inter_token`,
    `end_to_end`) to its values in seconds at evenly spaced probabilities 0, 1/(k-1), …, 1: enough to draw a distribution.
    `goodput` is in requests per second that met the service level, `attainment` the share of requests that did.
    """

    metric: float
    requests: int = Field(ge=0)
    failed: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    output_tokens_per_second: float | None = None
    goodput: float | None = None
    attainment: float | None = None
    ttft_p50: float | None = None
    ttft_p99: float | None = None
    inter_token_p50: float | None = None
    inter_token_p99: float | None = None
    end_to_end_p50: float | None = None
    end_to_end_p99: float | None = None
    quantiles: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class ConditionResult(Record):
    """One condition of a scenario (a match rate, a concurrency): both sides and their ratio."""

    name: str
    ratio: Speedup
    candidate: ArmSummary
    baseline: ArmSummary


class Peak(Record):
    """The highest concurrency that one side sustains within the service level while its goodput still grows.

    `goodput` is in requests per second there; `limited_by` says what ended the climb: `serviceLevel`, `failures`, `growth`,
    `generator` (ours), or `highest` (nothing up to the highest concurrency that is tried).
    """

    concurrency: int = Field(ge=1)
    goodput: float = Field(ge=0)
    limited_by: str


class SeedCommitment(Record):
    """A sealed seed: its hash is known before the measurement, its value after it.

    `digest` is the SHA-256 of `value` as UTF-8 text, in hexadecimal.
    """

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    value: str | None = None

    @classmethod
    def of(cls, value: str, *, revealed: bool = True) -> "SeedCommitment":
        """The commitment to `value`; `revealed=False` leaves the value out."""
        return cls(digest=hashlib.sha256(value.encode()).hexdigest(), value=value if revealed else None)

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if self.value is not None and hashlib.sha256(self.value.encode()).hexdigest() != self.digest:
            raise ValueError("the revealed seed does not match the hash that was committed to")
        return self


class Verdict(Record):
    """What one gate says about one candidate, or why a step could not be done.

    `reason` is a documented constant in CamelCase, `message` a sentence for people. A verdict that did not pass has a
    `failure_class`. `evidence` is small and typed by the gate (the smallest failing request, say).
    """

    kind: Literal["verdict"] = "verdict"
    gate: str
    passed: bool
    reason: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    message: str = ""
    failure_class: FailureClass | None = None
    evidence: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _failure_has_class(self) -> Self:
        if self.passed and self.failure_class is not None:
            raise ValueError("a passed verdict has no failure class")
        if not self.passed and self.failure_class is None:
            raise ValueError("a verdict that did not pass says whose fault it is (failure_class)")
        return self


class Judgement(Record):
    """All verdicts of one look at one candidate, in the order of the gates."""

    kind: Literal["judgement"] = "judgement"
    verdicts: tuple[Verdict, ...] = Field(min_length=1)
    reference: str | None = None
    """What the accuracy reference computed on; None for the processor."""

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failure(self) -> Verdict | None:
        """The first verdict that did not pass, other faults before the candidate's own.

        A gate that could not look properly (its reference failed, say) says nothing about the candidate, so its
        failure comes first: the whole look is repeated.
        """
        failed = [verdict for verdict in self.verdicts if not verdict.passed]
        others = [verdict for verdict in failed if verdict.failure_class is not FailureClass.CANDIDATE]
        return next(iter(others or failed), None)


class Measurement(Record):
    """Candidate against baseline, paired and interleaved, on one sealed seed.

    `speedup` combines `conditions` (geometric mean unless the scenario says otherwise) and is None exactly when the
    measurement is not `valid`; then `invalid_reason` (a constant), `message` and `failure_class` say why.
    `samples` is the path of the raw per-request samples relative to the run's folder. `peaks` are the sustainable peaks
    of `candidate` and `baseline`, where they were asked for; the condition `peak-cN` is measured at the lower one.
    """

    kind: Literal["measurement"] = "measurement"
    metric: str
    valid: bool = True
    speedup: Speedup | None = None
    conditions: tuple[ConditionResult, ...] = ()
    invalid_reason: str | None = None
    message: str = ""
    failure_class: FailureClass | None = None
    samples: str | None = None
    seed: SeedCommitment | None = None
    fingerprint: dict[str, JsonValue] = Field(default_factory=dict)
    handed_over: int = Field(default=0, ge=0)
    peaks: dict[str, Peak] = Field(default_factory=dict)
    confirmation: bool = False

    @model_validator(mode="after")
    def _valid_or_why_not(self) -> Self:
        if self.valid != (self.speedup is not None):
            raise ValueError("a valid measurement has a speed-up, an invalid one has none")
        if not self.valid and (self.failure_class is None or self.invalid_reason is None):
            raise ValueError("an invalid measurement has an invalid_reason and a failure_class")
        return self


class GridPoint(Record):
    """One setting of the documented grid over which the baseline is tuned.

    `metric` is the scenario's objective measured alone (higher is better), None when this setting did not start or
    could not be measured; `message` then says why.
    """

    name: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    metric: float | None = None
    start_seconds: float | None = None
    message: str = ""


class BaselineRecord(Record):
    """The baseline as it was tuned: a first-class measured object."""

    kind: Literal["baseline"] = "baseline"
    engine: str
    version: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    grid: tuple[GridPoint, ...] = ()
    chosen: str = ""
    metric: str = ""
    fallback_reason: str | None = None
    fingerprint: dict[str, JsonValue] = Field(default_factory=dict)
