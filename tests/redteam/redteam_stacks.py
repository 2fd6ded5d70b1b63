"""Candidates: the stack that the playbook composes, with a cheat planted in it; the twin is the same with the cheat off."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import Selection, Target, compose
from sartor_skills.catalog import load_catalog

CHEATS = Path(__file__).with_name("cheats")
ALWAYS = ("seams", "attempts")

MAIN = '''"""Runs the command line, with what the red team planted."""

from . import cheat
from .main import main

cheat.install()
raise SystemExit(main())
'''


def candidate(cheat: str | None, model: Path, scenario: str, *, planted: bool = True) -> dict[str, bytes]:
    """The files of a candidate by path; without a cheat the honest stack as it is delivered.

    Raises `FileNotFoundError` for a cheat that is not in the folder.
    """
    files = dict(honest(model, scenario))
    if cheat is None:
        return files
    for name in ALWAYS:
        files[f"stack/{name}.py"] = (CHEATS / f"{name}.py").read_bytes()
    files["stack/cheat.py"] = (CHEATS / f"{cheat}.py").read_bytes()
    files["stack/plant.py"] = f'"""Whether the cheat is on."""\n\nON = {planted}\n'.encode()
    files["stack/__main__.py"] = MAIN.encode()
    return files


@cache
def honest(model: Path, scenario: str) -> Mapping[str, bytes]:
    """The playbook's stack for `model` and `scenario`, wide enough for the range's workloads."""
    recipes = load_catalog().recipes(architecture="llama", platform="cpu", scenario=scenario)
    names = ["serving-core", "native-decoder"] + (["predicted-outputs"] if scenario == "code-edit" else [])
    target = Target(
        model_name=model.name,
        model=facts.model_spec(model),
        scenario=scenario,
        platform="cpu",
        envelope={"MAX_MODEL_LEN": 1024, "MAX_INPUT_TOKENS": 768, "MAX_OUTPUT_TOKENS": 256},
        concurrency=8,
        provenance={"run": "red team"},
    )
    with TemporaryDirectory() as folder:
        out = Path(folder) / "stack"
        compose(Selection({name: recipes[name].defaults() for name in names}), target, recipes, out)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(out.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
