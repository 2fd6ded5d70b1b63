"""Words for the vocabulary of a chain checkpoint: they look like code, so that prompts and answers do too.

Every word is whitespace followed by something without whitespace. Whitespace therefore belongs to the word after
it, and any sequence of words, in any order, splits into exactly those words again.
"""

from collections.abc import Callable
from itertools import count
from random import Random

import numpy as np

_VERBS = [
    "read", "write", "load", "store", "find", "make", "open", "close", "parse", "build", "merge", "split",
    "fetch", "send", "copy", "move", "sort", "push", "pop", "get", "set", "add", "drop", "scan", "emit",
    "bind", "wrap", "join", "check", "apply", "reset", "start", "stop",
]  # fmt: skip
_NOUNS = [
    "node", "index", "buffer", "cache", "token", "page", "block", "frame", "queue", "stack", "graph",
    "table", "field", "value", "entry", "record", "batch", "layer", "mask", "offset", "length", "count",
    "limit", "window", "stream", "packet", "header", "footer", "cursor", "prefix", "suffix", "symbol",
    "path", "file", "line", "word", "text", "chunk", "slot", "lock", "task", "event", "state", "shape",
    "scale", "bias", "weight", "sample", "score", "bound", "range",
]  # fmt: skip
_OPENERS = [
    "if", "for", "while", "return", "with", "assert", "yield", "await", "raise", "import", "from", "del",
    "pass", "try", "else", "elif", "def", "class",
]  # fmt: skip
_ENDINGS = ("", "", "", "", "()", ",", ":", ".id", "[i]", "[0]", "()", ";")
_INDENTS = ("\n", "\n    ", "\n    ", "\n        ", "\n            ")

_TRIES = 4  # draws of a name before it gets a number

LINE_EVERY = 8
"""About one word in so many begins a new line."""


def make_words(amount: int, rng: np.random.Generator) -> list[str]:
    """`amount` different words in the order in which a chain walks them."""
    draw = Random(int(rng.integers(2**63)))  # single draws cost a tenth of NumPy's
    words: list[str] = []
    seen: set[str] = set()

    def take(word: str) -> bool:
        if word in seen:
            return False
        seen.add(word)
        words.append(word)
        return True

    def name(attempt: int) -> str:
        noun = draw.choice(_NOUNS)
        other = draw.choice(_NOUNS)
        verb = draw.choice(_VERBS)
        if attempt >= _TRIES:
            return f"{noun}.{verb}_{len(words)}"
        return draw.choice((noun, f"{verb}_{noun}", f"{noun}_{other}", f"{noun}.{verb}"))

    openers = [f"{indent}{word}" for indent in dict.fromkeys(_INDENTS) for word in _OPENERS]
    draw.shuffle(openers)
    left_in_line = 0
    while len(words) < amount:
        if left_in_line == 0:
            if openers and draw.random() < 0.5:
                take(openers.pop())
            else:
                _take_first(take, lambda attempt: f"{draw.choice(_INDENTS)}{name(attempt)}")
            left_in_line = draw.randrange(LINE_EVERY // 2, LINE_EVERY + LINE_EVERY // 2)
        else:
            _take_first(take, lambda attempt: f" {name(attempt)}{draw.choice(_ENDINGS)}")
            left_in_line -= 1
    return words


def _take_first(take: Callable[[str], bool], candidate: Callable[[int], str]) -> None:
    """Take the first candidate that is new; after a few attempts they carry a number, so that one is."""
    for attempt in count():
        if take(candidate(attempt)):
            return
