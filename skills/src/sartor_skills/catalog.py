"""Reads the skill folders: knowledge (`SKILL.md`) and, where a skill can be composed, its recipe (`recipe.toml`).

Agents load skills by progressive disclosure: `Catalog.index` (name and description), then one skill's text, then the files
that it names. What does not apply to the model, scenario and platform at hand is left out (`Catalog.applying`), so
that nobody is shown what cannot run. A skill says what it is for in its recipe, or in the front matter (`metadata`, as the
Agent Skills format has it: names in one string, separated by blanks; absent means all).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from sartor_skills.library import library_root

Scalar = str | int | float | bool

RESTRICTIONS = ("platforms", "scenarios", "architectures")
"""Names in the front matter's `metadata` that say what a skill is for."""


class CatalogError(Exception):
    """A skill folder breaks the format; the message names the file and what to change."""


@dataclass(frozen=True)
class Parameter:
    """A `spec` name that the planner may tune, with the values worth trying, in the order worth trying them."""

    name: str
    values: tuple[Scalar, ...]
    default: Scalar


@dataclass(frozen=True)
class Recipe:
    """How a skill becomes part of a stack.

    `slot` is exclusive: a stack holds one recipe per slot. `speedup` is the prior of the objective with the recipe over
    without it, dimensionless; `evidence` says where that figure comes from.
    """

    name: str
    summary: str
    slot: str
    requires: tuple[str, ...]
    blocks: tuple[str, ...]
    architectures: tuple[str, ...]
    platforms: tuple[str, ...]
    scenarios: tuple[str, ...]
    spec: Mapping[str, Scalar]
    parameters: tuple[Parameter, ...]
    speedup: float
    evidence: str
    active: str
    folder: Path

    def applies(self, *, architecture: str, platform: str, scenario: str) -> bool:
        return all(
            wanted in allowed or "*" in allowed
            for wanted, allowed in (
                (architecture, self.architectures),
                (platform, self.platforms),
                (scenario, self.scenarios),
            )
        )

    def defaults(self) -> dict[str, Scalar]:
        return {parameter.name: parameter.default for parameter in self.parameters}


@dataclass(frozen=True)
class Setting:
    """What a stack is written for; None: not known, so nothing is left out for it."""

    platform: str | None = None
    scenario: str | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class Skill:
    """One skill folder. `only` holds what the front matter restricts it to: platforms, scenarios, architectures."""

    name: str
    description: str
    folder: Path
    recipe: Recipe | None = None
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def text(self) -> str:
        return (self.folder / "SKILL.md").read_text(encoding="utf-8")

    def applies(self, setting: Setting) -> bool:
        """Whether it can be of use there."""
        wanted = {
            "platforms": setting.platform,
            "scenarios": setting.scenario,
            "architectures": setting.architecture,
        }
        return all(value is None or _allows(self._allowed(name), value) for name, value in wanted.items())

    def _allowed(self, name: str) -> tuple[str, ...]:
        if name in self.only:
            return self.only[name]
        allowed: dict[str, tuple[str, ...]] = {}
        if self.recipe is not None:
            recipe = self.recipe
            allowed = {
                "platforms": recipe.platforms,
                "scenarios": recipe.scenarios,
                "architectures": recipe.architectures,
            }
        return allowed.get(name, ("*",))


def _allows(allowed: tuple[str, ...], value: str) -> bool:
    return "*" in allowed or value in allowed


@dataclass(frozen=True)
class Catalog:
    skills: Mapping[str, Skill] = field(default_factory=dict[str, Skill])

    def applying(self, setting: Setting) -> "Catalog":
        """The catalog without what is of no use there."""
        return Catalog({name: skill for name, skill in self.skills.items() if skill.applies(setting)})

    def index(self) -> list[tuple[str, str]]:
        """Name and description of every skill, by name: what an agent sees first."""
        return [(skill.name, skill.description) for skill in self.skills.values()]

    def recipes(self, *, architecture: str, platform: str, scenario: str) -> dict[str, Recipe]:
        return {
            name: skill.recipe
            for name, skill in self.skills.items()
            if skill.recipe is not None
            and skill.recipe.applies(architecture=architecture, platform=platform, scenario=scenario)
        }


def load_catalog(root: Path | None = None) -> Catalog:
    """Read every skill below `root` (default: Sartor's own library). Raises `CatalogError`."""
    base = library_root() if root is None else root
    skills = {path.parent.name: _skill(path.parent) for path in sorted(base.glob("*/SKILL.md"))}
    for skill in skills.values():
        for needed in skill.recipe.requires if skill.recipe else ():
            if needed not in skills or skills[needed].recipe is None:
                raise CatalogError(f"{skill.folder / 'recipe.toml'}: requires {needed!r}, which is no recipe here")
    return Catalog(skills)


def _skill(folder: Path) -> Skill:
    path = folder / "SKILL.md"
    text = path.read_text(encoding="utf-8")
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise CatalogError(f"{path}: must begin with YAML front matter between two lines '---'")
    try:
        matter = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise CatalogError(f"{path}: the front matter is not YAML: {error}") from error
    if not isinstance(matter, dict):
        raise CatalogError(f"{path}: the front matter must be a mapping with name and description")
    entries = cast(dict[str, Any], matter)
    name, description = entries.get("name"), entries.get("description")
    if name != folder.name:
        raise CatalogError(f"{path}: name is {name!r}, but the folder is {folder.name!r}; they must be the same")
    if not isinstance(description, str) or not description.strip():
        raise CatalogError(f"{path}: description is missing; one sentence on what it is and when to use it")
    recipe = folder / "recipe.toml"
    return Skill(
        folder.name, description.strip(), folder, _recipe(recipe) if recipe.is_file() else None, _only(path, entries)
    )


def _only(path: Path, entries: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What the front matter's `metadata` restricts the skill to."""
    metadata = entries.get("metadata", {})
    if not isinstance(metadata, dict):
        raise CatalogError(f"{path}: metadata must be a mapping of names to strings")
    found: dict[str, tuple[str, ...]] = {}
    for name, value in cast(dict[str, Any], metadata).items():
        if not isinstance(value, str):
            raise CatalogError(f"{path}: metadata.{name} must be a string; separate several names by blanks")
        if name in RESTRICTIONS:
            found[name] = tuple(value.split())
    return found


def _recipe(path: Path) -> Recipe:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        applies, effect = data["applies"], data["effect"]
        parameters = tuple(
            Parameter(name, tuple(entry["values"]), entry["default"])
            for name, entry in data.get("parameters", {}).items()
        )
        recipe = Recipe(
            name=path.parent.name,
            summary=data["summary"],
            slot=data["slot"],
            requires=tuple(data.get("requires", ())),
            blocks=tuple(data["blocks"]),
            architectures=tuple(applies["architectures"]),
            platforms=tuple(applies["platforms"]),
            scenarios=tuple(applies["scenarios"]),
            spec=dict(data.get("spec", {})),
            parameters=parameters,
            speedup=float(effect["speedup"]),
            evidence=effect["evidence"],
            active=data["evidence"]["active"],
            folder=path.parent,
        )
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{path}: not TOML: {error}") from error
    except KeyError as error:
        raise CatalogError(f"{path}: {error} is missing") from error
    for parameter in recipe.parameters:
        if parameter.default not in parameter.values:
            raise CatalogError(f"{path}: parameters.{parameter.name}: the default is not among the values")
    for block in recipe.blocks:
        if not (path.parent / "blocks" / block).is_file():
            raise CatalogError(f"{path}: blocks names {block!r}, which is not in {path.parent / 'blocks'}")
    return recipe
