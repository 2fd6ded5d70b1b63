"""The real Codex CLI, and a provider without a model."""

import sys
from pathlib import Path

import pytest

from sartor_agents.backends.codex.install import Codex, CodexMissingError, ensure_codex
from sartor_agents.cache import cache_folder

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS / "provider"), str(TESTS / "unit" / "model_proxy")]


@pytest.fixture(scope="session")
def codex() -> Codex:
    """The pinned version, installed into the user's cache folder unless it is there."""
    try:
        return ensure_codex(cache_folder(), print)
    except CodexMissingError as error:
        if error.unreachable:
            pytest.skip(f"the package registry cannot be reached: {error}")
        raise
