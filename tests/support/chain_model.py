"""A tiny chain checkpoint for tests that need a tokenizer, known text, or a reference."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sartor_agents.checkpoints import make


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a tiny Llama chain checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "chain-llama-tiny"
    make("chain", "llama", "tiny", 0, folder)
    yield folder
