"""Our own token count: what a server says about its tokens is a claim, the text it sent is evidence.

The text is tokenised again with the model's own tokenizer, and each token is dated by the chunk that completed it. Where
the tokenizer is *canonical* for what the model writes (chain checkpoints: every generated sequence re-tokenises to
itself), the count is exact and has to equal `usage`. Trained byte-pair vocabularies can generate sequences that their own
tokenizer would merge otherwise; there the count may differ by `tolerance`, and both arms are counted alike.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


class TokenizerMissingError(ValueError):
    """The model folder has no usable tokenizer.json."""


class TokenCounter:
    """Counts tokens of text with the tokenizer of `model_dir`."""

    def __init__(self, model_dir: Path, *, tolerance: float = 0.0) -> None:
        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise TokenizerMissingError(f"{path} is missing; the model folder must have a tokenizer.json")
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001  (tokenizers raises bare Exception)
            raise TokenizerMissingError(f"{path} cannot be read: {error}") from None
        self.tolerance = tolerance

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, no special tokens added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens shown."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def arrivals(self, parts: Sequence[tuple[float, str]]) -> tuple[tuple[float, int], ...]:
        """(time, tokens that this part completed) for each part; the numbers add up to `count` of the whole text."""
        if not parts:
            return ()
        text = "".join(part for _, part in parts)
        ends = sorted(end for _, end in self.tokenizer.encode(text, add_special_tokens=False).offsets)
        dated: list[tuple[float, int]] = []
        seen, counted = 0, 0
        for index, (time, part) in enumerate(parts):
            seen += len(part)
            upto = len(ends) if index == len(parts) - 1 else bisect_left(ends, seen + 1)
            dated.append((time, upto - counted))
            counted = upto
        return tuple(dated)

    def agrees(self, own: int, usage: int) -> bool:
        """Whether a server's count agrees with ours."""
        return abs(own - usage) <= self.tolerance * max(own, usage)
