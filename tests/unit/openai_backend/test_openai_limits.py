"""What commands may use is what the profile says, in both backends that have commands, on a machine and in a pod."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_fakes import HARDWARE, run_spec

from sartor_agents.backends.access import command_limits
from sartor_agents.backends.codex.backend import CodexSettings
from sartor_agents.backends.openai import backend
from sartor_agents.backends.openai.backend import OpenAIBackend
from sartor_agents.backends.protocol import ImplementContext
from sartor_agents.run.sandbox.command import Isolation
from sartor_agents.run.sandbox.limits import MIB, Limits
from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.search.agents import agent_settings, as_json
from sartor_api.search.records import Plan, RunSpec

PROFILE = AgentProfileSpec.model_validate(
    {
        "backend": "openai", "model": "m", "endpoints": [{"url": "https://llm.example/v1"}],
        "sandbox": {"cpu": "1500m", "memory": "3Gi", "disk": "4Gi", "processes": 99, "commandTimeout": "45s"},
    }
)  # fmt: skip


class AskedError(Exception):
    """The tools were made."""


def run(tmp_path: Path) -> RunSpec:
    return run_spec(str(tmp_path)).model_copy(update={"agents": as_json(agent_settings(PROFILE))})


@pytest.fixture
def access(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "grant").write_text("g")
    return {"SARTOR_MODEL_URL": "http://127.0.0.1:9/v1", "SARTOR_MODEL_TOKEN_FILE": str(tmp_path / "grant")}


@pytest.mark.parametrize(("around", "memory"), [({}, 3072 * MIB), ({"SARTOR_ISOLATION": "pod"}, 2560 * MIB)])
def test_an_implementers_tools_have_them(
    tmp_path: Path, access: dict[str, str], around: dict[str, str], memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    @contextlib.contextmanager
    def tools(context: ImplementContext, **options: Any) -> Iterator[None]:
        given.update(options)
        raise AskedError
        yield

    monkeypatch.setattr(backend, "implementer_tools", tools)
    monkeypatch.chdir(tmp_path)
    context = ImplementContext(
        run=run(tmp_path), plan=Plan(round=1, action="build", hypothesis="h"), attempt=1, worktree=tmp_path,
        model_dir=tmp_path, hardware=HARDWARE,
    )  # fmt: skip
    with pytest.raises(AskedError):
        OpenAIBackend(environment=access | around).implement(context)
    limits = given["limits"]
    assert (limits.seconds, limits.processes, limits.cpus, limits.memory_bytes) == (45.0, 99, 1.5, memory)
    assert given["isolation"] is (Isolation.POD if around else Isolation.BUBBLEWRAP)


def test_a_profile_that_says_nothing_of_a_sandbox_leaves_a_machine_its_own_limits() -> None:
    """The defaults of its pods (two cores, say) are none of a machine that nobody shares."""
    said = PROFILE.to_dict()
    bare = AgentProfileSpec.model_validate({name: said[name] for name in said if name != "sandbox"})
    assert agent_settings(bare).sandbox is None and agent_settings(PROFILE).sandbox is not None
    assert command_limits(agent_settings(bare), {}) == Limits()


def test_codex_has_them(tmp_path: Path, access: dict[str, str]) -> None:
    settings = CodexSettings.of(run(tmp_path), "implementer", access | {"SARTOR_ISOLATION": "pod"})
    assert settings.limits is not None and settings.isolation is Isolation.POD
    assert (settings.limits.processes, settings.limits.memory_bytes) == (99, 2560 * MIB)
    assert settings.limits.workspace_bytes == 1024 * MIB
