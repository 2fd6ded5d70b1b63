"""An implementer's worktree, with secrets beside it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from sartor_agents.backends.conversation.tool import AnyTool, ToolResult, call_tool, toolbox
from sartor_agents.backends.protocol import HardwareFacts, ImplementContext
from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.tools.roles import ImplementerTools, implementer_tools
from sartor_api.search.records import Envelope, Plan, RunSpec
from sartor_skills.library import library_root

HARDWARE = HardwareFacts(platform="cpu", cores=2, memory_bytes=1 << 34, read_bandwidth=40e9)
needs_sandbox = pytest.mark.skipif(sandbox_program() is None, reason="bubblewrap cannot make a sandbox here")


def run_spec(**changes: object) -> RunSpec:
    values: dict[str, object] = {
        "name": "r", "created": 0.0, "seed": 1, "scenario": "code-edit", "parameters": {}, "model": {"name": "m"},
        "envelope": Envelope(max_input_tokens=768, max_output_tokens=256),
    }  # fmt: skip
    return RunSpec.model_validate({**values, **changes})


@dataclass
class Bench:
    """Tools as a model calls them: by name, with keyword arguments as JSON."""

    root: Path
    worktree: Path
    made: ImplementerTools

    def call(self, name: str, /, **arguments: object) -> ToolResult:
        import json

        return call_tool(toolbox(self.made.tools), name, json.dumps(arguments))

    def ok(self, name: str, /, **arguments: object) -> str:
        result = self.call(name, **arguments)
        assert not result.failed, result.text
        return result.text

    def fails(self, name: str, /, **arguments: object) -> str:
        result = self.call(name, **arguments)
        assert result.failed, result.text
        return result.text

    def tool(self, name: str) -> AnyTool:
        return toolbox(self.made.tools)[name]


def implement_context(worktree: Path, model_dir: Path, **changes: object) -> ImplementContext:
    plan = Plan(round=1, action="build", hypothesis="faster")
    values: dict[str, object] = {
        "run": run_spec(), "plan": plan, "attempt": 1, "worktree": worktree, "model_dir": model_dir, "hardware": HARDWARE,
        "skills_root": library_root(),
    }  # fmt: skip
    return ImplementContext.model_validate({**values, **changes})


@pytest.fixture
def bench(tmp_path: Path):
    worktree, model, scratch = (tmp_path / name for name in ("worktree", "model", "scratch"))
    for folder in (worktree / "stack", model, scratch):
        folder.mkdir(parents=True)
    (worktree / "stack" / "app.py").write_text("one\ntwo\nthree\n")
    (model / "config.json").write_text('{"hidden_size": 64}')
    (tmp_path / "secret").write_text("secret")
    with implementer_tools(implement_context(worktree, model), scratch=scratch, checkpoint=None) as made:
        yield Bench(tmp_path, worktree, made)
