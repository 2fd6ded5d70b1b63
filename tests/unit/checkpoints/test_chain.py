"""A chain checkpoint's greedy text is known in advance, and its logprobs show a wrong cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sartor_agents.checkpoints import ChainFacts, CheckpointNotFoundError, InvalidRequestError, make
from sartor_agents.checkpoints.chain import make_chain
from sartor_agents.checkpoints.tokenizer import EOS, FIRST_WORD


def load(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_generation_walks_the_chain(chain_dir: Path, dtype: torch.dtype) -> None:
    facts, tokenizer = ChainFacts.load(chain_dir), AutoTokenizer.from_pretrained(chain_dir)
    start = facts.first_word + 17
    prompt = tokenizer.decode([start - 40, 9, start])
    ids = tokenizer(prompt, return_tensors="pt")
    generated = load(chain_dir, dtype).generate(**ids, max_new_tokens=60, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert generated.tolist() == facts.walk(start, 60)
    assert tokenizer.decode(generated) == tokenizer.decode(facts.walk(start, 60))


def test_every_token_is_followed_by_its_successor_in_any_context(chain_dir: Path) -> None:
    facts = ChainFacts.load(chain_dir)
    order = np.random.default_rng(3).permutation(len(facts.successor))
    with torch.inference_mode():
        logits = load(chain_dir)(torch.from_numpy(order[None])).logits[0]
    best = logits.topk(2)
    assert best.indices[:, 0].tolist() == facts.successor[order].tolist()
    assert float((best.values[:, 0] - best.values[:, 1]).min()) > 0.1


def test_a_corrupted_cache_entry_changes_logprobs(chain_dir: Path) -> None:
    facts, model = ChainFacts.load(chain_dir), load(chain_dir)
    tokens = torch.tensor([[facts.first_word, *facts.walk(facts.first_word, 95)]])

    def logprobs(corrupt: bool) -> torch.Tensor:
        with torch.inference_mode():
            cache = model(tokens[:, :64], use_cache=True).past_key_values
            if corrupt:
                layer = cache.layers[0]
                layer.values[:, :, 16:32] = layer.values[:, :, 32:48].clone()
            return model(tokens[:, 64:], past_key_values=cache).logits[0].log_softmax(-1).max(-1).values

    assert torch.equal(logprobs(False), logprobs(False))
    moved = (logprobs(True) - logprobs(False)).abs()
    assert float(moved.max()) > 1e-3


def test_words_form_one_cycle_and_nothing_else_is_ever_written() -> None:
    facts = make_chain(700, np.random.default_rng(0))
    assert facts.successor.min() == FIRST_WORD, "no special token and no byte follows anything"
    assert sorted(facts.walk(FIRST_WORD, len(facts.words))) == list(facts.words)


def test_end_of_sequence_comes_when_it_was_asked_for(tmp_path: Path) -> None:
    folder = make("chain", "llama", "tiny", 0, tmp_path / "c", eos_every=20).path
    facts = ChainFacts.load(folder)
    walk = facts.walk(FIRST_WORD, 20)
    assert walk.index(EOS) == 19 and facts.eos_every == 20
    model = load(folder)
    generated = model.generate(torch.tensor([[FIRST_WORD]]), max_new_tokens=50, do_sample=False)[0, 1:]
    assert generated.tolist() == walk, "generation ends there"


def test_no_chain_without_facts(random_dir: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no chain checkpoint"):
        ChainFacts.load(random_dir)


@pytest.mark.parametrize(("vocab", "every"), [(200, None), (512, 1), (512, 10_000)])
def test_impossible_chains_are_refused(vocab: int, every: int | None) -> None:
    with pytest.raises(InvalidRequestError):
        make_chain(vocab, np.random.default_rng(0), eos_every=every)
