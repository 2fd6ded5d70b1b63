"""Fixtures: one model and one range per session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redteam_range import Range

from sartor_agents.checkpoints import make


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redteam") / "chain-llama-tiny"
    make("chain", "llama", "tiny", 0, folder)
    return folder


@pytest.fixture(scope="session")
def quick_range(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    """Gates in this process."""
    with Range(tmp_path_factory.mktemp("quick"), model, own_processes=False) as open_range:
        yield open_range


@pytest.fixture(scope="session")
def full_range(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    """Gates in processes of their own, as `sartor run` starts them."""
    with Range(tmp_path_factory.mktemp("full"), model, own_processes=True) as open_range:
        yield open_range
