"""`ServingSynthesis`: the intent. The only kind that a model owner writes."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule
from sartor_api.fields import Commit, Count, Digest, LocalReference, Money, ObjectReference, ShortText, Text
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.model import Model
from sartor_api.objective import Baseline, Correctness, Measurement, Objective
from sartor_api.policy import Agents, Budget, Delivery, Payback, Resynthesis, Search
from sartor_api.quantities import DecimalString, Duration
from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.workload import Workload

LONGEST_NAME = 40
"""Of a synthesis: names of runs, candidates and Jobs are made from it, and labels hold 63 characters."""

WITHOUT_TOKENS = ("streaming-asr", "image-generation")
"""Scenarios whose outputs cannot be compared token by token."""


class Hardware(ApiModel):
    """What it runs on."""

    target_ref: LocalReference
    """A HardwareTarget. `sartor run` knows `local`, the CPU of the machine that it runs on."""


class ServingSynthesisSpec(ApiModel):
    """What is wanted. Model, scenario and hardware are enough; everything else has a default."""

    model: Model
    """The model that is served."""
    workload: Workload
    """What is asked of it."""
    hardware: Hardware
    """What it runs on."""
    objective: Objective = Objective()
    """What is optimised, and what is good enough."""
    correctness: Correctness = Correctness()
    """The gate before any speed is looked at."""
    baseline: Baseline = Baseline()
    """What has to be beaten."""
    measurement: Measurement = Measurement()
    """How long and how often is measured."""
    agents: Agents = Agents()
    """Who writes the code."""
    search: Search = Search()
    """How better stacks are looked for."""
    budget: Budget = Budget()
    """What the search may spend."""
    payback: Payback = Payback()
    """Whether it earns that back."""
    delivery: Delivery = Delivery()
    """How the winner gets into the cluster."""
    rollout: RolloutPolicy = RolloutPolicy()
    """How traffic moves to it."""
    resynthesis: Resynthesis = Resynthesis()
    """When the search runs again."""
    suspend: bool = False
    """Stop after the step in flight and hold; what serves goes on serving. `false` goes on where it stopped."""

    rules = (
        Rule(
            cel="!has(self.correctness.mode) || self.workload.scenario == 'custom'"
            " || (self.correctness.mode == 'reference')"
            " == (self.workload.scenario in ['streaming-asr', 'image-generation'])",
            message="correctness.mode does not fit the scenario (exactGreedy compares tokens, reference what has none); "
            "remove it, the scenario brings the right one",
            holds=lambda spec: (
                spec.correctness.mode is None
                or spec.workload.scenario == "custom"
                or (spec.correctness.mode == "reference") == (spec.workload.scenario in WITHOUT_TOKENS)
            ),
            field=".correctness.mode",
        ),
    )

    def correctness_mode(self) -> Literal["exactGreedy", "reference"]:
        """The mode written, else the one that the scenario needs."""
        by_scenario = "reference" if self.workload.scenario in WITHOUT_TOKENS else "exactGreedy"
        return self.correctness.mode or by_scenario


class SynthesisPhase(StrEnum):
    """Where a synthesis stands, in one word. Derived from its run and its rollout, never the other way round."""

    PENDING = "Pending"
    BASELINE = "Baseline"
    SEARCHING = "Searching"
    CONFIRMING = "Confirming"
    DELIVERING = "Delivering"
    ROLLING_OUT = "RollingOut"
    SERVING = "Serving"
    NO_GAIN = "NoGain"
    ROLLED_BACK = "RolledBack"
    SUSPENDED = "Suspended"
    FAILED = "Failed"


class Speedup(ApiModel):
    """A measured ratio to the baseline, never shown without its interval."""

    value: DecimalString
    """Candidate over baseline; above 1 is faster."""
    low: DecimalString
    """Lower end of the interval."""
    high: DecimalString
    """Upper end of the interval."""
    replicates: Count
    """Pairs of windows behind it."""
    text: ShortText = ""
    """The three in one, for people: `2.31× (2.24–2.38, n=12)`."""
    confirmed: bool = False
    """Measured again, on a seed that no round saw."""

    rules = (
        Rule(
            cel="double(self.low) <= double(self.value) && double(self.value) <= double(self.high)",
            message="the value must lie in its interval; write low <= value <= high",
            holds=lambda s: s.low <= s.value <= s.high,
        ),
    )


class BestCandidate(ApiModel):
    """The best stack so far."""

    name: ShortText
    """Its ServingCandidate."""
    commit: Commit | None = None
    """Its commit in the run's repository."""
    content_hash: Digest | None = None
    """Digest of the stack's files."""
    speedup: Speedup | None = None
    """Its speed-up."""


