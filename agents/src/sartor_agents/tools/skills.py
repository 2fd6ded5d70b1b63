"""Skills by progressive disclosure: the index, one skill's text, then a file that it names."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from sartor_agents.backends.conversation.tool import ToolResult
from sartor_agents.tools.candidate import NoParameters
from sartor_agents.tools.files import READ_BYTES, Parameters
from sartor_agents.tools.paths import PathError, View, read_file
from sartor_skills.catalog import Catalog, Setting, load_catalog

LISTED_FILES = 60


@dataclass(frozen=True)
class Shelf:
    """The skills that apply to a platform and, where it is known, a scenario. `used` collects the names of those read."""

    root: Path
    platform: str
    scenario: str | None = None
    used: set[str] = field(default_factory=set[str])

    def catalog(self) -> Catalog:
        """What is of no use here is not shown."""
        return load_catalog(self.root).applying(Setting(platform=self.platform, scenario=self.scenario))


@dataclass(frozen=True)
class ListSkills:
    """`list_skills`."""

    shelf: Shelf
    name: str = "list_skills"
    description: str = (
        "The skills there are for this platform: name, what it is and when to use it. Read one with read_skill."
    )
    parameters: type[NoParameters] = NoParameters

    def call(self, parameters: NoParameters, /) -> ToolResult:
        index = self.shelf.catalog().index()
        return ToolResult("\n".join(f"{name}: {description}" for name, description in index) or "There are no skills.")


class SkillParameters(Parameters):
    skill: str = Field(max_length=64, description="Its name in the index.")
    file: str | None = Field(default=None, max_length=500, description="A file of the skill; left out: its text.")


@dataclass(frozen=True)
class ReadSkill:
    """`read_skill`."""

    shelf: Shelf
    name: str = "read_skill"
    description: str = (
        "Read a skill: what it does, how, pitfalls and how to verify; or one of its files (recipe.toml, blocks/…), which "
        "may be copied into stack/."
    )
    parameters: type[SkillParameters] = SkillParameters

    def call(self, parameters: SkillParameters, /) -> ToolResult:
        skills = self.shelf.catalog().skills
        skill = skills.get(parameters.skill)
        if skill is None:
            return ToolResult(f"There is no skill {parameters.skill!r}; there are {', '.join(skills)}.", failed=True)
        self.shelf.used.add(skill.name)
        if parameters.file is None:
            files = sorted(str(p.relative_to(skill.folder)) for p in skill.folder.rglob("*") if p.is_file())
            others = [name for name in files if name != "SKILL.md" and "__pycache__" not in name][:LISTED_FILES]
            return ToolResult(skill.text() + ("\nFiles: " + ", ".join(others) if others else ""))
        try:
            _, parts = View(skill.folder, {}).split(parameters.file)
            data = read_file(skill.folder, parts, READ_BYTES)
        except PathError as error:
            return ToolResult(str(error), failed=True)
        return ToolResult(data[:READ_BYTES].decode(errors="replace"))
