"""The planner climbs by one move at a time, learns from what was measured, and stops when nothing is left."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sartor_agents.backends.playbook.compose import Selection
from sartor_agents.backends.playbook.planner import Trial, propose
from sartor_skills.catalog import Parameter, Recipe


def recipe(name: str, slot: str, speedup: float, *parameters: Parameter) -> Recipe:
    return Recipe(
        name=name, summary=name, slot=slot, requires=(), blocks=(), architectures=("*",), platforms=("*",),
        scenarios=("*",), spec={}, parameters=parameters, speedup=speedup, evidence="", active="", folder=Path(),
    )  # fmt: skip


RECIPES = {
    r.name: r
    for r in (
        recipe("core", "base", 1.0),
        recipe("plain", "decoder", 0.6),
        recipe("fast", "decoder", 2.0, Parameter("THREADS", (1, 2, 4), 1)),
        recipe("draft", "speculation", 3.0, Parameter("WIDTH", (8, 16, 32), 16)),
        recipe("lookup", "speculation", 2.5),
    )
}


def climb(speed: dict[str, float], cores: int = 2, noise: float = 0.0) -> tuple[list[Trial], Trial | None]:
    """Run the planner against a made-up truth: `speed` maps a selection's key to its measured speed-up (else rejected)."""
    trials: list[Trial] = []
    best: Trial | None = None
    while (move := propose(trials, best, RECIPES, cores=cores)) is not None:
        trial = Trial(move.selection, best.selection if best else None, speed.get(move.selection.key()))
        trials.append(trial)
        if trial.speedup is not None and (best is None or trial.speedup > (best.speedup or 0) * 1.01):
            best = trial
        assert len(trials) < 100
    return trials, best


def truth(effects: dict[str, float]) -> dict[str, float]:
    """Speeds of all selections under multiplicative effects of recipes and of parameter settings."""
    out: dict[str, float] = {}
    for decoder in ("plain", "fast"):
        for threads in (1, 2) if decoder == "fast" else (None,):
            for draft in (None, "draft", "lookup"):
                for width in (8, 16, 32) if draft == "draft" else (None,):
                    recipes: dict[str, dict[str, int]] = {"core": {}}
                    recipes[decoder] = {} if threads is None else {"THREADS": threads}
                    speed = effects.get(decoder, 1.0) * effects.get(f"threads{threads}", 1.0)
                    if draft:
                        recipes[draft] = {} if width is None else {"WIDTH": width}
                        speed *= effects.get(draft, 1.0) * effects.get(f"width{width}", 1.0)
                    out[Selection(recipes).key()] = speed
    return out


def test_it_starts_with_the_best_decoder_then_adds_what_promises_most() -> None:
    trials, best = climb(
        truth({"plain": 0.6, "fast": 2.0, "draft": 3.0, "lookup": 2.0, "threads2": 1.5, "width32": 1.1})
    )
    assert [sorted(t.selection.recipes) for t in trials[:2]] == [["core", "fast"], ["core", "draft", "fast"]]
    assert trials[0].selection.recipes["fast"] == {"THREADS": 2}, "the first stack has all cores, as the baseline has"
    assert best is not None
    assert best.selection.recipes["fast"] == {"THREADS": 2}
    assert best.selection.recipes["draft"] == {"WIDTH": 32}


def test_a_recipe_that_a_gate_rejects_is_not_tried_again_and_its_rival_is() -> None:
    speeds = {k: v for k, v in truth({"fast": 2.0, "lookup": 2.0}).items() if "draft" not in k}
    trials, best = climb(speeds)
    assert best is not None and "lookup" in best.selection.recipes
    assert sum("draft" in t.selection.recipes for t in trials) == 1


def test_no_more_threads_than_cores() -> None:
    trials, _ = climb(truth({"fast": 2.0, "threads2": 2.0}), cores=1)
    assert all(t.selection.recipes.get("fast", {}).get("THREADS", 1) == 1 for t in trials)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["plain", "fast", "draft", "lookup", "threads2", "width8", "width32"]),
                       st.floats(0.3, 4.0)))  # fmt: skip
def test_it_ends_never_repeats_and_changes_one_thing_at_a_time(effects: dict[str, float]) -> None:
    trials, best = climb(truth(effects))
    keys = [t.selection.key() for t in trials]
    assert len(keys) == len(set(keys))
    assert best is not None
    for trial in trials:
        if trial.parent is None:
            continue
        before, after = trial.parent.recipes, trial.selection.recipes
        changed = [n for n in set(before) | set(after) if before.get(n) != after.get(n)]
        assert len({RECIPES[n].slot for n in changed}) == 1


def test_a_parameter_that_a_recipe_takes_over_is_set_and_tuned_there_alone() -> None:
    """A step of 2048 rows for a GPU stands in its decoder; to try the base's own 256 would cost a round for nothing."""
    base = recipe("core", "base", 1.0, Parameter("ROWS", (128, 256), 256), Parameter("CHUNK", (32, 64), 32))
    made = recipe("gpu", "decoder", 1.5, Parameter("ROWS", (1024, 2048), 2048))
    recipes = {"core": base, "gpu": replace(made, requires=("core",))}
    start = propose([], None, recipes, cores=1)
    assert start is not None
    assert start.selection.recipes == {"core": {"CHUNK": 32}, "gpu": {"ROWS": 2048}}
    trials = [Trial(start.selection, None, 1.5)]
    tuned: set[str] = set()
    while (move := propose(trials, trials[0], recipes, cores=1)) is not None:
        tuned.add(f"{move.recipe.name}: {move.detail}")
        trials.append(Trial(move.selection, start.selection, 1.4))
    assert tuned == {"core: CHUNK: 32 → 64", "gpu: ROWS: 2048 → 1024"}
