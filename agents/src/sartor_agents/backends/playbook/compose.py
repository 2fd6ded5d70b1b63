"""Writes a stack: the blocks that a selection of recipes names, specialised to one model and workload.

The result is a flat Python package that imports nothing of Sartor and can be read, reviewed and run alone. Composing is a
pure function of its inputs: the same selection for the same model gives the same bytes, hence the same content hash.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libcst as cst
import tomli_w

from sartor_agents.backends.playbook import specialize
from sartor_skills.catalog import Recipe, Scalar

Parameters = Mapping[str, Scalar]


class ComposeError(Exception):
    """The selection cannot be composed; the message says which recipes stand against each other or are missing."""


@dataclass(frozen=True)
class Selection:
    """Recipes by name, each with the parameters that differ from its defaults or were tuned."""

    recipes: Mapping[str, Parameters] = field(default_factory=dict[str, Parameters])

    def key(self) -> str:
        """A canonical text: equal for equal selections."""
        return "; ".join(
            f"{name}({', '.join(f'{k}={v}' for k, v in sorted(parameters.items()))})"
            for name, parameters in sorted(self.recipes.items())
        )

    def with_recipe(self, name: str, parameters: Parameters, *, without: str | None = None) -> "Selection":
        kept = {key: value for key, value in self.recipes.items() if key != without}
        return Selection({**kept, name: dict(parameters)})


@dataclass(frozen=True)
class Target:
    """What a stack is written for: facts of the model, envelope of the workload, and where both come from."""

    model_name: str
    model: Mapping[str, Any]
    scenario: str
    platform: str
    envelope: Mapping[str, int]  # MAX_MODEL_LEN, MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, tokens
    concurrency: int
    provenance: Mapping[str, str]
    cache_bytes: int | None = None
    """What keys and values may take of a device that the stack does not have for itself."""


def compose(selection: Selection, target: Target, recipes: Mapping[str, Recipe], out: Path) -> list[Recipe]:
    """Write the stack to `out` (made if missing, emptied of what a former composition left).

    Returns the recipes that it is made of, required ones included. Raises `ComposeError`.
    """
    chosen = _chosen(selection, recipes)
    python: dict[str, str] = {}
    other: dict[str, bytes] = {}
    for recipe in chosen:
        for block in recipe.blocks:
            content = (recipe.folder / "blocks" / block).read_bytes()
            if block.endswith(".py"):
                python[block.removesuffix(".py")] = content.decode("utf-8")
            else:
                other[block] = content
    if "spec" not in python:
        raise ComposeError("the selection has no base: no recipe brings spec.py")
    spec = _defaults(python["spec"]) | _spec(selection, chosen, target)
    python["spec"] = _spec_module(python["spec"], spec)
    folded = {name: source if name == "spec" else specialize.fold(source, spec) for name, source in python.items()}
    modules = specialize.prune(folded, "__main__")
    modules["__init__"] = f'"""{_headline(target)}"""\n'
    _clear(out)
    for name, source in modules.items():
        (out / f"{name}.py").write_text(source, encoding="utf-8")
    for name, content in other.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (out / "stack.toml").write_text(tomli_w.dumps(_manifest(selection, target, spec)), encoding="utf-8")
    (out / "README.md").write_text(_readme(selection, target, chosen), encoding="utf-8")
    (out / "requirements.txt").write_text("".join(f"{name}\n" for name in _third_party(modules)), encoding="utf-8")
    _tidy(out)
    return chosen


def _chosen(selection: Selection, recipes: Mapping[str, Recipe]) -> list[Recipe]:
    """The selected recipes and all that they require, what is required first."""
    order: list[Recipe] = []

    def add(name: str, wanted_by: str) -> None:
        if name not in recipes:
            raise ComposeError(f"recipe {name!r} (wanted by {wanted_by}) does not apply here or does not exist")
        recipe = recipes[name]
        for needed in recipe.requires:
            add(needed, name)
        if recipe not in order:
            order.append(recipe)

    for name in sorted(selection.recipes):
        add(name, "the plan")
    slots: dict[str, str] = {}
    for recipe in order:
        if slots.setdefault(recipe.slot, recipe.name) != recipe.name:
            raise ComposeError(
                f"{recipe.name!r} and {slots[recipe.slot]!r} both fill the slot {recipe.slot!r}; take one"
            )
    return order


def _spec(selection: Selection, chosen: list[Recipe], target: Target) -> dict[str, Any]:
    spec: dict[str, Any] = {**target.model, **target.envelope, "SERVED_MODEL_NAME": target.model_name}
    spec["MAX_SEQUENCES"] = target.concurrency
    for recipe in chosen:
        spec |= {**recipe.spec, **recipe.defaults()}
    for recipe in chosen:
        spec |= selection.recipes.get(recipe.name, {})
    # A batch below the workload's concurrency would make requests wait for a place that costs nothing to have.
    spec["MAX_SEQUENCES"] = max(spec["MAX_SEQUENCES"], target.concurrency)
    page = spec.get("PAGE_TOKENS", 16)
    longest = -(-target.envelope["MAX_MODEL_LEN"] // page)
    spec["KV_PAGES"] = spec["MAX_SEQUENCES"] * longest
    if target.cache_bytes is not None:
        # Fewer pages let fewer sequences in at a time, and lose none; one of the full length has to fit.
        element = 4 if spec["DTYPE"] == "float32" else 2
        page_bytes = 2 * spec["LAYERS"] * page * spec["KV_HEADS"] * spec["HEAD_DIM"] * element
        spec["KV_PAGES"] = max(longest, min(spec["KV_PAGES"], target.cache_bytes // page_bytes))
    return spec


def _defaults(source: str) -> dict[str, Any]:
    """What the library's `spec.py` assumes where no recipe says otherwise."""
    return {
        node.target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }


