"""What counts as better, as right and as good enough: objective, guardrails, correctness, baseline, measurement."""

from typing import Annotated, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule
from sartor_api.fields import Image, Label, ListMap, ShortText
from sartor_api.quantities import DecimalString, Duration, Percentage, Threshold

ObjectiveMetric = Literal[
    "outputTokensPerSecond",
    "requestsPerSecond",
    "goodput",
    "ttftP50",
    "ttftP99",
    "endToEndLatencyP50",
    "endToEndLatencyP99",
    "chunkToPartialP50",
]
GuardrailMetric = Literal[
    "errorRate",
    "handoverRate",
    "ttftP50",
    "ttftP99",
    "interTokenLatencyP50",
    "interTokenLatencyP99",
    "endToEndLatencyP50",
    "endToEndLatencyP99",
    "outputTokensPerSecond",
    "outputAgreement",
]
_LATENCIES = (
    "ttftP50",
    "ttftP99",
    "interTokenLatencyP50",
    "interTokenLatencyP99",
    "endToEndLatencyP50",
    "endToEndLatencyP99",
)
_SHARES = ("errorRate", "handoverRate", "outputAgreement")
_HIGHER_IS_BETTER = ("outputTokensPerSecond", "outputAgreement")

Confidence = Annotated[
    Percentage,
    Field(description="Confidence of the intervals that are shown and decided by, from 50% to 99.99%."),
]


CONFIDENCE_RULE = Rule(
    cel=f"!{Percentage.cel_form('self.confidence')}"
    " || (double(self.confidence.replace('%', '')) >= 50.0 && double(self.confidence.replace('%', '')) < 100.0)",
    message='confidence is out of range; write at least "50%" and less than "100%"',
    holds=lambda model: 0.5 <= model.confidence.number < 1,
    field=".confidence",
)
"""For every object with a field ``confidence``."""


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


class Guardrail(ApiModel):
    """A bound that a candidate must keep, in the search and with live traffic.

    An absolute bound, a bound against the baseline over the same time, or both.
    """

    metric: GuardrailMetric
    """What is bounded. Latencies, rates and agreement are taken per request, outside both engines."""
    at_most: Threshold | None = None
    """Highest value: a duration for a latency (`800ms`), a percentage for a share (`"0.1%"`)."""
    at_least: Threshold | None = None
    """Lowest value, for `outputTokensPerSecond` (a decimal) and `outputAgreement` (a percentage)."""
    maximum_regression: Percentage | None = None
    """How much worse than the baseline it may be: relative for latencies and throughput, in points for shares."""

    rules = (
        Rule(
            cel="has(self.atMost) || has(self.atLeast) || has(self.maximumRegression)",
            message="a guardrail bounds nothing; set atMost, atLeast or maximumRegression",
            holds=lambda g: any(b is not None for b in (g.at_most, g.at_least, g.maximum_regression)),
        ),
        Rule(
            cel=f"!has(self.atMost) || !(self.metric in [{_quoted(_HIGHER_IS_BETTER)}])",
            message="atMost is for metrics of which less is better; use atLeast or maximumRegression here",
            holds=lambda g: g.at_most is None or g.metric not in _HIGHER_IS_BETTER,
            field=".atMost",
        ),
        Rule(
            cel=f"!has(self.atLeast) || self.metric in [{_quoted(_HIGHER_IS_BETTER)}]",
            message="atLeast is for outputTokensPerSecond and outputAgreement; use atMost or maximumRegression here",
            holds=lambda g: g.at_least is None or g.metric in _HIGHER_IS_BETTER,
            field=".atLeast",
        ),
        Rule(
            cel=f"!(self.metric in [{_quoted(_LATENCIES)}]) || !has(self.atMost) || self.atMost.endsWith('s')"
            " || self.atMost.endsWith('m') || self.atMost.endsWith('h')",
            message="the bound of a latency is a duration; write it like 800ms or 2s",
            holds=lambda g: g.metric not in _LATENCIES or g.at_most is None or g.at_most.text[-1] in ("s", "m", "h"),
            field=".atMost",
        ),
        Rule(
            cel=f"!(self.metric in [{_quoted(_SHARES)}]) || (!has(self.atMost) || self.atMost.endsWith('%'))"
            " && (!has(self.atLeast) || self.atLeast.endsWith('%'))",
            message='the bound of a share is a percentage; write it like "0.1%"',
            holds=lambda g: (
                g.metric not in _SHARES or all(b is None or b.text.endswith("%") for b in (g.at_most, g.at_least))
            ),
        ),
    )


Guardrails = Annotated[tuple[Guardrail, ...], Field(max_length=16), ListMap(("metric",))]


