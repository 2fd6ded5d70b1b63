"""Text as it comes equals text all at once, and no character is ever split."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sartor_agents.checkpoints.shapes import Architecture
from sartor_agents.checkpoints.tokenizer import build_tokenizer

from . import toy

made = toy.stack()
BYTE_LEVEL = toy.make_tokenizer()


def byte_fallback() -> Tokenizer:
    """Llama 2's kind: pieces with ▁ for spaces, and bytes for what has no piece."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{value:02X}>": 3 + value for value in range(256)}
    for piece in ("▁", "a", "b", "ö", "▁a", "ab", "日"):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "a"), ("a", "b")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


FALLBACK = byte_fallback()
WORDS = build_tokenizer(["\n one", " two", " größe"], Architecture.QWEN3)
DETOKENIZERS = {id(t): made.detokenize.Detokenizer(t) for t in (BYTE_LEVEL, FALLBACK, WORDS)}


def streamed(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, list[str]]:
    stream = DETOKENIZERS[id(tokenizer)].stream()
    pieces = [stream.push(token) for token in ids]
    pieces.append(stream.finish())
    return "".join(pieces), pieces


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, toy.VOCAB - 1), max_size=40))
def test_any_ids_byte_level(ids: list[int]) -> None:
    assert streamed(BYTE_LEVEL, ids)[0] == BYTE_LEVEL.decode(ids)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, FALLBACK], ids=["byte-level", "byte-fallback"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_comes_out_whole_and_never_split(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole, pieces = streamed(tokenizer, ids)
    assert whole == tokenizer.decode(ids)
    if tokenizer is BYTE_LEVEL:
        assert whole == text
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


def test_an_id_beyond_the_tokenizer_has_no_text() -> None:
    stream = made.detokenize.Detokenizer(BYTE_LEVEL).stream()
    assert stream.push(100_000) == ""


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    detokenizer = made.detokenize.Detokenizer(BYTE_LEVEL)
    assert detokenizer.stream().push(toy.EOS) == ""
    assert detokenizer.stream(skip_special_tokens=False).push(toy.EOS) == "<eos>"
    assert detokenizer.spell(toy.EOS) == "<eos>"


def one_by_one(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = DETOKENIZERS[id(tokenizer)]
    return [detokenizer.spell(token, ids[max(0, i - 4) : i]) for i, token in enumerate(ids)]


def test_a_token_is_spelled_with_what_completes_its_character() -> None:
    ids = BYTE_LEVEL.encode("日🙂!", add_special_tokens=False).ids
    spelled = one_by_one(BYTE_LEVEL, ids)
    assert [text for text in spelled if text] == ["日", "🙂", "!"]
    assert len(spelled) > 3, "a test of nothing if every character is a token"
    half = ids[spelled.index("🙂")]
    assert DETOKENIZERS[id(BYTE_LEVEL)].spell(half) == "", "half a character alone is nothing"


@pytest.mark.parametrize("tokenizer", [WORDS, FALLBACK], ids=["byte-level", "byte-fallback"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30))
def test_the_spellings_of_a_text_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    """Where no token ends one character and begins another: there vLLM's way of spelling, which this is, loses one."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = "".join(one_by_one(tokenizer, ids))
    if tokenizer is WORDS:
        assert whole == text
    else:  # its decoder strips one leading space, its vocabulary has it
        assert whole.removeprefix(" ") == tokenizer.decode(ids, skip_special_tokens=False)


def test_a_space_that_begins_a_piece_is_spelled() -> None:
    piece = FALLBACK.token_to_id("▁a")
    assert DETOKENIZERS[id(FALLBACK)].spell(piece) == " a"
    assert FALLBACK.decode([piece]) == "a"


def test_an_id_beyond_the_tokenizer_is_spelled_as_nothing() -> None:
    assert [detokenizer.spell(100_000, [100_001]) for detokenizer in DETOKENIZERS.values()] == [""] * 3


def reference_stop(text: str, stops: list[str], include: bool) -> tuple[str, bool]:
    hits = [(text.find(stop), i) for i, stop in enumerate(stops) if stop in text]
    if not hits:
        return text, False
    at, which = min(hits)
    return text[: at + len(stops[which])] if include else text[:at], True


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=3), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_stop_strings_over_any_cut(pieces: list[str], stops: list[str], include: bool) -> None:
    watcher = made.detokenize.StopStrings(stops, include=include)
    shown: list[str] = []
    fed = ""
    for piece in pieces:
        fed += piece
        shown.append(watcher.push(piece))
        if watcher.matched is not None:
            break
    if watcher.matched is None:
        held: Any = fed[len("".join(shown)) :]
        assert held == "" or any(stop.startswith(held) for stop in stops), "only a possible beginning is held back"
        shown.append(watcher.finish())
    expected, stopped = reference_stop(fed, stops, include)
    assert ("".join(shown), watcher.matched is not None) == (expected, stopped)
