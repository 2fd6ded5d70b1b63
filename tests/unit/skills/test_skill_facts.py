"""Facts that the skills' pages state, checked by running them on small models."""

import copy

import pytest
import torch
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
