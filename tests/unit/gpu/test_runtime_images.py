"""What the images must bring, read from their recipes: they cannot be built where the tests run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from imports import Imports

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import Selection, Target, compose
from sartor_agents.checkpoints import make
from sartor_operator.pods.common import POD_SECURITY
from sartor_operator.settings import Settings
from sartor_skills.catalog import load_catalog

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "runtime_images"
RECIPES = sorted(IMAGES.glob("*/*.Containerfile"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack for `cuda`, composed for a tiny model."""
    folder = tmp_path_factory.mktemp("cuda")
    make("chain", "qwen3", "tiny", 0, folder / "model")
    recipes = load_catalog().recipes(architecture="qwen3", platform="cuda", scenario="code-edit")
    selection = Selection(
        {name: recipes[name].defaults() for name in ("serving-core", "cuda-decoder", "predicted-outputs")}
    )
    target = Target(
        model_name="tiny", model=facts.model_spec(folder / "model"), scenario="code-edit", platform="cuda",
        envelope={"MAX_MODEL_LEN": 1024, "MAX_INPUT_TOKENS": 768, "MAX_OUTPUT_TOKENS": 256},
        concurrency=1, provenance={},
    )  # fmt: skip
    compose(selection, target, recipes, folder / "stack")
    return folder / "stack"


def test_the_image_of_stacks_has_what_a_stack_imports(stack: Path) -> None:
    lines = (IMAGES / "cuda" / "stack-requirements.txt").read_text().splitlines()
    brought = {re.split(r"[<>=~!; ]", line)[0] for line in lines if line and not line.startswith("#")}
    assert set((stack / "requirements.txt").read_text().split()) <= brought


def test_a_stack_for_a_gpu_stands_alone(stack: Path) -> None:
    """Nothing of the CPU's decoders is in it, and where there is no device it says so and ends."""
    assert {"cuda_decoder.py", "kernels_attention.py", "kernels_rows.py"} <= {path.name for path in stack.glob("*.py")}
    assert not {"native_decoder.py", "torch_decoder.py", "native"} & {path.name for path in stack.iterdir()}
    spec = (stack / "spec.py").read_text()
    assert re.search(r"^DECODER.* = 'cuda'$|^DECODER.* = \"cuda\"$", spec, re.MULTILINE)
    assert re.search(r"^STEP_TOKENS: int = 2048$", spec, re.MULTILINE), "the decoder's, not the base's"
    done = subprocess.run(
        [sys.executable, "-m", "stack", "serve", "--model", str(stack.parent / "model"), "--port", "0"],
        cwd=stack.parent, capture_output=True, text=True, check=False, timeout=120,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error: no CUDA device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_images_run_as_pods_do(path: Path) -> None:
    text = path.read_text()
    assert f"\nUSER {POD_SECURITY['runAsUser']}:{POD_SECURITY['runAsGroup']}\n" in text
    assert re.search(r"^ENV .*HOME=/tmp", text, re.MULTILINE)
    assert ("NVIDIA_DRIVER_CAPABILITIES=compute,utility" in text) == (path.parent.name == "cuda")
    base = re.search(r"^ARG BASE=(\S+)\nFROM \$\{BASE\}$", text, re.MULTILINE)
    assert base is not None and ":" in base[1] and "latest" not in base[1]


def test_the_image_of_the_baseline_has_what_its_tuner_imports() -> None:
    """Beside vLLM's own packages, of which the lock of the local baseline is the list at hand."""
    text = (IMAGES / "cuda" / "baseline.Containerfile").read_text()
    added = re.search(r"pip install --no-cache-dir \\\n(.*?) \\\n", text)
    lock = (ROOT / "requirements" / "vllm-cuda.txt").read_text()
    brought = set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)) | set(added[1].split() if added else ())
    names = {"git": "gitpython", "gitdb": "gitpython", "yaml": "pyyaml", "pydantic_core": "pydantic-core"}
    names |= {"tomli_w": "tomli-w", "huggingface_hub": "huggingface-hub", "pynvml": "nvidia-ml-py"}
    roots = [ROOT / folder / "src" for folder in ("crds", "skills", "agents")]
    role = ["sartor_agents.pods.__main__", "sartor_agents.pods.looking", "sartor_agents.roles.evaluator"]
    found = Imports(roots, lazy=False).follow(role)
    assert "sartor_agents.run.tuning" in found.followed
    assert {names.get(name, name) for name in found.others} <= brought
    assert "GIT_PYTHON_REFRESH=quiet" in text, "or importing git fails where there is no program of that name"


def test_triton_finds_a_compiler() -> None:
    assert re.search(r"install .*\bgcc\b.*\blibc6-dev\b", (IMAGES / "cuda" / "stack.Containerfile").read_text())


def test_the_image_of_agents_has_the_programs_that_its_pods_start() -> None:
    text = (IMAGES / "roles" / "agent.Containerfile").read_text()
    installed = [ROOT / found for found in re.findall(r"^COPY (\S+) /src/", text, re.MULTILINE)]
    scripts = {name for path in installed for name in _project(path).get("scripts", {})}
    assert {Settings().role_command[0], Settings().model_proxy_command[0]} <= scripts
    ours = {_project(path)["name"]: path for path in (ROOT / "crds", ROOT / "skills", ROOT / "agents")}
    assert set(installed) == set(ours.values()), "what it installs asks for nothing of Sartor's that is not there"
    packages = re.search(r"apt-get install --yes --no-install-recommends (.*) \\", text)
    assert packages is not None and {"git", "libseccomp2", "g++"} <= set(packages[1].split())


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]
