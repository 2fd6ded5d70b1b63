"""Families of prompts share exactly as many tokens as they say, around the boundaries of blocks."""

from pathlib import Path
from typing import Any, cast

import pytest
from chain_reference import ChainReference

from sartor_agents.judge.opening import Bench
from sartor_agents.judge.prefixes import BLOCKS, Family, families
from sartor_agents.measurement.messages import ChatParameters, ChatScenario, Endpoint, JudgeRequest
from sartor_agents.measurement.progress import silent
from sartor_agents.scenarios import open_scenario


def make(
    model_dir: Path, *, api: Any = "completions", prompt_tokens: int = 300, seed: str = "ab", **more: Any
) -> list[Family]:
    spec = ChatScenario(parameters=ChatParameters(prompt_tokens=prompt_tokens, output_tokens=20, api=api))
    request = JudgeRequest(
        candidate=Endpoint(url="http://127.0.0.1:9"), model_dir=model_dir, scenario=spec, seed=seed * 32,
        output_dir=model_dir, **more,
    )  # fmt: skip
    scenario, counter = open_scenario(spec, model_dir, request.seed)
    nobody = cast(Any, None)
    bench = Bench(request, scenario, counter, nobody, None, None, silent, ChainReference(model_dir))
    stream = scenario.stream(scenario.stages[0], "accuracy", 0)
    return families(bench, [next(stream) for _ in range(4)])


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_what_is_shared_is_counted_in_the_tokens_that_the_model_is_given(chain_model: Path, api: str) -> None:
    made = make(chain_model, api=api, samples=100)
    assert made
    for family in made:
        first, second, altered = (member.prompt_ids for member in family.members)
        assert common(first, second) == family.shared
        assert any(abs(family.shared - block) <= 1 for block in BLOCKS)
        assert len(altered) == len(first) and altered[-4:] == first[-4:]
        assert sum(a != b for a, b in zip(first, altered, strict=True)) == 1
        assert common(first, altered) <= family.shared // 2 + 8


def test_with_samples_enough_every_boundary_is_visited(chain_model: Path) -> None:
    every = {block + off for block in BLOCKS for off in (-1, 0, 1)}
    assert {family.shared for family in make(chain_model, samples=100)} == every
    assert len(make(chain_model, samples=12)) == 4


def test_the_seed_draws_the_boundaries(chain_model: Path) -> None:
    drawn = [
        [family.shared for family in make(chain_model, samples=12, seed=seed)] for seed in ("ab", "ab", "cd", "ef")
    ]
    assert drawn[0] == drawn[1] and len({tuple(lengths) for lengths in drawn}) > 1


def test_prompts_stay_inside_the_envelope(chain_model: Path) -> None:
    for family in make(chain_model, prompt_tokens=40, samples=100):
        assert max(len(member.prompt_ids) for member in family.members) <= 40 * 1.25 + 65
