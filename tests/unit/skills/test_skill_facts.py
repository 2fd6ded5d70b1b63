"""Facts that the skills' pages state, checked by running them on small models."""

import copy
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, OlmoHybridConfig

from sartor_agents.checkpoints import tokenizer as _tokenizer  # noqa: F401 - the project's own tokenizer must import


@pytest.fixture(scope="module")
def hybrid() -> torch.nn.Module:
    torch.manual_seed(0)
    config = OlmoHybridConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _logits(model: torch.nn.Module, ids: torch.Tensor, cache: object | None = None) -> tuple[torch.Tensor, object]:
    with torch.no_grad():
        out = model(ids, past_key_values=cache, use_cache=True)
    return out.logits, out.past_key_values


def test_hybrid_prefix_cache_a_restored_snapshot_gives_the_full_forward(hybrid: torch.nn.Module) -> None:
    ids = torch.randint(1, 64, (1, 24), generator=torch.Generator().manual_seed(1))
    whole, _ = _logits(hybrid, ids)
    _, cache = _logits(hybrid, ids[:, :16])
    snapshot = copy.deepcopy(cache)
    _logits(hybrid, ids[:, 16:20] + 1, cache)  # another request goes on from the prefix, and changes the live cache
    rest, _ = _logits(hybrid, ids[:, 16:], snapshot)
    torch.testing.assert_close(rest, whole[:, 16:], atol=1e-4, rtol=1e-4)
    spoilt, _ = _logits(hybrid, ids[:, 16:], cache)
    assert (spoilt - whole[:, 16:]).abs().max() > 1e-2, "a cache that another request advanced is no prefix any more"


@pytest.mark.parametrize("lost", ["conv_states", "recurrent_states"])
def test_hybrid_prefix_cache_keys_and_values_alone_give_other_text_and_no_error(
    hybrid: torch.nn.Module, lost: str
) -> None:
    ids = torch.randint(1, 64, (1, 24), generator=torch.Generator().manual_seed(1))
    whole, _ = _logits(hybrid, ids)
    _, cache = _logits(hybrid, ids[:, :16])
    for layer in cache.layers:  # type: ignore[attr-defined]
        for state in getattr(layer, lost, {}).values():
            state.zero_()
    rest, _ = _logits(hybrid, ids[:, 16:], cache)
    assert (rest - whole[:, 16:]).abs().max() > 1e-3


def test_diffusion_reuse_a_causal_prefix_is_the_same_at_every_step_and_a_bidirectional_one_is_not() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval() for _ in range(3)]
    text, first, second = torch.randn(1, 5, 16), torch.randn(1, 8, 16), torch.randn(1, 8, 16)

    def prefix(image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = torch.cat((text, image), dim=1)
        with torch.no_grad():
            for layer in layers:
                hidden = layer(hidden, src_mask=mask)
        return hidden[:, :5]

    blocked = torch.zeros(13, 13)
    blocked[:5] = torch.triu(torch.full((13, 13), float("-inf")), diagonal=1)[:5]  # text sees text before it alone
    torch.testing.assert_close(prefix(first, blocked), prefix(second, blocked))
    assert (prefix(first, None) - prefix(second, None)).abs().max() > 1e-3


ANSWERS = [
    json.dumps({"name": name, "identifier": 10 * n, "description": f"a {kind} of {name}", "tags": [kind, "new"]})
    for n, (name, kind) in enumerate(
        [("bolt", "part"), ("nut", "part"), ("lathe", "machine"), ("drill", "machine")] * 8
    )
]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """A byte-level BPE, trained on answers of one schema."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ANSWERS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _after_dropping(bpe: Tokenizer, before: str, run: str, dropped: int) -> list[int]:
    """The tokens when the last `dropped` of those before the run are tokenised together with it."""
    encoded = bpe.encode(before)
    kept = len(encoded.ids) - dropped
    return encoded.ids[:kept] + bpe.encode(before[encoded.offsets[kept][0] :] + run).ids if dropped else (
        encoded.ids + bpe.encode(run).ids
    )  # fmt: skip


def _of_the_last_piece(bpe: Tokenizer, before: str) -> int:
    """Tokens of the last piece into which the tokenizer cuts a text before it merges anything."""
    start = bpe.pre_tokenizer.pre_tokenize_str(before)[-1][1][0]
    return sum(begin >= start for begin, _ in bpe.encode(before).offsets)


def test_grammar_jump_ahead_the_tokens_of_a_border_are_mended_by_tokenising_its_last_piece_anew(
    bpe: Tokenizer,
) -> None:
    text = ANSWERS[2]
    whole = bpe.encode(text).ids
    cuts = range(1, len(text) - 1)
    kept = [cut for cut in cuts if _after_dropping(bpe, text[:cut], text[cut:], 0) == whole]
    one = [cut for cut in cuts if _after_dropping(bpe, text[:cut], text[cut:], 1) == whole]
    piece = [
        cut for cut in cuts
        if _after_dropping(bpe, text[:cut], text[cut:], _of_the_last_piece(bpe, text[:cut])) == whole
    ]  # fmt: skip
    assert len(kept) < len(cuts), "the tokens of the pieces are not those of the whole"
    assert set(kept) < set(one), "one token less mends some borders"
    assert len(one) < len(cuts), "but not all"
    assert len(piece) == len(cuts), "the last piece does"
