"""A stack without weights: blocks imported as a package of their own, a decoder that is a pure function, a small
tokenizer.

The decoder keeps what it was told in pages and answers from there, so a page given to two sequences, a position written
twice or a draft that was wrongly kept shows as another text.
"""

import hashlib
import importlib
import itertools
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sartor_skills import blocks

VOCAB = 512
EOS = 2
_numbers = itertools.count()
_stacks: dict[tuple[tuple[str, Any], ...], "Stack"] = {}


class Stack:
    """The blocks under one set of assumptions, as a composed stack would have them."""

    def __init__(self, **assumptions: Any) -> None:
        self.name = f"toy_stack_{next(_numbers)}"
        package = types.ModuleType(self.name)
        package.__path__ = list(blocks.__path__)
        sys.modules[self.name] = package
        spec = importlib.import_module(f"{self.name}.spec")
        for name, value in {"VOCAB_SIZE": VOCAB, "EOS_TOKEN_IDS": (EOS,), **assumptions}.items():
            assert hasattr(spec, name), name
            setattr(spec, name, value)
        self.spec = spec

    def __getattr__(self, module: str) -> Any:
        return importlib.import_module(f"{self.name}.{module}")


def stack(**assumptions: Any) -> Stack:
    """Blocks with these assumptions; imported once per set of them."""
    key = tuple(sorted(assumptions.items()))
    if key not in _stacks:
        _stacks[key] = Stack(**assumptions)
    return _stacks[key]


def digest(context: Sequence[int]) -> int:
    data = np.asarray(context, dtype=np.int32).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def scattered(context: Sequence[int]) -> int:
    """Any token but EOS, decided by the whole context."""
    return 3 + digest(context) % (VOCAB - 3)


def counting(context: Sequence[int]) -> int:
    """The next letter of the alphabet's 26, decided by the last token: a text known in advance."""
    return 10 + (int(context[-1]) - 10 + 1) % 26