class _Values(cst.CSTTransformer):
    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.left = dict(values)

    def leave_AnnAssign(self, original_node: cst.AnnAssign, updated_node: cst.AnnAssign) -> cst.AnnAssign:  # noqa: N802
        target = updated_node.target
        if isinstance(target, cst.Name) and target.value in self.left:
            return updated_node.with_changes(value=cst.parse_expression(repr(self.left.pop(target.value))))
        return updated_node


def _spec_module(source: str, values: Mapping[str, Any]) -> str:
    transformer = _Values(values)
    code = cst.parse_module(source).visit(transformer).code
    if transformer.left:
        raise ComposeError(f"spec.py has no {', '.join(sorted(transformer.left))}; a recipe or its [spec] is wrong")
    return code


def _headline(target: Target) -> str:
    return f"Serving stack for {target.model_name}, written for the workload {target.scenario} on {target.platform}."


def _manifest(selection: Selection, target: Target, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stack": {"contract": "openai/v1", "scenario": target.scenario, "command": "python -m stack serve"},
        "model": {"name": target.model_name, "architecture": spec["ARCHITECTURE"], "dtype": spec["DTYPE"]},
        "hardware": {"platform": target.platform, "threads": spec.get("THREADS", 1)},
        "envelope": {
            **{name.lower(): value for name, value in target.envelope.items()},
            "max_logprobs": spec["MAX_LOGPROBS"],
        },
        "recipes": {name: dict(parameters) for name, parameters in sorted(selection.recipes.items())},
        "provenance": dict(target.provenance),
    }


def _readme(selection: Selection, target: Target, chosen: list[Recipe]) -> str:
    parts = "\n".join(f"- **{recipe.name}**: {recipe.summary}" for recipe in chosen)
    envelope = ", ".join(f"{name.lower().replace('_', ' ')} {value}" for name, value in target.envelope.items())
    return f"""# {_headline(target)}

Run it from the folder that holds `stack/`:

    pip install -r stack/requirements.txt
    python -m stack build
    python -m stack serve --model DIR --host 127.0.0.1 --port 8000 [--baseline URL]

It serves the OpenAI API within this envelope: {envelope}. A request outside goes to the baseline, streaming included.

What it is made of:

{parts}

Parameters: `{selection.key()}`. Every assumption stands in `spec.py` and `stack.toml`.
"""


def _third_party(modules: Mapping[str, str]) -> list[str]:
    """Distributions that the stack imports, by import name; all of them carry their import's name on the index."""
    names: set[str] = set()
    for source in modules.values():
        names |= set(re.findall(r"^\s*(?:import|from) ([a-zA-Z_]\w*)", source, flags=re.MULTILINE))
    distributions = {"prometheus_client": "prometheus-client"}
    extra = {"uvicorn": ["httptools", "uvloop"]}
    outside = sorted(name for name in names if name not in sys.stdlib_module_names)
    return sorted({d for name in outside for d in (distributions.get(name, name), *extra.get(name, ()))})


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_file() or path.is_symlink():
            path.unlink()
        else:
            path.rmdir()


def _tidy(out: Path) -> None:
    """Drop imports that folding left without use, and lay the code out as everywhere in the project."""
    for arguments in (
        ["check", "--isolated", "--select", "F401,I,PIE790", "--fix", "--quiet"],
        ["format", "--isolated", "--line-length", "120", "--quiet"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ComposeError(f"the composed stack is not well-formed: {done.stdout}{done.stderr}".strip())
