"""What is asked of the stack: the scenario, its parameters and the envelope.

``parameters`` is one flat object, since a CRD's schema cannot depend on another field's value; ``SCENARIOS`` says
which of its fields a scenario has and what they are by default, and the rules of ``Workload`` follow from that table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sartor_api.base import ApiModel, Rule, exactly_one
from sartor_api.fields import Concurrency, KeyReference, ListSet, Percent, RelativePath, Tokens
from sartor_api.quantities import DecimalString, Duration

Scenario = Literal[
    "chat",
    "code-edit",
    "shared-prefix",
    "streaming-asr",
    "json-schema",
    "image-generation",
    "custom",
]
Contract = Literal[
    "openai-chat-completions",
    "openai-completions",
    "openai-images",
    "openai-transcriptions",
    "websocket-transcriptions",
]
EditKind = Literal["replace", "insert", "delete", "move"]


class WorkloadParameters(ApiModel):
    """Shape of the generated requests. Which fields apply, and their defaults, depends on the scenario."""

    concurrencies: Annotated[tuple[Concurrency, ...], Field(min_length=1, max_length=16), ListSet()] | None = None
    """Requests (or streams) in flight at once, closed loop; each value is measured, and all count alike."""
    request_rates: Annotated[tuple[DecimalString, ...], Field(min_length=1, max_length=16), ListSet()] | None = None
    """Requests per second of an open loop (Poisson arrivals, timed from the scheduled moment); each is measured as well."""
    find_peak: bool | None = None
    """Search for the highest concurrency that both sides sustain within the guardrails, and measure there as well."""
    prompt_tokens: Tokens | None = None
    """Tokens of a prompt (with `shared-prefix`: of the part that is a request's own)."""
    output_tokens: Tokens | None = None
    """Tokens to generate, the same on both sides."""
    file_tokens: Tokens | None = None
    """Tokens of the file to edit, which is also the prediction."""
    match_rates: Annotated[tuple[Percent, ...], Field(min_length=1, max_length=16), ListSet()] | None = None
    """Shares, in per cent, of the prediction's tokens that turn out right; each is measured."""
    edit_kinds: Annotated[tuple[EditKind, ...], Field(min_length=1, max_length=4), ListSet()] | None = None
    """How the right text differs from the prediction: tokens replaced, or lines inserted, deleted or moved."""
    without_prediction: bool | None = None
    """Measure requests without a prediction as well."""
    shared_prefix_tokens: Tokens | None = None
    """Tokens of the prefix that all requests share."""
    chunk_duration: Duration | None = None
    """Audio in one chunk that a client sends."""
    clip_duration: Duration | None = None
    """Audio in one stream."""
    jitter: Duration | None = None
    """Largest delay of a chunk behind its real-time moment."""
    schemas_ref: KeyReference | None = None
    """ConfigMap with JSON schemas (one per line); by default generated ones."""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Diffusion steps."""
    guidance_scale: DecimalString | None = None
    """Classifier-free guidance."""
    width: Annotated[int, Field(ge=16, le=8192)] | None = None
    """Width of an image in pixels."""
    height: Annotated[int, Field(ge=16, le=8192)] | None = None
    """Height of an image in pixels."""


_LOAD: Mapping[str, Any] = {"request_rates": (), "find_peak": False}

SCENARIOS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "chat": {"concurrencies": (1, 16), **_LOAD, "prompt_tokens": 64, "output_tokens": 128},
        "code-edit": {
            "concurrencies": (1,),
            **_LOAD,
            "file_tokens": 400,
            "output_tokens": None,
            "match_rates": (0, 50, 90, 95),
            "edit_kinds": ("replace",),
            "without_prediction": True,
        },
        "shared-prefix": {
            "concurrencies": (20,),
            **_LOAD,
            "shared_prefix_tokens": 32768,
            "prompt_tokens": 128,
            "output_tokens": 128,
        },
        "streaming-asr": {
            "concurrencies": (32,),
            "chunk_duration": Duration("500ms"),
            "clip_duration": Duration("10s"),
            "jitter": Duration("0s"),
        },
        "json-schema": {
            "concurrencies": (1,),
            **_LOAD,
            "prompt_tokens": 128,
            "output_tokens": 256,
            "schemas_ref": None,
        },
        "image-generation": {
            "concurrencies": (1,),
            **_LOAD,
            "prompt_tokens": 32,
            "steps": 20,
            "guidance_scale": DecimalString("5.0"),
            "width": 432,
            "height": 432,
        },
        "custom": {"concurrencies": (1,), **_LOAD, "output_tokens": None},
    }
)
"""The parameters of each scenario with their defaults (those of the paper, where it gives any).

None where the default follows from other things: `code-edit` generates as many tokens as the file has, `json-schema`
makes schemas of its own, `custom` takes lengths from the trace."""


class TraceVolume(ApiModel):
    """A file on a volume; without a cluster, in a folder."""

    claim_name: Annotated[str, Field(min_length=1, max_length=1024)]
    """Name of the claim; with `sartor run` a folder, absolute or relative to the manifest."""
    path: RelativePath
    """The file."""


class TraceReference(ApiModel):
    """Recorded requests (JSON lines: `at` in seconds, `body` of the request); exactly one place."""

    config_map: KeyReference | None = None
    """A ConfigMap."""
    persistent_volume_claim: TraceVolume | None = None
    """A file on a volume."""

    rules = (exactly_one("configMap", "persistentVolumeClaim", noun="place of the trace"),)


class Envelope(ApiModel):
    """What the stack must take itself. Anything beyond is handed to the baseline, so it is never an error to a user."""

    max_input_tokens: Tokens = 16384
    """Longest prompt."""
    max_output_tokens: Tokens = 4096
    """Most tokens that one request may generate."""
    max_concurrency: Concurrency = 256
    """Most requests in flight in one replica; more wait their turn."""


def _parameter_rules() -> tuple[Rule, ...]:
    """For each parameter that not every scenario has: it may be set only in those that do."""
    rules: list[Rule] = []
    for name, field in WorkloadParameters.model_fields.items():
        having = tuple(scenario for scenario, defaults in SCENARIOS.items() if name in defaults)
        if len(having) < len(SCENARIOS):
            rules.append(_only_in(name, field.alias or name, having))
    return tuple(rules)


def _only_in(name: str, alias: str, having: tuple[str, ...]) -> Rule:
    def holds(workload: "Workload") -> bool:
        return getattr(workload.parameters, name) is None or workload.scenario in having

    listed = ", ".join(f"'{scenario}'" for scenario in having)
    return Rule(
        cel=f"!has(self.parameters.{alias}) || self.scenario in [{listed}]",
        message=f"the parameter {alias} belongs to {' and '.join(having)}; remove it or change the scenario",
        holds=holds,
        field=f".parameters.{alias}",
    )


class Workload(ApiModel):
    """What is asked of the stack."""

    scenario: Scenario
    """Kind of workload; it brings the HTTP contract, the request generator, the objective and the correctness gate.
    With `custom` you give the contract and a trace."""
    parameters: WorkloadParameters = WorkloadParameters()
    """Shape of the generated requests."""
    contract: Contract | None = None
    """HTTP contract; only with `custom`, the other scenarios have their own."""
    trace_ref: TraceReference | None = None
    """Your own requests, instead of the generator's."""
    envelope: Envelope = Envelope()
    """What the stack must take itself; the rest goes to the baseline."""

    rules = (
        Rule(
            cel="self.scenario != 'custom' || (has(self.contract) && has(self.traceRef))",
            message="scenario custom needs contract and traceRef; set both, or choose one of the other scenarios",
            holds=lambda workload: (
                workload.scenario != "custom" or (workload.contract is not None and workload.trace_ref is not None)
            ),
        ),
        Rule(
            cel="self.scenario == 'custom' || !has(self.contract)",
            message="contract is only for scenario custom; remove it, since every other scenario has its own",
            holds=lambda workload: workload.scenario == "custom" or workload.contract is None,
            field=".contract",
        ),
        *_parameter_rules(),
    )

    def effective_parameters(self) -> WorkloadParameters:
        """The parameters with the scenario's defaults in place of what was not written.

        Every parameter that the scenario has is set afterwards, except ``schemas_ref`` (None: generated schemas) and
        the ``output_tokens`` of `custom` (None: as the trace says).
        """
        written = {name: getattr(self.parameters, name) for name in self.parameters.model_fields_set}
        values = {**SCENARIOS[self.scenario], **{k: v for k, v in written.items() if v is not None}}
        if self.scenario == "code-edit" and values["output_tokens"] is None:
            values["output_tokens"] = values["file_tokens"]
        return self.parameters.model_copy(update=values)


assert set(SCENARIOS) == set(get_args(Scenario))