class ToyDecoder:
    """Implements the decoder protocol; `rule` maps a context to the next token."""

    arithmetic = "scattering"

    def __init__(self, made: Stack, rule: Callable[[Sequence[int]], int] = scattered) -> None:
        self.spec = made.spec
        self.rule = rule
        self.pages = made.spec.KV_PAGES
        self.room: int | None = None  # rows that a step may have before the device has no memory for it
        self.broken: Callable[[Sequence[int]], bool] = lambda context: False  # contexts whose logits are not numbers
        self.too_large = made.decoder_errors.StepMemoryError
        self.cache = np.full(made.spec.KV_PAGES * made.spec.PAGE_TOKENS, -1, dtype=np.int32)
        self.steps: list[list[tuple[int, int, int]]] = []  # (start, rows, outputs) of every segment
        self.fail_at: int | None = None
        self.before: Callable[[], None] = lambda: None
        self.closed = False
        self.launched: list[Launched] = []  # begun and not waited for, in their order
        self.chosen: list[int] = []  # what the last step made of its segments with outputs
        self.events: list[str] = []
        self.accept = made.decoder.accept
        self.sampling = made.sampling

    def forward(self, segments: Sequence[Any]) -> tuple[np.ndarray, np.ndarray | None]:
        self.before()
        if self.fail_at is not None and len(self.steps) >= self.fail_at:
            raise RuntimeError("planted failure")
        self.check_room(segments)
        self.steps.append([(s.start, len(s.tokens), s.outputs) for s in segments])
        assert sum(len(s.tokens) for s in segments) <= self.spec.STEP_TOKENS
        size = self.spec.PAGE_TOKENS
        owned = [int(page) for s in segments for page in s.pages]
        if self.spec.PREFIX_REUSE:  # what several read, nobody writes
            written = [int(page) for s in segments for page in s.pages[s.start // size :]]
            assert all(owned.count(page) == 1 for page in written), "a page is written that another sequence has"
        else:
            assert len(owned) == len(set(owned)), "a page belongs to two sequences"
        choices: list[int] = []
        rows: list[np.ndarray] = []
        for segment in segments:
            assert segment.pages.dtype == np.int32
            end = segment.start + len(segment.tokens)
            slots = (segment.pages[:, None] * size + np.arange(size)).ravel()
            assert end <= len(slots), "a position without a page"
            self.cache[slots[segment.start : end]] = segment.tokens
            context = self.cache[slots[:end]]
            assert (context >= 0).all(), "a position that was never written"
            for place, row in enumerate(range(end - segment.outputs, end)):
                known = context[: row + 1]
                best = self.rule(known)
                choices.append(-1 if self.broken(known) else self.drawn(segment, place, known, best))
                if segment.logits:
                    rows.append(toy_logits(known, best, self.spec.VOCAB_SIZE))
                    rows[-1][:] = np.nan if self.broken(known) else rows[-1]
        logits = np.stack(rows) if rows else None
        return np.array(choices, dtype=np.int32), logits

    def drawn(self, segment: Any, place: int, known: Any, best: int) -> int:
        """What a device makes of an output row by itself."""
        if segment.draw is None:
            return best
        logits = toy_logits(known, best, self.spec.VOCAB_SIZE)
        return self.sampling.draw(
            logits, segment.draw, self.sampling.uniform(segment.draw.seed, segment.draw.index + place)
        )

    def check_room(self, segments: Sequence[Any]) -> None:
        if self.room is not None and sum(len(s.tokens) for s in segments) > self.room:
            raise self.too_large("planted shortage.")

    def launch(self, segments: Sequence[Any]) -> "Launched":
        """What a device would do: refuse at once what it refuses, take copies, and compute when it is waited for."""
        self.check_room(segments)
        assert len(self.launched) < 2, "two steps are on their way already"
        if self.launched:
            ahead = self.launched[0].segments
            assert not any(s.logits for s in ahead), "logits are overwritten before they were fetched"
        for segment in segments:
            assert segment.follows < 0 or (self.launched and len(segment.tokens) == 1), "a row follows nothing"
        self.launched.append(Launched(self, [s._replace(pages=s.pages.copy()) for s in segments]))
        self.events.append("launch")
        return self.launched[-1]

    def close(self) -> None:
        self.closed = True


class Launched:
    """A step on its way."""

    def __init__(self, decoder: ToyDecoder, segments: Sequence[Any]) -> None:
        self.decoder, self.segments = decoder, segments

    def wait(self) -> Any:
        decoder = self.decoder
        assert decoder.launched[0] is self, "waited for before the step ahead of it"
        decoder.launched.pop(0)
        decoder.events.append("wait")
        segments = [
            s if s.follows < 0 else s._replace(tokens=[max(0, decoder.chosen[s.follows])]) for s in self.segments
        ]
        outcome = decoder.accept(segments, *decoder.forward(segments))
        decoder.chosen = outcome.chosen
        return outcome


def toy_logits(context: Sequence[int], best: int, vocabulary: int) -> np.ndarray:
    logits = np.random.default_rng(digest(context)).normal(0, 2, vocabulary).astype(np.float32)
    logits[best] = logits.max() + 1
    return logits


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with 512 entries; ids 0 to 2 are special, and a BOS (1) is put before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(t, special=True) for t in ("<pad>", "<bos>", "<eos>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["the quick brown fox jumps over the lazy dog", "def function(self): return None", "größe naïve 日本語 🙂"]
    tokenizer.train_from_iterator(words * 4 + [f"word{i} other{i * 7}" for i in range(80)], trainer)
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return tokenizer


def plain(context: list[int], rule: Callable[[Sequence[int]], int], count: int) -> list[int]:
    """What greedy decoding must give, by definition."""
    tokens = list(context)
    for _ in range(count):
        tokens.append(rule(tokens))
        if tokens[-1] == EOS:
            break
    return tokens[len(context) :]
