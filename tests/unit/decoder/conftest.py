"""Checkpoints and compiled decoders, made once.

Compiled libraries are kept in pytest's cache: their names carry a hash of all that went into them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sartor_skills.blocks.native_build import build
from sartor_skills.blocks.native_decoder import NativeDecoder

from .cases import CASES, KV_PAGES, Case, make_model, specialise

ModelMaker = Callable[[Case], Path]
DecoderMaker = Callable[..., NativeDecoder]


@pytest.fixture(scope="session")
def build_dir(pytestconfig: pytest.Config) -> Path:
    assert pytestconfig.cache is not None
    return Path(pytestconfig.cache.mkdir("sartor-decoders"))


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> ModelMaker:
    made: dict[str, Path] = {}

    def of(case: Case) -> Path:
        if case.name not in made:
            made[case.name] = make_model(tmp_path_factory.mktemp(case.name), case.config)
        return made[case.name]

    return of


@pytest.fixture(params=[case.parameter() for case in CASES])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model_of: ModelMaker) -> Case:
    """Each case in turn, `spec` set to it."""
    chosen: Case = request.param
    specialise(monkeypatch, model_of(chosen), DTYPE=chosen.dtype)
    return chosen


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch, model_of: ModelMaker) -> Path:
    """The first case's checkpoint, `spec` set to it."""
    specialise(monkeypatch, model_of(CASES[0]), DTYPE=CASES[0].dtype)
    return model_of(CASES[0])


@pytest.fixture
def native(model_of: ModelMaker, build_dir: Path) -> Iterator[DecoderMaker]:
    """Makes decoders that are closed after the test."""
    made: list[NativeDecoder] = []

    def make(case: Case = CASES[0], *, threads: int = 1, kv_pages: int = KV_PAGES) -> NativeDecoder:
        library = build(build_dir, case.flags)
        made.append(NativeDecoder(model_of(case), kv_pages=kv_pages, threads=threads, library=library))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()
