"""Workloads: known answers, exact match rates, fresh prompts, the same for every arm."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sartor_agents.checkpoints import ChainFacts, make
from sartor_agents.measurement.messages import EditKind
from sartor_agents.measurement.samples import GenerationRequest, Purpose
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.scenarios import Scenario, ScenarioError, open_scenario, scenario_spec
from sartor_agents.scenarios.edits import edit, split_lines
from sartor_agents.scenarios.text import ChainText, DocumentText
from sartor_agents.scenarios.trace import read_trace

SEED = "c0" * 32
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def take(scenario: Scenario, count: int, *, purpose: Purpose = "scored", window: int = 0) -> list[GenerationRequest]:
    return list(itertools.islice(scenario.stream(scenario.stages[0], purpose, window), count))


def code_edit(model_dir: Path, **parameters: Any) -> tuple[Scenario, TokenCounter]:
    return open_scenario(scenario_spec("code-edit", {"file_tokens": 80, **parameters}), model_dir, SEED)


def test_match_rates_are_exact(chain_model: Path) -> None:
    scenario, counter = code_edit(chain_model)
    facts = ChainFacts.load(chain_model)
    for request in take(scenario, 10):
        answer = facts.walk(request.prompt_ids[-1], request.output_tokens)
        if request.condition == "none":
            assert "prediction" not in request.body
            continue
        content = request.body["prediction"]["content"]
        predicted = counter.encode(content)
        rate = int(request.condition.removeprefix("match"))
        assert len(predicted) == 80
        assert sum(a == b for a, b in zip(predicted, answer, strict=True)) == round(80 * rate / 100)
        # The file is in the prompt: n-gram speculation has its fair chance.
        assert content in request.body["prompt"]


def test_what_is_sent_as_text_is_what_the_reference_will_read(chain_model: Path) -> None:
    scenario, counter = code_edit(chain_model, edit_kinds=("replace", "insert", "delete", "move"))
    for request in take(scenario, 16):
        assert tuple(counter.tokenizer.encode(request.body["prompt"]).ids) == request.prompt_ids
        assert len(request.prompt_ids) <= scenario.envelope.input_tokens
        assert request.body["max_tokens"] == request.output_tokens and request.body["ignore_eos"] is True


def test_every_condition_comes_equally_often_and_in_changing_order(chain_model: Path) -> None:
    scenario, _ = code_edit(chain_model)
    conditions = [r.condition for r in take(scenario, 25)]
    cycles = [tuple(conditions[i : i + 5]) for i in range(0, 25, 5)]
    assert all(sorted(cycle) == sorted(scenario.stages[0].conditions) for cycle in cycles)
    assert len(set(cycles)) > 1


@pytest.mark.parametrize("name", ["chat", "code-edit"])
def test_prompts_are_fresh_and_the_same_for_every_arm(chain_model: Path, name: str) -> None:
    scenario, _ = open_scenario(scenario_spec(name, {}), chain_model, SEED)
    again, _ = open_scenario(scenario_spec(name, {}), chain_model, SEED)
    other, _ = open_scenario(scenario_spec(name, {}), chain_model, "c1" * 32)
    assert [r.body for r in take(scenario, 6)] == [r.body for r in take(again, 6)]
    purposes: tuple[Purpose, ...] = ("warmup", "scored", "accuracy")
    everything = [r.body["prompt"] for p in purposes for w in range(3) for r in take(scenario, 10, purpose=p, window=w)]
    everything += [r.body["prompt"] for r in take(other, 10)]
    assert len(set(everything)) == len(everything)
    # Not even a prefix is shared.
    assert len({prompt[:80] for prompt in everything}) == len(everything)


@SHARED
@given(st.sampled_from(["replace", "insert", "delete", "move"]), st.integers(10, 99), st.integers(0, 1000))
def test_edits_keep_the_stated_share(chain_model: Path, kind: EditKind, percent: int, seed: int) -> None:
    counter = TokenCounter(chain_model)
    facts = ChainFacts.load(chain_model)
    text = ChainText(facts, counter)
    answer = facts.walk(facts.first_word + seed % 50, 100)
    share = percent / 100
    got = edit(kind, answer, share, np.random.default_rng(seed), text)
    wrong = round(100 * (1 - share))
    match kind:
        case "replace":
            assert sum(a != b for a, b in zip(got, answer, strict=True)) == wrong
        case "delete":
            assert len(got) == 100 - wrong and is_subsequence(got, answer)
        case "insert":
            assert len(got) == 100 + round(100 * (1 / share - 1)) and is_subsequence(answer, got)
        case "move":
            assert sorted(got) == sorted(answer)
            assert wrong == 0 or got != answer or len(split_lines(answer, text)) == 1
    assert counter.encode(counter.decode(got)) == got


def is_subsequence(short: Sequence[int], long: Sequence[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


def test_chat_lengths_vary_around_their_mean_and_are_fixed_per_request(chain_model: Path) -> None:
    scenario, _ = open_scenario(
        scenario_spec("chat", {"concurrencies": [1, 4], "requestRates": [2.5], "promptTokens": 40}), chain_model, SEED
    )
    assert [s.name for s in scenario.stages] == ["c1", "c4", "rate2.5"]
    assert [s.in_objective for s in scenario.stages] == [True, True, False]
    requests = take(scenario, 200)
    prompts, outputs = [len(r.prompt_ids) for r in requests], [r.output_tokens for r in requests]
    assert 38 < np.mean(prompts) < 44 and 120 < np.mean(outputs) < 136
    assert len(set(outputs)) > 20 and max(outputs) <= scenario.envelope.output_tokens
    parts = [r.output_tokens for r in take(scenario, 200, purpose="warmup")]
    assert min(parts) < 20 and max(parts) > 100 and 56 < np.mean(parts) < 72, "any part of an answer"


def test_chat_completions_go_through_the_template(chain_model: Path) -> None:
    scenario, counter = open_scenario(scenario_spec("chat", {"api": "chat"}), chain_model, SEED)
    (request,) = take(scenario, 1)
    content = request.body["messages"][0]["content"]
    assert request.path == "/v1/chat/completions"
    assert content in counter.decode(request.prompt_ids)
    (chain_model / "tokenizer_config.json").rename(chain_model / "aside.json")
    try:
        with pytest.raises(ScenarioError, match="no chat template"):
            open_scenario(scenario_spec("chat", {"api": "chat"}), chain_model, SEED)
    finally:
        (chain_model / "aside.json").rename(chain_model / "tokenizer_config.json")


def test_other_checkpoints_get_their_predictions_from_the_trusted_server(tmp_path: Path) -> None:
    make("random", "llama", "tiny", 0, tmp_path / "model")
    scenario, counter = code_edit(tmp_path / "model", match_rates=(0, 90))
    requests = take(scenario, 6)
    asked: list[str] = []

    async def oracle(wanted: Sequence[GenerationRequest]) -> list[str]:
        asked.extend(r.id for r in wanted)
        return [f"the answer {r.id} is this text, word for word, and a bit more of it" for r in wanted]

    prepared = asyncio.run(scenario.prepare(requests, oracle))
    told = [r for r in prepared if r.condition != "none"]
    assert [r.id for r in told] == asked and [r.id for r in prepared] == [r.id for r in requests]
    for request in told:
        answer = counter.encode(f"the answer {request.id} is this text, word for word, and a bit more of it")
        predicted = counter.encode(request.body["prediction"]["content"])
        if request.condition == "match90" and len(predicted) == len(answer):
            assert np.mean([a == b for a, b in zip(predicted, answer, strict=True)]) > 0.7
    assert scenario.count_tolerance > 0


def test_a_trace_is_read_and_its_defects_are_located(tmp_path: Path, chain_model: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"at": 0, "body": {"prompt": "one two three " * 9}},
        {"body": {"messages": [{"role": "user", "content": "hi " * 20}]}},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert [p.text[:3] for p in read_trace(path)] == ["one", "hi "]
    scenario, _ = open_scenario(scenario_spec("chat", {}), chain_model, SEED, trace=path)
    assert all("one" in r.body["prompt"] or "hi" in r.body["prompt"] for r in take(scenario, 4))
    path.write_text('{"body": {}}\n')
    with pytest.raises(ScenarioError, match=r"trace\.jsonl:1: not a request"):
        read_trace(path)
    path.write_text("")
    with pytest.raises(ScenarioError, match="is empty"):
        read_trace(path)
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_trace(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("image-generation", {}, "cannot be measured yet"),
        ("chat", {"concurrencies": [0]}, "concurrencies"),
        ("chat", {"concurrencies": [2, 2]}, "named once"),
        ("chat", {"colour": 1}, "colour"),
        ("chat", {"replaySpeed": 0}, "replaySpeed"),
        ("code-edit", {"matchRates": [101]}, "match"),
        ("code-edit", {"edit_kinds": ["scramble"]}, "edit"),
        ("code-edit", {"requestRates": [1.0]}, "requestRates"),
        ("code-edit", {"find_peak": True}, "findPeak"),
    ],
)
def test_bad_parameters_are_named(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        scenario_spec(name, parameters)


def test_edit_kinds_need_a_rate_to_edit_at(chain_model: Path) -> None:
    with pytest.raises(ScenarioError, match="between 1 and 99"):
        code_edit(chain_model, match_rates=(0, 100), edit_kinds=("replace", "move"))


def test_null_parameters_keep_their_default() -> None:
    assert scenario_spec("code-edit", {"outputTokens": None, "findPeak": False, "request_rates": []}) == scenario_spec(
        "code-edit", {}
    )


def test_documents_of_nothing_are_refused(chain_model: Path) -> None:
    with pytest.raises(ScenarioError, match="no document"):
        DocumentText(["", "a"], TokenCounter(chain_model))
