import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "run"))

from chain_model import chain_model
from evidence_world import World, made_run

__all__ = ["chain_model"]


@pytest.fixture(scope="session")
def world(chain_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run whose measurements were really made, against fake servers; shared, so nobody changes it."""
    return made_run(tmp_path_factory.mktemp("run"), chain_model)
