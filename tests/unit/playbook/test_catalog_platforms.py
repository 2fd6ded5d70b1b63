"""Who is shown which recipe: a floor of the platform is never stepped over."""

from pathlib import Path

import pytest

from sartor_agents.backends.playbook import facts
from sartor_agents.backends.playbook.compose import Target, compose
from sartor_agents.backends.playbook.planner import Trial, propose
from sartor_agents.checkpoints import make
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


def test_the_playbook_climbs_on_a_gpu(tmp_path: Path) -> None:
    """From the decoder alone over the client's predictions to parameters, one change at a time; each of them composes."""
    model = make("chain", "llama", "tiny", 0, tmp_path / "model").path
    recipes = load_catalog().recipes(architecture="llama", platform="cuda", scenario="code-edit")
    trials: list[Trial] = []
    incumbent: Trial | None = None
    seen: list[tuple[str, frozenset[str]]] = []
    for number in range(8):
        move = propose(trials, incumbent, recipes, cores=16)
        assert move is not None
        seen.append((move.kind, frozenset(move.selection.recipes)))
        given = Target(
            "tiny", facts.model_spec(model), "code-edit", "cuda",
            {"MAX_MODEL_LEN": 512, "MAX_INPUT_TOKENS": 256, "MAX_OUTPUT_TOKENS": 256}, 1, {}, 1 << 30,
        )  # fmt: skip
        made = compose(move.selection, given, recipes, tmp_path / f"{number}" / "stack")
        assert {"serving-core", "model-loading", "cuda-decoder"} <= {recipe.name for recipe in made}
        trial = Trial(move.selection, incumbent.selection if incumbent else None, 1.0 + 0.1 * number)
        trials.append(trial)
        incumbent = trial
    assert seen[0] == ("start", frozenset({"serving-core", "cuda-decoder"}))
    assert seen[1] == ("add", frozenset({"serving-core", "cuda-decoder", "predicted-outputs"}))
    assert {kind for kind, _ in seen[2:]} >= {"tune"}
    assert len({trial.selection.key() for trial in trials}) == len(trials)
