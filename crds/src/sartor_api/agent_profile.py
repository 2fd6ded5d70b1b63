"""`AgentProfile`: who writes the code, with which model and credentials. Written once by the platform team."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule
from sartor_api.fields import (
    Count,
    Hostname,
    Image,
    KeyReference,
    LabelMap,
    ListMap,
    ListSet,
    Money,
    Name,
    Pattern,
    ShortText,
    Text,
    Url,
)
from sartor_api.hardware_target import Toleration
from sartor_api.meta import AGE, Column, Conditions, Naming, Resource
from sartor_api.quantities import DecimalString, Duration, Quantity

Role = Literal["planner", "implementer", "judge", "evaluator"]
ModelName = Annotated[str, Pattern(r"[\w.:/@-]+", "a model name", 256)]


class Endpoint(ApiModel):
    """One provider of a model. Only the model proxy sees its key."""

    url: Url
    """Address up to and including the version (`https://api.example.com/v1`)."""
    secret_ref: KeyReference | None = None
    """Secret with the key (`apiKey` by default); without one nothing is sent."""
    organization: ShortText | None = None
    """Organization, for providers that bill by it."""


class RoleModel(ApiModel):
    """What one role works with; absent fields follow the profile."""

    role: Role
    """The role."""
    model: ModelName | None = None
    """The model."""
    effort: Literal["minimal", "low", "medium", "high"] | None = None
    """Reasoning effort, for models that have such a setting."""
    maximum_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most tokens of one answer."""
    context_tokens: Annotated[int, Field(ge=1024, le=10_000_000)] | None = None
    """Context to plan with; beyond it the conversation is compacted."""


class Prices(ApiModel):
    """Prices for a million tokens of one model."""

    model: ModelName
    """The model."""
    input: DecimalString
    """Prompt tokens."""
    cached_input: DecimalString | None = None
    """Prompt tokens from the provider's cache; by default as `input`."""
    output: DecimalString
    """Generated tokens, reasoning included."""
    currency: Annotated[str, Pattern(r"[A-Z]{3}", "an ISO 4217 currency code such as USD", 16)] = "USD"
    """ISO 4217 code."""


class AgentLimits(ApiModel):
    """What the agents of this profile may use. A synthesis may set less, never more."""

    tokens_per_run: Quantity | None = None
    """Tokens of one run; unlimited if absent."""
    tokens_per_step: Quantity = Quantity("2M")
    """Tokens of one role's step."""
    money_per_run: Money | None = None
    """Money of one run; unlimited if absent."""
    turns_per_step: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Model calls of one role's step."""
    step_timeout: Duration = Duration("2h")
    """Time of one role's step."""
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Model calls per minute, over all runs; unlimited if absent."""


class Sandbox(ApiModel):
    """Limits of the place where agents run commands."""

    cpu: Quantity = Quantity("2")
    """Processor cores."""
    memory: Quantity = Quantity("8Gi")
    """Memory."""
    disk: Quantity = Quantity("10Gi")
    """Disk."""
    processes: Annotated[int, Field(ge=16, le=100_000)] = 512
    """Processes and threads."""
    command_timeout: Duration = Duration("10m")
    """Time of one command."""
    allowed_hosts: Annotated[tuple[Hostname, ...], Field(max_length=32), ListSet()] = ()
    """Hosts that commands may reach; by default none. The model is reached through the proxy alone."""


class Transcripts(ApiModel):
    """What is kept of the conversations."""

    keep: Literal["full", "summary", "none"] = "full"
    """How much: all calls (secrets redacted), only counts and outcomes, or nothing."""
    maximum_size: Quantity = Quantity("256Mi")
    """Size per run, beyond which the oldest are cut."""


class ModelProxy(ApiModel):
    """The pod that holds the keys, and through which alone agents reach a model. Backend `playbook` has none."""

    image: Image | None = None
    """Its image; by default the installation's image of agents."""
    persistent_volume_claim: Name | None = None
    """Claim in the profile's namespace for books and transcripts. Without one they end with the pod: a call whose answer
    was recorded may then be paid for once more, and what a step had spent is counted from its own start."""
    node_selector: LabelMap | None = None
    """Labels of its node, which needs a way to the provider; never one of the agents' own nodes."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that it bears."""


