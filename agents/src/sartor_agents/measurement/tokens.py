"""Our own token count: what a server says about its tokens is a claim, the text it sent is evidence.

The text is tokenised again with the model's own tokenizer, and each token is dated by the chunk that completed it. Where
the tokenizer is *canonical* for what the model writes (chain checkpoints: every generated sequence re-tokenises to
itself), the count is exact and has to equal `usage`.

Trained byte-pair vocabularies are not one to one: a model may write "a" "b" where its tokenizer reads "ab", write halves of
characters that become replacement signs, or end-of-text tokens that become nothing. There an honest server's text holds
another number of tokens than were generated. What settles it is what both sides know beforehand: the length that the
request fixes. `usage` has to be exactly that (a server that says more is lying, one that says less stopped early), the
text never counts for more than that, and the baseline's text for the same requests shows how many tokens such text reads
back as (`dispute`). Text that is missing is thus never paid for, and an honest server never pays for its tokenizer.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

_TOGETHER = 0.03
_ENOUGH = 8  # answers, before their sum says anything
_FEW = 0.02  # of the answers may part from the baseline's at a tie and end


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

    @property
    def exact(self) -> bool:
        """Whether text reads back as exactly the tokens that were generated."""
        return self.tolerance == 0

    def agrees(self, own: int, claimed: int) -> bool:
        """Whether a count that somebody states agrees with ours."""
        return abs(own - claimed) <= self.tolerance * max(own, claimed)


def capped(arrivals: Sequence[tuple[float, int]], most: int) -> tuple[tuple[float, int], ...]:
    """`arrivals` without the tokens beyond `most`: text past the fixed length counts for nothing."""
    left = most
    kept: list[tuple[float, int]] = []
    for time, tokens in arrivals:
        counted = min(tokens, left)
        kept.append((time, counted))
        left -= counted
    return tuple(kept)


def dispute(counts: Iterable[tuple[int, int, int]], *, tolerance: float) -> str | None:
    """Settle the counts of requests that both arms answered with different text; a sentence when the candidate owes tokens.

    Each entry is (candidate's own count, baseline's own count, tokens that the request fixed). Both arms run one model, so
    their texts read back alike: in all within `_TOGETHER`, and a single text far too short only where the baseline's is.
    """
    mine = theirs = compared = short = 0
    for candidate, baseline, fixed in counts:
        compared += 1
        mine += candidate
        theirs += baseline
        short += candidate < (1 - tolerance) * fixed <= baseline
    if compared >= _ENOUGH and mine < (1 - _TOGETHER) * theirs:
        return (
            f"{compared} answers hold {mine} tokens by our count, the baseline's answers to the same requests {theirs}"
        )
    if short > max(1, _FEW * compared):
        return f"{short} of {compared} answers lack text for the tokens that they claim; the baseline's do not"
    return None
