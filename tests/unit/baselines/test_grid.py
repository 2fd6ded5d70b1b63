"""The documented grid, and the engine that turns a point of it into a server."""

import json
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.baselines import VllmEngine, VllmEnvironment, find, find_engine
from sartor_agents.baselines.grid import NGRAM, cuda_grid, grid, render
from sartor_agents.baselines.vllm import SOCKET_FOLDER_CHARS, scratch_folder, sweep
from sartor_agents.run.servers import HOST
from sartor_api.search.records import Envelope, RunSpec

SCENARIOS = st.sampled_from(["chat", "code-edit"])
TUNINGS = st.sampled_from(["documentedGrid", "quick", "none"])


@given(
    SCENARIOS,
    TUNINGS,
    st.lists(st.sampled_from(["--max-num-seqs=8", "--dtype"]), max_size=1),
    st.integers(1, 64),
    st.booleans(),
)
def test_points_differ_and_keep_the_owners_arguments(scenario, tuning, arguments, cores, native) -> None:
    points = grid(scenario, tuning, arguments=arguments, cores=cores, native_bf16=native)
    assert points and len({point.name for point in points}) == len(points)
    assert len({(point.arguments, *point.environment.items()) for point in points}) == len(points)
    for point in points:
        assert list(point.arguments[: len(arguments)]) == arguments
        assert point.arguments.count("--dtype") <= 1


@given(SCENARIOS, st.booleans())
def test_quick_is_a_part_of_the_whole_grid_and_none_is_the_owners_alone(scenario, native) -> None:
    whole, quick = (
        grid(scenario, tuning, arguments=(), cores=2, native_bf16=native) for tuning in ("documentedGrid", "quick")
    )
    assert {point.name for point in quick} <= {point.name for point in whole} and len(quick) < len(whole)
    (only,) = grid(scenario, "none", arguments=("--x",), cores=2, native_bf16=native)
    assert only.arguments == ("--x",) and only.environment == {}


def test_code_edit_is_tuned_with_and_without_speculation() -> None:
    for tuning in ("documentedGrid", "quick"):
        points = grid("code-edit", tuning, arguments=(), cores=2, native_bf16=True)
        configs = [json.loads(p.arguments[-1]) for p in points if "--speculative-config" in p.arguments]
        assert configs and len(configs) < len(points)
        assert all(config["prompt_lookup_min"] <= config["prompt_lookup_max"] for config in configs)
    assert not any(
        "--speculative-config" in p.arguments
        for p in grid("chat", "documentedGrid", arguments=(), cores=2, native_bf16=True)
    )


def test_both_bindings_are_tried_and_never_nobind() -> None:
    points = grid("chat", "documentedGrid", arguments=(), cores=2, native_bf16=True)
    assert [p.environment.get("VLLM_CPU_OMP_THREADS_BIND") for p in points] == ["0-1", None]


@pytest.mark.parametrize(("scenario", "faster"), [("chat", "float32"), ("code-edit", "bfloat16")])
def test_without_native_bf16_both_types_are_tried_the_faster_one_first(scenario: str, faster: str) -> None:
    points = grid(scenario, "documentedGrid", arguments=(), cores=2, native_bf16=False)
    plain = [point for point in points if "--speculative-config" not in point.arguments]
    dtypes = [point.arguments[point.arguments.index("--dtype") + 1] for point in plain]
    assert dtypes[0] == faster and set(dtypes) == {"float32", "bfloat16"}
    drafted = [point for point in points if point not in plain]
    assert all("float32" in point.arguments for point in drafted), "drafts are verified as a batch is"
    (first, *_) = grid(scenario, "quick", arguments=(), cores=2, native_bf16=False)
    assert first == points[0]


def test_the_page_names_every_point() -> None:
    page = render(["chat", "code-edit"], cores=2)
    for point in grid("code-edit", "documentedGrid", arguments=(), cores=2, native_bf16=False):
        assert point.name in page
    assert page.count("n-gram") >= len(NGRAM)


def spec(**baseline: str) -> RunSpec:
    return RunSpec(
        name="r", created=0.0, seed=0, scenario="chat", model={"name": "served"}, baseline=dict(baseline),
        envelope=Envelope(max_input_tokens=512, max_output_tokens=256),
    )  # fmt: skip


