"""The reference: teacher forcing says exactly what greedy decoding would have written."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sartor_agents.checkpoints import ChainFacts, CheckpointNotFoundError, make
from sartor_agents.judge.logprobs import from_reading, rounded_logits
from sartor_agents.judge.reference import Reference
from sartor_agents.judge.reference_check import ReferenceCheck


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("random", "qwen3", "tiny", 0, tmp_path_factory.mktemp("reference") / "random").path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("chain", "llama", "tiny", 0, tmp_path_factory.mktemp("reference") / "chain").path


PROMPT = [300, 12, 45, 400, 33, 301]


def test_its_own_text_agrees_everywhere(random_model: Path) -> None:
    reference = Reference(random_model, threads=1)
    written = reference.generate(PROMPT, 40)
    check = reference.check(PROMPT, written)
    assert check.exact(tolerance=1e-4)
    assert check.choices == tuple(written) or check.agreement > 0.9


def test_generate_is_what_transformers_generates(random_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    theirs = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, min_new_tokens=20, do_sample=False)
    ours = Reference(random_model).generate(PROMPT, 20)
    if 2 not in ours:  # `min_new_tokens` forbids the end of sequence, the reference does not
        assert theirs[0, len(PROMPT) :].tolist() == ours


def test_a_wrong_token_is_found_where_it_is(chain: Path) -> None:
    reference, facts = Reference(chain), ChainFacts.load(chain)
    right = facts.walk(PROMPT[-1], 30)
    wrong = [*right]
    wrong[11] = facts.walk(right[11], 7)[-1]
    check = reference.check(PROMPT, wrong)
    assert check.divergence == 11
    assert check.agrees[:11] == (True,) * 11
    assert check.choices[11] == right[11]
    assert not check.exact(tolerance=0.5)
    assert check.gaps[11] > 1
    assert reference.check(PROMPT, right).divergence is None


def test_logprobs_and_gaps_are_those_of_the_logits(random_model: Path) -> None:
    answer = [7, 300, 300, 21]
    check = Reference(random_model).check(PROMPT, answer)
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *answer]])).logits[0, len(PROMPT) - 1 : -1]
    expected = logits.log_softmax(-1)[range(4), answer]
    assert check.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    for place, token in enumerate(answer):
        best = logits[place].topk(2).values
        other = best[1] if check.agrees[place] else logits[place, token]
        assert check.gaps[place] == pytest.approx(float(best[0] - other), abs=1e-4)


def test_a_tie_is_no_error(random_model: Path) -> None:
    reference = Reference(random_model)
    first = reference.check(PROMPT, reference.generate(PROMPT, 1))
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    with torch.inference_mode():
        second = int(model(torch.tensor([PROMPT])).logits[0, -1].topk(2).indices[1])
    check = reference.check(PROMPT, [second])
    assert check.gaps[0] == pytest.approx(first.gaps[0], abs=1e-5)
    assert check.exact(tolerance=first.gaps[0] + 1e-3)
    assert not check.exact(tolerance=first.gaps[0] - check.steps[0] - 1e-3)


def test_a_step_is_the_distance_to_the_next_bfloat16(random_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    with torch.inference_mode():
        best = model(torch.tensor([PROMPT])).logits[0, -1].max()
    here = best.bfloat16()
    following = (here.view(torch.int16) + 1).view(torch.bfloat16)
    assert Reference(random_model).check(PROMPT, [7]).steps == (float(following) - float(here),)


def test_empty_answers_agree_and_empty_prompts_are_refused(random_model: Path) -> None:
    reference = Reference(random_model)
    assert reference.check(PROMPT, []).agreement == 1.0
    with pytest.raises(ValueError, match="prompt has no tokens"):
        reference.check([], [1])


def test_results_are_cached_by_content(
    chain: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference(chain, cache_dir=tmp_path)
    fresh = reference.check(PROMPT, [300, 301])
    passes: list[int] = []
    monkeypatch.setattr(Reference, "_model", lambda _: passes.append(1))
    assert Reference(chain, cache_dir=tmp_path).check(PROMPT, [300, 301]) == fresh
    assert passes == [], "no weights were needed"
    monkeypatch.undo()
    assert Reference(random_model, cache_dir=tmp_path).check(PROMPT, [300, 301]) != fresh, "other weights"
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")
    assert Reference(chain, cache_dir=tmp_path).check(PROMPT, [300, 301]) == fresh, "damaged entries are made again"


def test_a_missing_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        Reference(tmp_path)


def test_a_shorter_answer_is_part_of_a_longer_one(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, answer = Reference(chain), [300, 301, 7, 12]
    whole = reference.check(PROMPT, answer)
    monkeypatch.setattr(Reference, "_model", lambda *_: pytest.fail("it is known"))
    assert reference.check(PROMPT, answer[:2]) == whole.first(2)
    assert whole.first(2).margins == whole.margins[:2]


def test_alternatives_are_the_best_tokens_in_order(random_model: Path) -> None:
    check = Reference(random_model).check(PROMPT, [7, 300])
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([[*PROMPT, 7]])).logits[0, -2:].log_softmax(-1).topk(16)
    assert check.top == tuple(tuple(row) for row in expected.indices.tolist())
    for mine, theirs in zip(check.top_logprobs, expected.values.tolist(), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert check.choices == tuple(row[0] for row in check.top)
    assert check.margins[0] == pytest.approx(check.top_logprobs[0][0] - check.top_logprobs[0][1])


def test_rounding_moves_the_numbers_a_little(random_model: Path) -> None:
    reference, answer = Reference(random_model), [7, 300, 300, 21] * 8
    exact, rounded = reference.check(PROMPT, answer), reference.rounded(PROMPT, answer, layers=True, logits=True)
    finer = reference.rounded(PROMPT, answer, layers=True, logits=False)
    head = reference.rounded(PROMPT, answer, layers=False, logits=True)

    def distance(other: ReferenceCheck) -> float:
        return sum(abs(a - b) for a, b in zip(exact.logprobs, other.logprobs, strict=True)) / len(answer)

    products = reference.products(PROMPT, answer)
    assert 1e-5 < distance(products) < distance(finer) < distance(rounded) < 0.2
    assert reference.check(PROMPT, answer) == exact == Reference(random_model).check(PROMPT, answer), "hooks are gone"
    assert rounded_logits(from_reading(rounded)) and rounded_logits(from_reading(head))
    assert not rounded_logits(from_reading(finer))
    assert not rounded_logits(from_reading(exact))