class AgentProfileSpec(ApiModel):
    """Who writes the code."""

    backend: Literal["playbook", "openai", "codex"] = "playbook"
    """`playbook`: no model, composes what the skills know; `openai`: any OpenAI-compatible endpoint; `codex`: the
    Codex CLI."""
    api: Literal["responses", "chatCompletions"] | None = None
    """Protocol of backend `openai`; by default `responses`. `codex` speaks `responses` only."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=8)] = ()
    """Providers, in order of preference: the next one takes over while one is out."""
    model: ModelName | None = None
    """Model of all roles that name no other."""
    roles: Annotated[tuple[RoleModel, ...], Field(max_length=4), ListMap(("role",))] = ()
    """What single roles work with instead."""
    codex_version: Annotated[str, Pattern(r"[0-9]+\.[0-9]+\.[0-9]+", "a version such as 0.169.0", 32)] | None = None
    """Version of the Codex CLI that must be found; by default the one that this release was tested with."""
    prices: Annotated[tuple[Prices, ...], Field(max_length=16), ListMap(("model",))] = ()
    """Prices; without them nothing is said of money, and a budget in money stops the run before it starts."""
    limits: AgentLimits = AgentLimits()
    """What the agents may use."""
    sandbox: Sandbox = Sandbox()
    """Limits of the place where they run commands."""
    transcripts: Transcripts = Transcripts()
    """What is kept of the conversations."""
    model_proxy: ModelProxy = ModelProxy()
    """Where the model proxy runs."""
    review: bool = False
    """Whether a model (role `judge`) reads the source of what passed the judge's gates. It can reject a candidate, never
    accept one."""

    rules = (
        Rule(
            cel="self.backend == 'playbook' || size(self.endpoints) > 0",
            message="this backend needs a provider; set endpoints, or choose backend playbook",
            holds=lambda spec: spec.backend == "playbook" or len(spec.endpoints) > 0,
            field=".endpoints",
        ),
        Rule(
            cel="self.backend == 'playbook' || has(self.model)",
            message="this backend needs a model; set model, or choose backend playbook",
            holds=lambda spec: spec.backend == "playbook" or spec.model is not None,
            field=".model",
        ),
        Rule(
            cel="self.backend != 'playbook' || (size(self.endpoints) == 0 && !has(self.model) && !has(self.api)"
            " && size(self.roles) == 0 && !self.review)",
            message="backend playbook uses no model; remove endpoints, model, api, roles and review, or choose openai or "
            "codex",
            holds=lambda spec: (
                spec.backend != "playbook"
                or (
                    not spec.endpoints
                    and spec.model is None
                    and spec.api is None
                    and not spec.roles
                    and not spec.review
                )
            ),
            field=".backend",
        ),
        Rule(
            cel="self.backend != 'codex' || !has(self.api) || self.api == 'responses'",
            message="backend codex speaks responses only; remove api, or set it to responses",
            holds=lambda spec: spec.backend != "codex" or spec.api in (None, "responses"),
            field=".api",
        ),
        Rule(
            cel="self.backend == 'codex' || !has(self.codexVersion)",
            message="codexVersion is for backend codex; remove it, or choose codex",
            holds=lambda spec: spec.backend == "codex" or spec.codex_version is None,
            field=".codexVersion",
        ),
    )


class EndpointState(ApiModel):
    """How one provider does."""

    url: Url
    """Its address."""
    state: Literal["Available", "RateLimited", "Failing", "Unauthorized", "QuotaSpent"]
    """How it answered last."""
    message: Text = ""
    """What it said."""


class AgentProfileStatus(ApiModel):
    """What is so."""

    observed_generation: Count | None = None
    """Generation of the spec that this is about."""
    conditions: Conditions = ()
    """Ready when the secrets exist and a provider answers."""
    endpoints: Annotated[tuple[EndpointState, ...], Field(max_length=8), ListMap(("url",))] = ()
    """How the providers do."""
    tokens_used: Count = 0
    """Tokens of all runs with this profile that are still there."""


class AgentProfile(Resource):
    """An agent provider as a name that model owners refer to."""

    naming: ClassVar[Naming] = Naming(
        plural="agentprofiles",
        short_name="aprof",
        columns=(
            Column(name="Backend", path=".spec.backend", description="Kind of backend."),
            Column(name="Model", path=".spec.model", description="Model of most roles."),
            Column(
                name="Ready",
                path=".status.conditions[?(@.type=='Ready')].status",
                description="Whether a provider answers.",
            ),
            Column(name="Tokens", path=".status.tokensUsed", description="Tokens used.", type="integer", wide=True),
            AGE,
        ),
    )

    kind: Literal["AgentProfile"] = "AgentProfile"
    """Kind of the object."""
    spec: AgentProfileSpec = AgentProfileSpec()
    """Who writes the code."""
    status: AgentProfileStatus | None = None
    """What is so. Written by the operator."""
