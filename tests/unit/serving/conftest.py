"""One server for the tests that only ask it questions; started once, on 127.0.0.1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import toy
from .serve import Running, serving


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="session")
def server(text_folder: Path) -> Iterator[Running]:
    with serving(text_folder, toy.stack(SPECULATION="prediction")) as running:
        yield running
