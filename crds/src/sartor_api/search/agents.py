"""What a run's agents work with, as its spec holds it (`RunSpec.agents`): resolved from an `AgentProfile`, without secrets.

Addresses and keys are not part of it: they are the model proxy's, and no role ever sees them.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, cast

from pydantic import Field, JsonValue

from sartor_api.agent_profile import AgentProfileSpec, Prices, RoleModel, Sandbox
from sartor_api.search.base import Cost, Record, StepKind

RoleName = Literal["planner", "implementer", "judge"]
ROLES: tuple[RoleName, ...] = ("planner", "implementer", "judge")
"""The roles that ask a model."""

_ASKING: Mapping[StepKind, RoleName] = {
    StepKind.PLAN: "planner",
    StepKind.IMPLEMENT: "implementer",
    StepKind.JUDGE: "judge",
}

OUTPUT_TOKENS, CONTEXT_TOKENS = 32_000, 200_000
"""What a role that sets nothing else plans with."""


class RoleSettings(Record):
    """One role's model. Tokens; `effort` is sent to models that have such a setting."""

    model: str
    effort: str | None = None
    maximum_output_tokens: int = Field(default=OUTPUT_TOKENS, ge=1)
    context_tokens: int = Field(default=CONTEXT_TOKENS, ge=1024)


class ModelPrice(Record):
    """Money for a million tokens, in `AgentSettings.currency`."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)

    @property
    def dearest(self) -> Decimal:
        """For a token of the dearest kind."""
        return max(self.input, self.output, self.cached_input or Decimal(0)) / 1_000_000


class SandboxSettings(Record):
    """What the place where agents run commands may use (`AgentProfile.spec.sandbox`), in cores, bytes and seconds."""

    cpus: float = Field(gt=0)
    memory_bytes: int = Field(ge=1)
    disk_bytes: int = Field(ge=1)
    processes: int = Field(ge=1)
    command_seconds: float = Field(gt=0)


class AgentSettings(Record):
    """Who writes the code of a run. `prices` are by model; without one for a model nothing is said of its money."""

    backend: Literal["playbook", "openai", "codex"] = "playbook"
    api: Literal["responses", "chatCompletions"] = "responses"
    roles: dict[RoleName, RoleSettings] = Field(default_factory=dict[RoleName, RoleSettings])
    prices: dict[str, ModelPrice] = Field(default_factory=dict[str, ModelPrice])
    currency: str = "USD"
    tokens_per_step: int = Field(default=2_000_000, ge=1)
    turns_per_step: int = Field(default=200, ge=1)
    step_seconds: float = Field(default=7200.0, gt=0)
    codex_version: str | None = None
    review: bool = False
    """Whether the judge has a model read the source."""
    money_per_step: float | None = Field(default=None, gt=0)
    sandbox: SandboxSettings | None = None
    """None: nobody said; a machine's own defaults hold, and in a cluster the profile's, which the API server fills in."""

    def asks(self, step: StepKind) -> RoleName | None:
        """The role that asks a model in a step; None where none does."""
        if self.backend == "playbook" or (step is StepKind.JUDGE and not self.review):
            return None
        return _ASKING.get(step)

    def reserve(self, role: RoleName) -> Cost:
        """What one step of a role may cost at most: all its tokens at the dearest price of its model, or less."""
        settings = self.roles.get(role)
        if settings is None:
            return Cost()
        price = self.prices.get(settings.model)
        money = float(price.dearest * self.tokens_per_step) if price is not None else 0.0
        return Cost(
            tokens=self.tokens_per_step, money=money if self.money_per_step is None else min(money, self.money_per_step)
        )


def agent_settings(profile: AgentProfileSpec) -> AgentSettings:
    """The profile as a run holds it."""
    if profile.backend == "playbook" or profile.model is None:
        return AgentSettings()
    single = {one.role: one for one in profile.roles}
    return AgentSettings(
        backend=profile.backend,
        api=profile.api or "responses",
        roles={role: _role(profile.model, single.get(role)) for role in ROLES},
        prices={one.model: _price(one) for one in profile.prices},
        currency=profile.prices[0].currency if profile.prices else "USD",
        tokens_per_step=int(profile.limits.tokens_per_step),
        turns_per_step=profile.limits.turns_per_step,
        step_seconds=profile.limits.step_timeout.seconds,
        codex_version=profile.codex_version,
        review=profile.review,
        sandbox=_sandbox(profile.sandbox) if "sandbox" in profile.model_fields_set else None,
    )


def _sandbox(given: Sandbox) -> SandboxSettings:
    return SandboxSettings(
        cpus=float(given.cpu.number),
        memory_bytes=int(given.memory),
        disk_bytes=int(given.disk),
        processes=given.processes,
        command_seconds=given.command_timeout.seconds,
    )


STEP_SHARE = 4
"""A step gets at most this part of a budget: a plan and an implementation with a repair fit, and something is left."""


def within(settings: AgentSettings, *, tokens: int | None, money: float | None) -> AgentSettings:
    """The settings with steps that fit into a run's budget several times."""
    update: dict[str, object] = {}
    if tokens is not None:
        update["tokens_per_step"] = max(1, min(settings.tokens_per_step, tokens // STEP_SHARE))
    if money:
        update["money_per_step"] = money / STEP_SHARE
    return settings.model_copy(update=update) if settings.roles else settings


def as_json(settings: AgentSettings) -> dict[str, JsonValue]:
    """The settings as they stand in a run's spec; of the playbook, which asks no model, only the name."""
    if settings.backend == "playbook":
        return {"backend": "playbook"}
    return cast(dict[str, JsonValue], settings.model_dump(mode="json", exclude_none=True))


def _role(model: str, single: RoleModel | None) -> RoleSettings:
    if single is None:
        return RoleSettings(model=model)
    return RoleSettings(
        model=single.model or model,
        effort=single.effort,
        maximum_output_tokens=single.maximum_output_tokens or OUTPUT_TOKENS,
        context_tokens=single.context_tokens or CONTEXT_TOKENS,
    )


def _price(one: Prices) -> ModelPrice:
    return ModelPrice(
        input=one.input.number,
        output=one.output.number,
        cached_input=None if one.cached_input is None else one.cached_input.number,
    )
