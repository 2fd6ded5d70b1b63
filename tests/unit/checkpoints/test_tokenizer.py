"""The made tokenizer: arbitrary text round-trips, words re-tokenise exactly, chats render."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from sartor_agents.checkpoints import Architecture, ChainFacts
from sartor_agents.checkpoints.tokenizer import FIRST_WORD, SPECIAL_TOKENS, build_tokenizer, byte_characters
from sartor_agents.checkpoints.words import LINE_EVERY, make_words

WORDS = make_words(800, np.random.default_rng(0))
TOKENIZER = build_tokenizer(WORDS, Architecture.QWEN3)


def ids_of(text: str, tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_arbitrary_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text), skip_special_tokens=False) == text


@given(st.lists(st.integers(FIRST_WORD, FIRST_WORD + len(WORDS) - 1), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_sequence_of_words_is_tokenised_to_itself(tokens: list[int]) -> None:
    assert ids_of(TOKENIZER.decode(tokens)) == tokens


def test_unknown_text_falls_to_bytes() -> None:
    text = "naïve 🙂"
    assert ids_of(text) == [len(SPECIAL_TOKENS) + byte for byte in text.encode()]


def test_the_byte_table_is_the_library_s() -> None:
    assert set(byte_characters()) == set(ByteLevel.alphabet())


def test_words_are_different_and_have_lines() -> None:
    assert len(set(WORDS)) == len(WORDS)
    lines = sum(word.startswith("\n") for word in WORDS)
    assert len(WORDS) / (2 * LINE_EVERY) < lines < 2 * len(WORDS) / LINE_EVERY
    assert all(word[0].isspace() and not word[-1].isspace() for word in WORDS)


def test_there_are_always_more_words() -> None:
    assert len(set(make_words(130_000, np.random.default_rng(1)))) == 130_000


@pytest.mark.parametrize("with_generation", [True, False])
def test_chats_render_and_their_content_keeps_its_tokens(chain_dir: Path, with_generation: bool) -> None:
    tokenizer, facts = AutoTokenizer.from_pretrained(chain_dir), ChainFacts.load(chain_dir)
    words = facts.walk(facts.first_word, 12)
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": tokenizer.decode(words)}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=with_generation, return_dict=False)
    user, close = SPECIAL_TOKENS.index("<|user|>"), SPECIAL_TOKENS.index("<|close|>")
    begin = ids.index(user) + 1
    assert ids[begin : begin + 13] == [*words, close]
    assert (ids[-1] == SPECIAL_TOKENS.index("<|assistant|>")) is with_generation


def test_begin_of_sequence_is_llama_s_only(chain_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chain_dir)
    llama = chain_dir.name == "llama"
    assert (tokenizer.encode("a")[0] == 1) is llama
    assert (tokenizer.bos_token_id == 1) is llama
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
