"""Skills by progressive disclosure, only those that apply, and what was read is known."""

from pathlib import Path

import pytest

from sartor_agents.tools.candidate import NoParameters
from sartor_agents.tools.skills import ListSkills, ReadSkill, Shelf, SkillParameters

RECIPE = """
summary = "s"
slot = "{name}"
blocks = []
[applies]
architectures = ["*"]
platforms = ["{platform}"]
scenarios = ["*"]
[effect]
speedup = 1.0
evidence = "e"
[evidence]
active = "a"
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for name, platform in (("fits", "cpu"), ("other", "metal"), ("plain", None)):
        folder = tmp_path / "skills" / name
        (folder / "blocks").mkdir(parents=True)
        (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: about {name}\n---\nText of {name}.\n")
        (folder / "blocks" / "block.py").write_text("CODE = 1\n")
        if platform is not None:
            (folder / "recipe.toml").write_text(RECIPE.format(name=name, platform=platform))
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "skills" / "fits" / "link").symlink_to(tmp_path / "secret")
    return Shelf(tmp_path / "skills", "cpu")


def read(shelf: Shelf, skill: str, file: str | None = None) -> str:
    return ReadSkill(shelf).call(SkillParameters(skill=skill, file=file)).text


def test_the_index_has_what_applies(shelf: Shelf) -> None:
    assert ListSkills(shelf).call(NoParameters()).text == "fits: about fits\nplain: about plain"
    assert shelf.used == set()


def test_one_skill_then_its_files(shelf: Shelf) -> None:
    text = read(shelf, "fits")
    assert "Text of fits." in text and "Files: blocks/block.py, link, recipe.toml" in text
    assert read(shelf, "fits", "blocks/block.py") == "CODE = 1\n"
    assert shelf.used == {"fits"}


@pytest.mark.parametrize("file", ["../../secret", "/etc/passwd", "link", "none.py", "blocks"])
def test_nothing_else_is_read(shelf: Shelf, file: str) -> None:
    assert "secret" not in read(shelf, "fits", file).replace(file, "")
    assert ReadSkill(shelf).call(SkillParameters(skill="fits", file=file)).failed


def test_a_skill_of_another_platform_is_none(shelf: Shelf) -> None:
    assert "There is no skill 'other'; there are fits, plain." in read(shelf, "other")
    assert shelf.used == set()
