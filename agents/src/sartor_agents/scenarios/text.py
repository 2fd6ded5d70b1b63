"""Where prompts come from: the known text of a chain checkpoint, or documents.

Every prompt begins with words drawn for it alone, so that no prefix repeats and neither an exact-prompt cache nor a prefix
cache can help, unless a scenario is about that.
"""

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sartor_agents.checkpoints import ChainFacts, CheckpointError
from sartor_agents.measurement.tokens import TokenCounter

from .base import ScenarioError
from .trace import read_trace

_FEWEST_WORDS = 64


class TextSource(Protocol):
    """Token ids for prompts and files. Prompts are sent as text; `ids_of` says what the model makes of it."""

    canonical: bool

    def passage(self, rng: np.random.Generator, tokens: int) -> list[int]:
        """`tokens` ids of text that no other draw gives."""
        ...

    def other(self, rng: np.random.Generator, unlike: int) -> int:
        """A token that may stand where `unlike` stands, and is another."""
        ...

    def starts_line(self, token: int) -> bool:
        """Whether the token begins a new line."""
        ...

    def answer(self, prompt_ids: Sequence[int], tokens: int) -> list[int] | None:
        """The greedy answer where it is known in advance, else None."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def ids_of(self, text: str) -> tuple[int, ...]:
        """The ids that a server gives the model for a completion prompt (special tokens as the tokenizer adds them)."""
        ...


class ChainText:
    """Words of a chain checkpoint in random order; greedy answers are walks along the chain."""

    canonical = True

    def __init__(self, facts: ChainFacts, counter: TokenCounter) -> None:
        if facts.eos_every is not None:
            raise ScenarioError(
                "this chain checkpoint ends its answers by itself (eosEvery); lengths could not be fixed: make one without"
            )
        self._facts = facts
        self._counter = counter
        self._words = np.asarray(facts.words)
        if len(self._words) < _FEWEST_WORDS:
            raise ScenarioError(
                f"the checkpoint has {len(self._words)} words; a workload needs {_FEWEST_WORDS} or more"
            )
        self._line = frozenset(word for word in facts.words if "\n" in counter.decode([word]))

    def passage(self, rng: np.random.Generator, tokens: int) -> list[int]:
        return self._words[rng.integers(len(self._words), size=tokens)].tolist()

    def other(self, rng: np.random.Generator, unlike: int) -> int:
        word = unlike
        while word == unlike:
            word = int(self._words[rng.integers(len(self._words))])
        return word

    def starts_line(self, token: int) -> bool:
        return token in self._line

    def answer(self, prompt_ids: Sequence[int], tokens: int) -> list[int]:
        return self._facts.walk(prompt_ids[-1], tokens)

    def decode(self, ids: Sequence[int]) -> str:
        return self._counter.decode(ids)

    def ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._counter.tokenizer.encode(text).ids)


class DocumentText:
    """Passages of documents: the owner's requests, or the Python standard library, which every machine has."""

    canonical = False

    def __init__(self, documents: Sequence[str], counter: TokenCounter) -> None:
        self._counter = counter
        self._tokens = [ids for document in documents if len(ids := counter.encode(document)) >= 8]
        if not self._tokens:
            raise ScenarioError("no document has 8 tokens or more; the trace must hold prompts")
        self._weights = np.asarray([len(ids) for ids in self._tokens], dtype=np.float64)
        self._weights /= self._weights.sum()

    def passage(self, rng: np.random.Generator, tokens: int) -> list[int]:
        unique = self._counter.encode(f"# {rng.bytes(8).hex()}\n")[:tokens]
        ids = list(unique)
        while len(ids) < tokens:
            document = self._tokens[int(rng.choice(len(self._tokens), p=self._weights))]
            start = int(rng.integers(0, max(1, len(document) - (tokens - len(ids)))))
            ids += document[start : start + tokens - len(ids)]
        return ids

    def other(self, rng: np.random.Generator, unlike: int) -> int:
        for _ in range(100):
            document = self._tokens[int(rng.integers(len(self._tokens)))]
            token = document[int(rng.integers(len(document)))]
            if token != unlike:
                return token
        raise ScenarioError("the documents repeat one token; a prediction cannot be made wrong with them")

    def starts_line(self, token: int) -> bool:
        return "\n" in self._counter.decode([token])

    def answer(self, prompt_ids: Sequence[int], tokens: int) -> None:
        return None

    def decode(self, ids: Sequence[int]) -> str:
        return self._counter.decode(ids)

    def ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._counter.tokenizer.encode(text).ids)


def open_text(model_dir: Path, counter: TokenCounter, *, trace: Path | None = None) -> TextSource:
    """The text of a model: the owner's trace if there is one, else its chain, else standard library sources."""
    if trace is not None:
        return DocumentText([request.text for request in read_trace(trace)], counter)
    if (model_dir / "chain.json").is_file():
        try:
            return ChainText(ChainFacts.load(model_dir), counter)
        except CheckpointError as error:
            raise ScenarioError(str(error)) from None
    return DocumentText(_standard_library(), counter)


def _standard_library(files: int = 60, characters: int = 40_000) -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [
        path.read_text(encoding="utf-8", errors="ignore")[:characters] for path in sorted(root.glob("*.py"))[:files]
    ]
    if not texts:
        raise ScenarioError(f"no Python sources in {root} to make prompts from; give a trace")
    return texts
