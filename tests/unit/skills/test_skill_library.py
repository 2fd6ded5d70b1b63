"""The library that agents read: every page is whole, every scenario has knowledge, and what does not apply is pruned."""

from pathlib import Path

import pytest

from sartor_skills.catalog import CatalogError, Setting, load_catalog

CPU_CHAT = Setting(platform="cpu", scenario="chat", architecture="llama")
SECTIONS = ("## What", "## When", "## How", "## Pitfalls", "## How to verify")
SCENARIOS = ("chat", "code-edit", "shared-prefix", "streaming-asr", "json-schema", "image-generation")


def make(root: Path, name: str, matter: str = "") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: About {name}.\n{matter}---\n\n# {name}\n")


def test_every_skill_says_what_when_how_pitfalls_and_how_to_verify() -> None:
    for skill in load_catalog().skills.values():
        text = skill.text()
        assert [section for section in SECTIONS if f"\n{section}\n" not in text] == [], skill.name
        assert len(skill.description) < 300, "an index is read whole"


def test_every_scenario_has_knowledge_of_its_own_and_a_platform_prunes_it() -> None:
    catalog = load_catalog()
    for scenario in SCENARIOS:
        special = {
            name
            for name, skill in catalog.applying(Setting(scenario=scenario)).skills.items()
            if not all(skill.applies(Setting(scenario=other)) for other in SCENARIOS)
        }
        assert special, scenario
    assert "mlx-decode" in dict(catalog.applying(Setting(platform="metal")).index())
    cpu = dict(catalog.applying(CPU_CHAT).index())
    assert "native-decoder" in cpu and "roofline" in cpu
    assert {"mlx-decode", "cuda-graph-decode", "predicted-outputs", "incremental-encoder"}.isdisjoint(cpu)


def test_front_matter_restricts_and_what_is_not_known_leaves_nothing_out(tmp_path: Path) -> None:
    make(tmp_path, "mac", "metadata:\n  platforms: metal cpu\n  author: somebody\n")
    make(tmp_path, "all")
    catalog = load_catalog(tmp_path)
    assert set(catalog.applying(Setting(platform="cuda")).skills) == {"all"}
    assert set(catalog.applying(Setting(platform="metal")).skills) == {"all", "mac"}
    assert set(catalog.applying(Setting()).skills) == {"all", "mac"}


@pytest.mark.parametrize("matter", ["metadata: [metal]\n", "metadata:\n  platforms: [metal]\n"])
def test_front_matter_of_another_shape_is_refused_with_the_file(tmp_path: Path, matter: str) -> None:
    make(tmp_path, "odd", matter)
    with pytest.raises(CatalogError, match=r"odd/SKILL\.md: metadata"):
        load_catalog(tmp_path)
