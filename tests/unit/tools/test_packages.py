"""A package that is installed by itself, as in an image, has what it imports: nothing comes along by chance."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("crds", "agents", "skills", "operator", "repository", "runners", "tools/devcluster", "tools/demo")
PART_OF = {"gitdb": "gitpython", "markupsafe": "jinja2", "pydantic-core": "pydantic", "urllib3": "kubernetes"}
"""Distributions whose names are part of another's interface."""


PYPROJECTS = {
    package: tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"] for package in PACKAGES
}
OURS = {about["name"]: package for package, about in PYPROJECTS.items()}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def declared(package: str, extras: Iterable[str]) -> set[str]:
    """What a package asks for, and what other packages of Sartor's bring that it asks for."""
    about = PYPROJECTS[package]
    optional = about.get("optional-dependencies", {})
    found = {about["name"]}
    for line in [*about.get("dependencies", ()), *(line for extra in extras for line in optional[extra])]:
        asked = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?.*", line)
        assert asked is not None, line
        found.add(name := normal(asked[1]))
        if name in OURS:
            found |= declared(OURS[name], (asked[2] or "").split(",") if asked[2] else ())
    return found


def imported(package: str) -> dict[str, Path]:
    """Each top-level module that some source of the package imports, and one of those sources."""
    found: dict[str, Path] = {}
    for path in (ROOT / package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module.split(".")[0]] = path
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_what_it_imports(package: str) -> None:
    distributions = packages_distributions() | {name.replace("-", "_"): [name] for name in OURS}
    modules = {name: path for name, path in imported(package).items() if name not in sys.stdlib_module_names}
    assert modules, "nothing was read"
    asked = declared(package, PYPROJECTS[package].get("optional-dependencies", {}))
    missing = {
        name: str(path.relative_to(ROOT))
        for module, path in modules.items()
        if (name := normal(distributions[module][0])) not in asked and PART_OF.get(name) not in asked
    }
    assert missing == {}
