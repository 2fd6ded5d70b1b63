"""Who writes the code of a run on this machine: from the manifest's profile, or from the command line instead of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sartor_agents.backends.conversation.tool import problems
from sartor_agents.model_proxy.config import EndpointConfig, TranscriptConfig
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.model_proxy import ModelAccessFile, agent_program
from sartor_api.agent_profile import AgentProfile, AgentProfileSpec
from sartor_api.search.agents import agent_settings
from sartor_api.serving_synthesis import ServingSynthesis

KEY_VARIABLE = "OPENAI_API_KEY"
"""Where the key is looked for when no file is named."""


@dataclass(frozen=True)
class AgentChoice:
    """What the command line says; None and empty follow the manifest. `endpoints` up to and including the version."""

    backend: str | None = None
    endpoints: tuple[str, ...] = ()
    model: str | None = None
    api: str | None = None
    key_file: Path | None = None

    @property
    def given(self) -> bool:
        return self != AgentChoice()


def choose_agents(
    synthesis: ServingSynthesis,
    profile: AgentProfile | None,
    choice: AgentChoice,
    environment: Mapping[str, str] = os.environ,
) -> tuple[AgentProfileSpec, ModelAccessFile | None]:
    """The profile that the run works by, and where its models are (None for the playbook). Raises `BadRequestError`.

    A key is never read here: only where it lies is kept.
    """
    spec = _spec(profile, choice)
    if spec.backend == "playbook":
        return spec, None
    settings = agent_settings(spec)
    money = synthesis.spec.budget.money
    if money is not None:
        missing = sorted({role.model for role in settings.roles.values()} - set(settings.prices))
        if missing:
            raise BadRequestError(
                f"spec.budget.money is set, and nothing says what {', '.join(missing)} costs",
                "add prices to the AgentProfile, or remove the budget in money",
            )
        if money.currency != settings.currency:
            raise BadRequestError(
                f"spec.budget.money is in {money.currency}, and the AgentProfile's prices are in {settings.currency}",
                "use one currency",
            )
    models = ModelAccessFile(
        endpoints=tuple(
            EndpointConfig(
                url=str(one.url),
                key_file=choice.key_file.absolute() if choice.key_file is not None else None,
                key_variable=_variable(choice, environment, needed=one.secret_ref is not None),
                organization=one.organization,
            )
            for one in spec.endpoints
        ),
        requests_per_minute=spec.limits.requests_per_minute,
        transcripts=TranscriptConfig(
            keep=spec.transcripts.keep, maximum_bytes=max(1 << 16, int(spec.transcripts.maximum_size))
        ),
    )
    models.check_keys()
    agent_program(settings)
    return spec, models


def _spec(profile: AgentProfile | None, choice: AgentChoice) -> AgentProfileSpec:
    """The profile with what the command line says instead. Raises `BadRequestError`."""
    base = profile.spec.to_dict() if profile is not None else {}
    if not choice.given:
        return AgentProfileSpec() if profile is None else profile.spec
    if choice.backend == "playbook":
        if choice != AgentChoice(backend="playbook"):
            raise BadRequestError(
                "--agents playbook asks no model", "leave --endpoint, --model, --api and --key-file out"
            )
        return AgentProfileSpec()
    changed = {
        "backend": choice.backend,
        "endpoints": [{"url": url} for url in choice.endpoints] or None,
        "model": choice.model,
        "api": choice.api,
    }
    merged = {**base, **{name: value for name, value in changed.items() if value is not None}}
    if merged.get("backend", "playbook") == "playbook":
        raise BadRequestError(
            "--endpoint, --model, --api and --key-file are for a backend that asks a model", "add --agents openai"
        )
    for name, option in (("endpoints", "--endpoint URL"), ("model", "--model NAME")):
        if not merged.get(name):
            raise BadRequestError(f"--agents {merged['backend']} needs {option}", f"add {option}")
    try:
        return AgentProfileSpec.model_validate(merged)
    except ValidationError as error:
        raise BadRequestError(f"the agents cannot be used:\n{problems(error)}") from error


def _variable(choice: AgentChoice, environment: Mapping[str, str], *, needed: bool) -> str | None:
    """The variable with the key: where one is needed (`secretRef` is a Secret of a cluster), or there is one."""
    if choice.key_file is not None:
        return None
    return KEY_VARIABLE if needed or environment.get(KEY_VARIABLE) else None
