"""A machine with things that a sandboxed command must not reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import Planted, plant

from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.run.sandbox.command import CommandSandbox
from sartor_agents.run.sandbox.limits import Limits


@pytest.fixture(scope="session", autouse=True)
def can_make_sandboxes() -> None:
    if sandbox_program() is None:
        pytest.skip("bubblewrap cannot make a sandbox here")


@pytest.fixture
def sandbox(tmp_path: Path) -> CommandSandbox:
    """One command's sandbox over an empty worktree."""
    worktree, scratch = tmp_path / "worktree", tmp_path / "scratch"
    (worktree / "stack").mkdir(parents=True)
    scratch.mkdir()
    return CommandSandbox(worktree, scratch, Limits(seconds=30, memory_bytes=1 << 30))


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    with plant(tmp_path_factory.mktemp("machine")) as there:
        yield there
