"""What is known in advance about the text of a chain checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import CheckpointNotFoundError, DamagedCheckpointError, InvalidRequestError
from .tokenizer import EOS, FIRST_WORD

FILE_NAME = "chain.json"


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """The successor of every token under greedy decoding, kept in `chain.json` beside the weights."""

    successor: npt.NDArray[np.int32]
    """[vocab]"""
    first_word: int
    """Words are the tokens first_word … vocab - 1; the others are special tokens and bytes."""
    eos_every: int | None
    """None: end of sequence never comes by itself. Otherwise about every so many words it does."""

    @classmethod
    def load(cls, checkpoint: Path) -> "ChainFacts":
        """The facts of a checkpoint folder; `CheckpointNotFoundError` if it is no chain checkpoint."""
        path = checkpoint / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(np.asarray(content["successor"], dtype=np.int32), int(content["firstWord"]), content["eosEvery"])
        except FileNotFoundError:
            raise CheckpointNotFoundError(
                f"{checkpoint}: no {FILE_NAME}, so this is no chain checkpoint; make one with "
                "`sartor checkpoint make --kind chain`"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(f"{path}: not valid ({error!r}); make the checkpoint again") from error

    def save(self, folder: Path) -> None:
        """Write `chain.json`."""
        content = {
            "firstWord": self.first_word,
            "eosEvery": self.eos_every,
            "successor": [int(token) for token in self.successor],
        }
        path = folder / FILE_NAME
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")

    @property
    def words(self) -> range:
        """All word tokens."""
        return range(self.first_word, len(self.successor))

    def walk(self, token: int, n: int) -> list[int]:
        """The n tokens that greedy decoding gives after `token` (which is not among them)."""
        tokens: list[int] = []
        for _ in range(n):
            token = int(self.successor[token])
            tokens.append(token)
        return tokens


def make_chain(vocab: int, rng: np.random.Generator, *, eos_every: int | None = None) -> ChainFacts:
    """Words walk in the order of their ids as one cycle; any other token leads to a word that the seed chose.

    With `eos_every` each so-many-th word leads to EOS instead, and EOS to the first word.
    """
    words = vocab - FIRST_WORD
    if words < 2:
        raise InvalidRequestError(f"a vocabulary of {vocab} is too small: it needs at least {FIRST_WORD + 2} tokens")
    if eos_every is not None and not 2 <= eos_every <= words:
        raise InvalidRequestError(f"eos_every is {eos_every}; it must be from 2 to {words} (the number of words)")
    successor = np.empty(vocab, dtype=np.int32)
    targets = rng.choice(words, size=min(FIRST_WORD, words), replace=False) + FIRST_WORD
    successor[:FIRST_WORD] = np.resize(targets, FIRST_WORD)
    successor[FIRST_WORD:] = FIRST_WORD + (np.arange(words) + 1) % words
    if eos_every is not None:
        successor[FIRST_WORD + eos_every - 1 :: eos_every] = EOS
        successor[EOS] = FIRST_WORD
    return ChainFacts(successor, FIRST_WORD, eos_every)
