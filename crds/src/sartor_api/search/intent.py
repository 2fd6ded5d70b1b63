"""What a run was asked to do: an immutable snapshot, with every number that the search decides by."""

import hashlib
import json
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from sartor_api.search.base import Cost, FailureClass, Record, StepKind
from sartor_api.search.directive import Mode


class Envelope(Record):
    """What the stack must take itself; everything else goes to the baseline. Lengths in tokens."""

    max_input_tokens: int = Field(gt=0)
    max_output_tokens: int = Field(gt=0)

    @property
    def max_model_len(self) -> int:
        return self.max_input_tokens + self.max_output_tokens


class Budget(Record):
    """What a run may use up. None means no limit of that kind; rounds and wall clock always have one."""

    rounds: int = Field(default=8, ge=0)
    wall_clock_seconds: float = Field(default=8 * 3600.0, gt=0)
    accelerator_seconds: float | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    money: float | None = Field(default=None, ge=0)
    currency: str = "USD"
    confirmation_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of each budget that the confirmation draws on, which rounds may not touch; at least what one is expected to cost
    is always kept."""


class StepPolicy(Record):
    """Time and cost of one kind of step: what to expect before there is history, the deadline, what to reserve."""

    expected_seconds: float = Field(gt=0)
    deadline_seconds: float = Field(gt=0)
    reserve: Cost = Cost()


class RetryPolicy(Record):
    """`tries` in all, waiting `base_seconds · factor^(k-1)` after the k-th failure, at most `cap_seconds`."""

    tries: int = Field(ge=1)
    base_seconds: float = Field(ge=0)
    factor: float = Field(default=4.0, ge=1)
    cap_seconds: float = Field(default=300.0, ge=0)

    def delay(self, failures: int) -> float:
        """Seconds to wait after `failures` failures in a row (at least 1)."""
        return min(self.cap_seconds, self.base_seconds * self.factor ** (failures - 1))


DEFAULT_STEPS: dict[StepKind, StepPolicy] = {
    StepKind.BASELINE: StepPolicy(expected_seconds=240, deadline_seconds=3600),
    StepKind.PLAN: StepPolicy(expected_seconds=3, deadline_seconds=900),
    StepKind.IMPLEMENT: StepPolicy(expected_seconds=5, deadline_seconds=3600),
    StepKind.JUDGE: StepPolicy(expected_seconds=30, deadline_seconds=1800),
    StepKind.EVALUATE: StepPolicy(expected_seconds=60, deadline_seconds=3600),
    StepKind.CONFIRM: StepPolicy(expected_seconds=90, deadline_seconds=3600),
}

DEFAULT_RETRIES: dict[FailureClass, RetryPolicy] = {
    FailureClass.INFRASTRUCTURE: RetryPolicy(tries=3, base_seconds=2),
    FailureClass.PROVIDER: RetryPolicy(tries=5, base_seconds=10),
    FailureClass.MEASUREMENT: RetryPolicy(tries=3, base_seconds=1),
}


PolicyName = Literal["trajectory", "evolutionary", "issue-queue"]


class SearchPolicy(Record):
    """How the search decides. Every number that `decide` uses stands here."""

    minimum_effect: float = Field(default=0.02, ge=0)
    """Relative gain over the incumbent that is worth a change; the interval's lower end must clear it."""
    minimum_speedup: float = Field(default=1.0, gt=0)
    """Speed-up over the baseline below which nothing is delivered; the confirmation's lower end must reach it."""
    target_speedup: float | None = Field(default=None, gt=0)
    """Stop once the incumbent's lower end reaches this."""
    plateau_rounds: int = Field(default=4, ge=1)
    """A plateau is so many measured rounds since the last gain, each shown to gain less than the minimum effect."""
    thrash_rounds: int | None = Field(default=None, ge=1)
    """So many rounds in a row that brought nothing to measure, or what was measured already, are thrashing; None: never."""
    escalation: tuple[Mode, ...] = ()
    """What is done on a plateau or when the search thrashes, one step further each time; after the last the search stops."""
    kind: PolicyName = "trajectory"
    """How the next plan is directed (`policies`)."""
    population: int = Field(default=6, ge=2)
    """Candidates that the policy `evolutionary` breeds from."""
    parallelism: int = Field(default=1, ge=1)
    """Rounds that may be open at the same time."""
    exclusive: bool = True
    """Nothing else of the run is in flight beside a measurement: roles and measurements share a machine."""
    looks: int = Field(default=1, ge=1)
    """Measurements that a round may make while they leave open whether its candidate gains, of candidate and incumbent in
    turn: a gain near the minimum effect is lost in the noise of one."""
    attempts: int = Field(default=2, ge=1)
    """Implementations per round: 2 allows one repair with the judge's feedback."""
    confirmations: int = Field(default=2, ge=1)
    """Candidates whose confirmation is tried, best first."""
    steps: dict[StepKind, StepPolicy] = Field(default_factory=lambda: dict(DEFAULT_STEPS))
    retries: dict[FailureClass, RetryPolicy] = Field(default_factory=lambda: dict(DEFAULT_RETRIES))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := set(StepKind) - set(self.steps):
            raise ValueError(f"steps lacks {', '.join(sorted(missing))}")
        if missing := set(FailureClass) - {FailureClass.CANDIDATE} - set(self.retries):
            raise ValueError(f"retries lacks {', '.join(sorted(missing))}")
        return self


class GuardrailLimit(Record):
    """A bound that a candidate must keep: absolute (seconds, shares, rates), against the baseline, or both.

    `maximum_regression` is relative for latencies and rates and in points for shares (0.1 is 10 %, or 0.1 points).
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    maximum_regression: float | None = None


class RunSpec(Record):
    """The immutable snapshot of what a run was asked to do.

    `synthesis` is the whole `ServingSynthesis` as it was loaded (camelCase JSON), for provenance; the search reads only
    the fields beside it, which were resolved from it once (defaults, hardware, agent profile).
    """

    kind: Literal["run"] = "run"
    name: str
    created: float
    seed: int
    scenario: str
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    model: dict[str, JsonValue]
    dtype: str = "bfloat16"
    envelope: Envelope
    platform: Literal["cpu", "cuda", "metal"] = "cpu"
    accelerators: int = Field(default=0, ge=0)
    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of the hardware that a step holds, in the budget's currency; None while it is not known."""
    metric: str = "outputTokensPerSecond"
    guardrails: tuple[GuardrailLimit, ...] = ()
    correctness: dict[str, JsonValue] = Field(default_factory=dict)
    baseline: dict[str, JsonValue] = Field(default_factory=dict)
    measurement: dict[str, JsonValue] = Field(default_factory=dict)
    agents: dict[str, JsonValue] = Field(default_factory=dict)
    skills: bool = True
    budget: Budget = Budget()
    policy: SearchPolicy = SearchPolicy()
    synthesis: dict[str, JsonValue] = Field(default_factory=dict)

    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) over the canonical JSON: the identity of the intent."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