def test_an_engine_starts_the_module_in_its_own_environment(tmp_path: Path) -> None:
    points = grid("code-edit", "documentedGrid", arguments=(), cores=2, native_bf16=True)
    engine = VllmEngine(
        VllmEnvironment(tmp_path / "bin" / "python", "0.32.0"), tmp_path, "served", 768, points,
        tmp_path / "home", tmp_path / "cache",
    )  # fmt: skip
    server = engine.server(points[0], 4711)
    assert server.command[:3] == (str(tmp_path / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server")
    assert {"--host", HOST, "--port", "4711", "--max-model-len", "768"} <= set(server.command)
    assert server.environment["VLLM_USE_AOT_COMPILE"] == "0" and server.environment["HF_HUB_OFFLINE"] == "1"
    assert server.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    assert server.environment["HOME"] == str(tmp_path / "home")
    assert server.environment["VLLM_CACHE_ROOT"] == str(tmp_path / "cache" / "vllm")
    assert "PYTHONDONTWRITEBYTECODE" not in server.environment, "the second start would be as slow as the first"
    assert (engine.name, engine.fallback_reason, engine.accepts_prediction) == ("vllm", None, False)


def test_what_killed_engines_left_behind_is_swept_away(tmp_path: Path) -> None:
    for name, age in (("old", 200.0), ("young", 10.0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000.0 - age, 1000.0 - age))
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "folder", (0, 0))
    sweep(tmp_path, 1000.0 - 100.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "young"]


def test_the_engines_home_is_there_also_where_its_sockets_lie_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("h" * SOCKET_FOLDER_CHARS)
    points = grid("chat", "none", arguments=(), cores=1, native_bf16=True)
    engine = VllmEngine(VllmEnvironment(Path(sys.executable), "0.0"), tmp_path, "m", 64, points, home, tmp_path)
    server = engine.server(engine.settings()[0], 1)
    try:
        assert server.cwd is not None and server.cwd.is_dir()
        assert not Path(server.environment["TMPDIR"]).is_relative_to(home)
    finally:
        shutil.rmtree(server.environment["TMPDIR"])


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a shorter path than pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_socket_fits_into_the_engines_folder(short: Path, excess: int) -> None:
    """At the last length that fits the folder is in the home, one longer it is a short one of that home."""
    home = short / ("h" * (SOCKET_FOLDER_CHARS + excess - len(f"{short}//tmp")))
    scratch = scratch_folder(home)
    try:
        assert (scratch.parent == home) is (excess == 0)
        assert scratch_folder(home) == scratch != scratch_folder(short)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(scratch / str(uuid.uuid4())))
    finally:
        shutil.rmtree(scratch)


def test_without_vllm_the_fall_back_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "cache_folder", lambda: tmp_path)
    engine = find_engine(spec(engine="vllm"), tmp_path)
    assert engine.name == "transformers"
    assert engine.fallback_reason is not None and "sartor baseline setup" in engine.fallback_reason


def test_transformers_that_was_asked_for_is_no_fall_back(tmp_path: Path) -> None:
    engine = find_engine(spec(engine="transformers"), tmp_path)
    assert engine.name == "transformers" and engine.fallback_reason is None


def test_vllm_is_found_with_the_grid_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "existing_environment", lambda *_: VllmEnvironment(tmp_path / "python", "0.32.0"))
    engine = find_engine(spec(tuning="none"), tmp_path)
    assert (engine.name, engine.version) == ("vllm", "0.32.0")
    assert [point.name for point in engine.settings()] == ["as given"]


def test_in_a_pod_what_was_compiled_outlives_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARTOR_ENGINE_CACHE", str(tmp_path / "kept"))
    home, cache = find.engine_folders()
    assert cache == tmp_path / "kept" and not home.is_relative_to(cache)
    monkeypatch.delenv("SARTOR_ENGINE_CACHE")
    monkeypatch.setattr(find, "cache_folder", lambda: tmp_path)
    assert find.engine_folders() == (tmp_path / "baseline-home", tmp_path / "baseline-home" / ".cache")


def test_on_a_device_an_engine_of_a_pod_has_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No share is to be kept where stack and baseline have a device each; threads and dtype are no dimensions there."""
    monkeypatch.setattr(find, "existing_environment", lambda *_: VllmEnvironment(tmp_path / "python", "0.26.0"))
    engine = find_engine(spec(tuning="quick").model_copy(update={"platform": "cuda"}), tmp_path)
    assert next(s.name for s in engine.settings()) == "bfloat16, no speculation"
    assert all("--gpu-memory-utilization" not in s.arguments and not s.environment for s in engine.settings())
    assert [len(cuda_grid("code-edit", tuning, arguments=())) for tuning in ("none", "quick", "documentedGrid")] == [
        1,
        2,
        4,
    ]
    assert cuda_grid("chat", arguments=("--dtype", "float16"))[0].arguments == ("--dtype", "float16")
