"""Which model a role works with, and where its process finds it: at the model proxy, with a token for this step.

No role ever holds a provider's key. The token comes in a file, so that it stands in no list of processes and no dump of an
environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from sartor_agents.backends.conversation.tool import problems
from sartor_agents.backends.protocol import BackendError
from sartor_agents.run.sandbox.command import Isolation
from sartor_agents.run.sandbox.limits import Limits
from sartor_api.search.agents import AgentSettings, RoleName, RoleSettings
from sartor_api.search.records import FailureClass, RunSpec

URL, TOKEN_FILE = "SARTOR_MODEL_URL", "SARTOR_MODEL_TOKEN_FILE"
CALL_HEADER, RECORDED_HEADER = "Sartor-Call", "Sartor-Recorded"
"""The name of a call, by which the model proxy knows it again; and its word that the answer is one that it had recorded."""
BUDGET_SPENT = "budget_spent"
"""The code of the proxy's error where a budget does not allow the call."""
PROVIDER_OUT = "provider_out"
"""The same where none of its endpoints answers."""
NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Codes by which providers say that an account cannot pay; waiting does not mend that."""
ISOLATION = "SARTOR_ISOLATION"
"""Set to `pod` where the pod is the sandbox (`Isolation.POD`); without it commands run in one of their own."""


@dataclass(frozen=True)
class ModelAccess:
    """`url` up to and including the version, as `http://127.0.0.1:PORT/v1`."""

    url: str
    token: str = field(repr=False)


def model_access(environment: Mapping[str, str] = os.environ) -> ModelAccess:
    """From `SARTOR_MODEL_URL` and `SARTOR_MODEL_TOKEN_FILE`. Raises `BackendError`."""
    url, file = environment.get(URL), environment.get(TOKEN_FILE)
    if not url or not file:
        missing = URL if not url else TOKEN_FILE
        raise BackendError(
            "NoModelAccess",
            f"{missing} is not set, so there is no model to ask; `sartor run` and the operator set it for this backend",
            FailureClass.INFRASTRUCTURE,
        )
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BackendError(
            "NoModelAccess", f"{TOKEN_FILE}: {file} cannot be read: {error}", FailureClass.INFRASTRUCTURE
        ) from error
    return ModelAccess(url, token)


def isolation(environment: Mapping[str, str] = os.environ) -> Isolation:
    """How commands of this process are walled in."""
    return Isolation(environment.get(ISOLATION, Isolation.BUBBLEWRAP))


def command_limits(agents: AgentSettings, environment: Mapping[str, str] = os.environ) -> Limits:
    """What commands of this process may use."""
    return Limits.of(agents.sandbox, pod=isolation(environment) is Isolation.POD)


def agents_of(run: RunSpec, role: RoleName) -> tuple[AgentSettings, RoleSettings]:
    """The run's settings, and those of a role. Raises `BackendError`."""
    try:
        agents = AgentSettings.model_validate(run.agents)
    except ValidationError as error:
        raise BackendError(
            "AgentsInvalid",
            f"the run's agents are not as this version writes them:\n{problems(error)}",
            FailureClass.INFRASTRUCTURE,
        ) from error
    settings = agents.roles.get(role)
    if settings is None:
        raise BackendError(
            "AgentsInvalid", f"the run's agents name no model for the {role}", FailureClass.INFRASTRUCTURE
        )
    return agents, settings
