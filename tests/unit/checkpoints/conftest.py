"""Tiny checkpoints of each kind, made once."""

from pathlib import Path

import pytest

from sartor_agents.checkpoints import make


@pytest.fixture(scope="session", params=["llama", "qwen3"])
def chain_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chain checkpoint of each architecture."""
    return make("chain", request.param, "tiny", 0, tmp_path_factory.mktemp("chain") / request.param).path


@pytest.fixture(scope="session", params=["llama", "qwen3"])
def random_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint of each architecture."""
    return make("random", request.param, "tiny", 0, tmp_path_factory.mktemp("random") / request.param).path
