"""A composed stack is whole: it imports, imports nothing of Sartor, holds no decided branch, and is the same each time."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import ComposeError, Selection, Target, compose
from sartor_agents.checkpoints import make
from sartor_skills.catalog import Recipe, load_catalog


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make("chain", "llama", "tiny", 0, folder)
    return folder


@pytest.fixture(scope="module")
def recipes(model: Path) -> dict[str, Recipe]:
    return load_catalog().recipes(architecture="llama", platform="cpu", scenario="code-edit")


def target(model: Path, *, concurrency: int = 1) -> Target:
    return Target(
        model_name="tiny", model=facts.model_spec(model), scenario="code-edit", platform="cpu",
        envelope={"MAX_MODEL_LEN": 1024, "MAX_INPUT_TOKENS": 768, "MAX_OUTPUT_TOKENS": 256},
        concurrency=concurrency, provenance={"run": "test"},
    )  # fmt: skip


def select(recipes: dict[str, Recipe], *names: str) -> Selection:
    return Selection({name: recipes[name].defaults() for name in names})


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return hashlib.sha256(
        b"".join(p.relative_to(folder).as_posix().encode() + p.read_bytes() for p in files)
    ).hexdigest()


CASES = {
    "plain": ("serving-core", "native-decoder"),
    "predicted": ("serving-core", "native-decoder", "predicted-outputs"),
    "lookup": ("serving-core", "native-decoder", "prompt-lookup"),
    "torch": ("serving-core", "torch-decoder"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_stack_stands_alone(case: str, model: Path, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    out = tmp_path / "stack"
    compose(select(recipes, *CASES[case]), target(model), recipes, out)
    imported: set[str] = set()
    for path in out.glob("*.py"):
        source = path.read_text()
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
            if isinstance(node, ast.If):
                assert not re.search(r"spec\.(SPECULATION|DECODER)\b", ast.unparse(node.test)), path.name
    assert not any(name.startswith("sartor") for name in imported)
    assert ("torch" in imported) == (case == "torch")
    assert (out / "alignment.py").exists() == (case in ("predicted", "lookup"))
    listed = set((out / "requirements.txt").read_text().split())
    assert {"uvicorn", "tokenizers", "numpy"} <= listed
    assert ("torch" in listed) == (case == "torch")
    help_text = subprocess.run(
        [sys.executable, "-m", "stack", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert help_text.returncode == 0, help_text.stderr
    assert "serve" in help_text.stdout
    lint = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout


def test_composing_is_deterministic_and_leaves_nothing_behind(
    model: Path, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    compose(select(recipes, *CASES["predicted"]), target(model), recipes, one)
    compose(select(recipes, *CASES["torch"]), target(model), recipes, two)
    compose(select(recipes, *CASES["predicted"]), target(model), recipes, two)
    assert digest(one) == digest(two)


def test_the_manifest_and_the_spec_say_what_was_chosen(model: Path, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    selection = select(recipes, *CASES["plain"]).with_recipe("native-decoder", {"THREADS": 2})
    compose(selection, target(model, concurrency=40), recipes, tmp_path / "stack")
    manifest = tomllib.loads((tmp_path / "stack" / "stack.toml").read_text())
    assert manifest["recipes"]["native-decoder"] == {"THREADS": 2}
    assert manifest["envelope"]["max_input_tokens"] == 768
    assert manifest["envelope"]["max_logprobs"] == 20
    spec = (tmp_path / "stack" / "spec.py").read_text()
    assert re.search(r"^THREADS: int = 2$", spec, re.MULTILINE)
    found = re.search(r"^MAX_SEQUENCES: int = (\d+)$", spec, re.MULTILINE)
    assert found is not None and int(found[1]) >= 40  # no request of the workload may wait for a place


def test_two_decoders_or_an_unknown_recipe_are_refused_by_name(
    model: Path, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ComposeError, match=r"native-decoder.*torch-decoder|torch-decoder.*native-decoder"):
        compose(select(recipes, "native-decoder", "torch-decoder"), target(model), recipes, tmp_path / "a")
    with pytest.raises(ComposeError, match="no-such-recipe"):
        compose(Selection({"no-such-recipe": {}}), target(model), recipes, tmp_path / "b")


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(facts.UnsupportedModelError, match=r"GPT2LMHeadModel.*LlamaForCausalLM"):
        facts.model_spec(tmp_path)


def spec_of(folder: Path) -> dict[str, object]:
    module: dict[str, object] = {}
    exec((folder / "spec.py").read_text(), module)
    return module


def test_pages_keep_to_what_a_stack_may_take_of_a_device(model: Path, tmp_path: Path) -> None:
    """And never below one sequence of the full length, without which a stack does not start."""
    recipes = load_catalog().recipes(architecture="llama", platform="cuda", scenario="code-edit")
    chosen = select(recipes, "serving-core", "cuda-decoder", "predicted-outputs")
    token = (
        2
        * 2
        * int(
            facts.model_spec(model)["LAYERS"]
            * facts.model_spec(model)["KV_HEADS"]
            * facts.model_spec(model)["HEAD_DIM"]
        )
    )
    given = replace(target(model), platform="cuda")

    def pages(cache_bytes: int | None) -> object:
        compose(chosen, replace(given, cache_bytes=cache_bytes), recipes, tmp_path / "stack")
        return spec_of(tmp_path / "stack")["KV_PAGES"]

    assert pages(None) == pages(1 << 40) == 64 * 1024 // 16
    assert pages(4 * 1024 * token) == 4 * 1024 // 16
    assert pages(5) == 1024 // 16