class Objective(ApiModel):
    """What is optimised, and what is good enough."""

    metric: ObjectiveMetric | None = None
    """What is optimised; by default what the scenario stands for (`outputTokensPerSecond` for chat and code-edit)."""
    minimum_speedup: DecimalString = DecimalString("1.2")
    """Speed-up over the baseline (its interval's lower end, freshly confirmed) below which nothing is rolled out."""
    target_speedup: DecimalString | None = None
    """Speed-up at which the search stops; by default it goes on until it is flat or a budget is spent."""
    guardrails: Guardrails = (
        Guardrail(metric="errorRate", maximum_regression=Percentage("0.1%")),
        Guardrail(metric="ttftP99", maximum_regression=Percentage("10%")),
        Guardrail(metric="interTokenLatencyP99", maximum_regression=Percentage("10%")),
    )
    """Bounds that a candidate must keep on the way."""

    rules = (
        Rule(
            cel=f"!{DecimalString.cel_form('self.minimumSpeedup')} || double(self.minimumSpeedup) >= 1.0",
            message='minimumSpeedup below 1 would roll out something slower than the baseline; write "1.0" or more',
            holds=lambda objective: objective.minimum_speedup.number >= 1,
            field=".minimumSpeedup",
        ),
        Rule(
            cel=f"!has(self.targetSpeedup) || !{DecimalString.cel_form('self.targetSpeedup')}"
            f" || !{DecimalString.cel_form('self.minimumSpeedup')}"
            " || double(self.targetSpeedup) >= double(self.minimumSpeedup)",
            message="targetSpeedup is below minimumSpeedup; raise it, or lower minimumSpeedup",
            holds=lambda objective: (
                objective.target_speedup is None or objective.target_speedup >= objective.minimum_speedup
            ),
            field=".targetSpeedup",
        ),
    )


class Correctness(ApiModel):
    """The gate before any speed is looked at."""

    mode: Literal["exactGreedy", "reference"] | None = None
    """`exactGreedy`: the reference engine's tokens, up to ties; the only mode of the text scenarios. `reference`: the
    scenario's own comparison with the reference's outputs at a fixed seed, for what has no tokens (images, audio). By
    default what the scenario needs."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Requests that are checked, drawn from the benchmark's own stream."""
    tie_tolerance: DecimalString = DecimalString("0.05")
    """Largest gap between the reference's own two best logits at which another choice counts as a tie."""
    minimum_similarity: Percentage | None = None
    """With `reference`: the lowest similarity; by default the scenario's."""

    rules = (
        Rule(
            cel="!has(self.minimumSimilarity) || !has(self.mode) || self.mode == 'reference'",
            message="minimumSimilarity is for mode reference; exactGreedy allows no difference but ties",
            holds=lambda c: c.minimum_similarity is None or c.mode in (None, "reference"),
            field=".minimumSimilarity",
        ),
    )


class ExistingService(ApiModel):
    """A Service that is there already, in the same namespace."""

    name: Label
    """Name of the Service."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Its port."""


class Baseline(ApiModel):
    """What a stack has to beat, and what takes over whatever the stack does not."""

    engine: Literal["vllm", "transformers"] = "vllm"
    """The engine. Where vLLM does not support the model, `transformers`."""
    tuning: Literal["documentedGrid", "quick", "none"] = "documentedGrid"
    """How it is tuned: the best of the documented grid counts; `quick` tries the few settings that matter most,
    `none` takes the arguments below alone."""
    arguments: Annotated[tuple[ShortText, ...], Field(max_length=64)] = ()
    """Arguments for the engine, fixed in every point of the grid."""
    image: Image | None = None
    """Image of the engine; by default the one of the HardwareTarget."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas that take the traffic before a rollout."""
    service_ref: ExistingService | None = None
    """A Service of yours that serves the model today. Traffic starts from there and returns there; measured is still
    an engine that Sartor starts, with the arguments above."""


class Measurement(ApiModel):
    """How long and how often is measured. A quick run and a serious one differ here, and nowhere else."""

    preset: Literal["quick", "thorough"] = "thorough"
    """Starting point of the fields below: `quick` finds large effects within minutes, `thorough` small ones."""
    window: Duration | None = None
    """Length of one scored window; by default the preset's."""
    minimum_replicates: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Pairs of windows (candidate, baseline) after which it may stop; by default the preset's."""
    maximum_replicates: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Pairs of windows after which it stops undecided; by default the preset's."""
    confidence: Confidence = Percentage("95%")
    """Confidence of the intervals."""
    minimum_effect: Percentage = Percentage("2%")
    """Gains below this are no gain: the incumbent stays."""

    rules = (
        Rule(
            cel="!has(self.minimumReplicates) || !has(self.maximumReplicates)"
            " || self.minimumReplicates <= self.maximumReplicates",
            message="minimumReplicates is above maximumReplicates; lower it, or raise maximumReplicates",
            holds=lambda m: (
                m.minimum_replicates is None
                or m.maximum_replicates is None
                or m.minimum_replicates <= m.maximum_replicates
            ),
            field=".minimumReplicates",
        ),
        Rule(
            cel=f"!has(self.window) || {Duration.cel_at_least('self.window', '1s')}",
            message="window is too short to measure anything; write 1s or more",
            holds=lambda m: m.window is None or m.window.seconds >= 1,
            field=".window",
        ),
        CONFIDENCE_RULE,
    )
