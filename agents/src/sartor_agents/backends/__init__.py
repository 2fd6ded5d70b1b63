"""Who writes code: `playbook` without a model; further backends are one folder and one line here each."""

from importlib import import_module
from typing import cast

from sartor_agents.backends.protocol import Backend, BackendError
from sartor_api.search.records import FailureClass

BACKENDS = {
    "openai": "sartor_agents.backends.openai:OpenAIBackend",
    "playbook": "sartor_agents.backends.playbook:PlaybookBackend",
    "codex": "sartor_agents.backends.codex:CodexBackend",
}


def load_backend(name: str) -> Backend:
    """A fresh backend. Only the one that is asked for is imported. Raises `BackendError` for an unknown name."""
    if name not in BACKENDS:
        raise BackendError(
            "UnknownBackend", f"unknown backend {name!r}; there are: {', '.join(BACKENDS)}", FailureClass.INFRASTRUCTURE
        )
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(type[Backend], getattr(import_module(module), attribute))()
