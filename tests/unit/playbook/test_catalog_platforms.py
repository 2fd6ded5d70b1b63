"""Who is shown which recipe: a floor of the platform is never stepped over."""

import pytest

from sartor_skills.catalog import load_catalog


def decoders(platform: str) -> set[str]:
    recipes = load_catalog().recipes(architecture="llama", platform=platform, scenario="chat")
    return {name for name, recipe in recipes.items() if recipe.slot == "decoder"}


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cuda", {"cuda-decoder"}), ("cpu", {"native-decoder", "torch-decoder"}), ("metal", set[str]())],
)
def test_a_decoder_is_shown_only_where_it_runs(platform: str, expected: set[str]) -> None:
    assert decoders(platform) == expected


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_gpu_has_speculation_for_code_edits(architecture: str) -> None:
    recipes = load_catalog().recipes(architecture=architecture, platform="cuda", scenario="code-edit")
    assert {"serving-core", "model-loading", "cuda-decoder", "predicted-outputs", "prompt-lookup"} == set(recipes)