class BaselineSummary(ApiModel):
    """The baseline that has to be beaten, as it was measured."""

    engine: ShortText
    """The engine."""
    version: ShortText = ""
    """Its version."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Its image, by digest."""
    arguments: Annotated[tuple[ShortText, ...], Field(max_length=64)] = ()
    """The arguments that the tuning chose."""
    score: DecimalString | None = None
    """The objective's metric."""


class Spent(ApiModel):
    """What was spent of each budget; limits stand in the spec."""

    rounds: Count = 0
    """Rounds begun."""
    wall_clock: Duration = Duration("0s")
    """Time."""
    accelerator_hours: DecimalString = DecimalString("0")
    """Accelerator hours."""
    tokens: Count = 0
    """Tokens of model calls."""
    money: Money | None = None
    """Money, if prices are known."""


class PaybackSummary(ApiModel):
    """What the search costs against what it saves, at the traffic given or seen."""

    cost: Money | None = None
    """What was spent, or will be at most."""
    saved_per_day: Money | None = None
    """Accelerator time that the speed-up saves each day."""
    earned_back_at: datetime | None = None
    """When the saving has paid the cost."""
    pays: bool | None = None
    """Whether that is within the time set; absent while unknown."""
    message: Text = ""
    """The same in a sentence."""


class RolloutSummary(ApiModel):
    """Where the rollout stands."""

    name: ShortText
    """The ServingRollout."""
    phase: ShortText
    """Its phase."""
    step: Count | None = None
    """Its step, from 1."""
    steps: Count | None = None
    """How many there are."""
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Per cent of the traffic that the stack answers."""
    message: Text = ""
    """What happens now, in its own words."""
    baseline: ShortText = ""
    """Service that serves beside the stack, and that traffic returns to."""
    candidate: ShortText = ""
    """Service of the stack."""


class ServingSynthesisStatus(ApiModel):
    """What is so."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    phase: SynthesisPhase | None = None
    """Where it stands."""
    message: Text = ""
    """What happens now, or why nothing does."""
    conditions: Conditions = ()
    """Ready, Reconciling, Stalled and those of the domain."""
    run: ObjectReference | None = None
    """The SynthesisRun that counts now."""
    serving_run: ObjectReference | None = None
    """The run whose winner serves, while a newer one still searches."""
    baseline: BaselineSummary | None = None
    """The baseline as measured."""
    best: BestCandidate | None = None
    """The best stack so far."""
    spent: Spent | None = None
    """What was spent."""
    next_round_cost: Spent | None = None
    """What one more round will cost, by what the last ones did."""
    payback: PaybackSummary | None = None
    """Whether it pays."""
    rollout: RolloutSummary | None = None
    """Where the rollout stands."""
    rejected_content: Annotated[tuple[Digest, ...], Field(max_length=32)] = ()
    """Stacks that a rollout rolled back; the same bytes are not tried again."""
    last_synthesis_time: datetime | None = None
    """When the last search ended."""
    drift_score: DecimalString | None = None
    """Live speed-up, while it is known."""


class ServingSynthesis(Resource):
    """A model owner's wish: this model, this workload, this hardware, faster than the baseline and just as right."""

    naming: ClassVar[Naming] = Naming(
        plural="servingsyntheses",
        short_name="ssyn",
        columns=(
            Column(name="Phase", path=".status.phase", description="Where it stands."),
            Column(name="Speedup", path=".status.best.speedup.text", description="Over the baseline, with interval."),
            Column(
                name="Weight",
                path=".status.rollout.weight",
                description="Per cent of the traffic on the stack.",
                type="integer",
            ),
            Column(name="Rounds", path=".status.spent.rounds", description="Rounds begun.", type="integer"),
            Column(name="Cost", path=".status.spent.money.amount", description="Money spent."),
            Column(name="Scenario", path=".spec.workload.scenario", description="Kind of workload.", wide=True),
            Column(name="Hardware", path=".spec.hardware.targetRef.name", description="HardwareTarget.", wide=True),
            Column(name="Message", path=".status.message", description="What happens now.", wide=True),
            AGE,
        ),
    )

    kind: Literal["ServingSynthesis"] = "ServingSynthesis"
    """Kind of the object."""
    spec: ServingSynthesisSpec
    """What is wanted."""
    status: ServingSynthesisStatus | None = None
    """What is so. Written by the operator."""

    rules = (
        Rule(
            cel=f"!has(self.metadata.name) || size(self.metadata.name) <= {LONGEST_NAME}",
            message=f"metadata.name is too long: names of Jobs are made from it; use at most {LONGEST_NAME} characters",
            holds=lambda synthesis: len(synthesis.name) <= LONGEST_NAME,
            field=".metadata.name",
        ),
    )
