"""Token ids to text, as they come, at well under a microsecond a token, never splitting a character.

Byte-level BPE (GPT-2, Llama 3, Qwen) spells every token as bytes, so its text is the concatenation of known pieces
run through an incremental UTF-8 decoder: exactly what decoding all ids at once gives. For other tokenizers a window
of ids is decoded again at each token, and text is released once it no longer ends in an incomplete character.
"""

import codecs
import json
from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

_BROKEN = "\ufffd"


class TextStream(Protocol):
    """One sequence's text: `push` returns what became readable, `finish` what was still held back."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class Detokenizer:
    """Makes text streams over one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token for token, entry in added.items() if entry.special}
        self._pieces: list[bytes] | None = None
        self._visible_pieces: list[bytes] = []
        self._space: str | None = None
        if isinstance(tokenizer.decoder, ByteLevel):
            self._pieces = byte_pieces(tokenizer)
            self._visible_pieces = [
                b"" if token in self._special else piece for token, piece in enumerate(self._pieces)
            ]
        else:
            self._space = _space_mark(tokenizer)

    def stream(self, *, skip_special_tokens: bool = True) -> TextStream:
        if self._pieces is not None:
            return _PieceStream(self._visible_pieces if skip_special_tokens else self._pieces)
        return _WindowStream(self._tokenizer, skip_special_tokens)

    def spell(self, token: int, before: Sequence[int] = ()) -> str:
        """One token as vLLM spells it in logprobs: special tokens too, and with the space it begins with.

        A token that ends inside a character is spelled with the help of `before`, the output tokens ahead of it (the last
        four are looked at): the one that completes the character is spelled as the whole character, one that leaves it
        incomplete as nothing.
        """
        alone = self._alone(token)
        if not alone.endswith(_BROKEN):
            return alone
        for count in range(1, min(4, len(before)) + 1):
            context = before[-count:]
            whole = self._together([*context, token])
            if whole.endswith(_BROKEN):
                continue
            broken = next((i for i, t in enumerate(reversed(context)) if not self._alone(t).endswith(_BROKEN)), count)
            clean = self._together(context[: count - broken])
            same = next((i for i, (a, b) in enumerate(zip(clean, whole, strict=False)) if a != b), len(clean))
            return whole[same:]
        return ""

    def _alone(self, token: int) -> str:
        if self._pieces is not None:
            return self._pieces[token].decode("utf-8", "replace") if token < len(self._pieces) else ""
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        if self._space is None:
            return text
        # A decoder strips the space that begins a text; the vocabulary still has it.
        piece = self._tokenizer.id_to_token(token) or ""
        spaces = len(piece) - len(piece.lstrip(self._space))
        return " " * (spaces - (len(text) - len(text.lstrip(" ")))) + text

    def _together(self, tokens: Sequence[int]) -> str:
        if self._pieces is None:
            return self.decode(tokens, skip_special_tokens=False)
        return b"".join(self._pieces[t] for t in tokens if t < len(self._pieces)).decode("utf-8", "replace")

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)


class _PieceStream:
    __slots__ = ("_decode", "_pieces")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token: int) -> str:
        # A model's head may be padded beyond its tokenizer; such an id has no text.
        return self._decode(self._pieces[token]) if token < len(self._pieces) else ""

    def finish(self) -> str:
        return self._decode(b"", True)


class _WindowStream:
    """Decodes the ids since the last safe cut again; what came out before the newest ids is subtracted.

    The method of `transformers`' TextStreamer and vLLM's slow path: some decoders treat the first token of a text
    differently, so a window always starts one released token early.
    """

    __slots__ = ("_ids", "_read", "_shown", "_skip", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._read = 0  # ids of the window whose text has been released
        self._shown = ""  # that text

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)
        if text.endswith(_BROKEN) or len(text) <= len(self._shown):
            return ""
        delta = text[len(self._shown) :]
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        self._shown = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)
        return delta

    def finish(self) -> str:
        text = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip)
        delta, self._shown = text[len(self._shown) :], text
        return delta


class StopStrings:
    """Finds stop strings in a growing text and holds back only what may still become one."""

    __slots__ = ("_include", "_pending", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._pending = ""
        self.matched: str | None = None

    def push(self, text: str, *, armed: bool = True) -> str:
        """The text that may be shown now. After a match `matched` is set and the text ends there.

        While `armed` is false (before min_tokens) nothing is matched or held back.
        """
        if not armed:
            self._pending = ""
            return text
        text = self._pending + text
        hits = [(at, i) for i, stop in enumerate(self._stops) if (at := text.find(stop)) >= 0]
        if hits:
            at, which = min(hits)
            self.matched = self._stops[which]
            self._pending = ""
            return text[: at + len(self.matched)] if self._include else text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when generation ended for another reason."""
        text, self._pending = self._pending, ""
        return text


def _space_mark(tokenizer: Tokenizer) -> str | None:
    """What stands for a space at the beginning of a piece, with SentencePiece's pre-tokenizer; else None."""
    pre: dict[str, Any] = json.loads(tokenizer.to_str()).get("pre_tokenizer") or {}
    parts: list[dict[str, Any]] = pre.get("pretokenizers", [pre])
    return next((part.get("replacement", "▁") for part in parts if part.get("type") == "Metaspace"), None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest proper prefix of `stop` that `text` ends with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def byte_pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token id of a byte-level tokenizer; ids without a token are empty."""
    table = _byte_of_character()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    pieces: list[bytes] = []
    for token in range(size):
        spelling = tokenizer.id_to_token(token) or ""
        try:
            pieces.append(bytes([table[character] for character in spelling]))
        except KeyError:  # an added token is spelled as itself
            pieces.append(spelling.encode())
    return pieces


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable alphabet for the 256 byte values (Radford et al. 2019, `bytes_to_unicode`), inverted."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    table = {chr(value): value for value in printable}
    for offset, value in enumerate(v for v in range(256) if v not in printable):
        table[chr(256 + offset)] = value
    return table
