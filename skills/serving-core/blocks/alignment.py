"""Following a known text along a text that is being written: where in the source are we, and how likely does it go on?

The source is a prediction, or the prompt and what was written so far. A pointer names the source token expected next.
While the output agrees the pointer walks along. Where it does not:

- a replaced token: the pointer steps over it; where edits have rather been added tokens so far, it waits instead;
- inserted tokens: the place where the output left the source is remembered, and taken up again when its token
  appears;
- deleted or moved tokens: the longest common suffix of output and source, at least two tokens or one that is unique
  in the source, names the new place; among equals the one nearest to the pointer.

Alignment costs no model step: every written token is compared with the expected one whether or not it was drafted, so
the chances of agreement are known even while nothing is drafted. They are kept apart by how the last tokens went,
because edits come in runs: after agreement more agreement is likely, after a miss it depends on the kind of edit.

The idea of taking drafts from the text at hand is prompt lookup decoding (Saxena, 2023) and "inference with
reference" (Yang et al., arXiv 2304.04487).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

_LONGEST = 16  # tokens of common suffix that are worth comparing
_CANDIDATES = 32  # places with the same two tokens that are looked at, nearest first in the index
_MEMORY = 0.05  # weight of the newest observation in a chance, once there are enough of them
_DOUBT = 1.5  # the prior counts as this many observations

# How sure of the pointer: after a miss, after one agreement, after more.
_MISSED, _RESUMED, _FOLLOWING = 0, 1, 2


class Outlook(NamedTuple):
    """The chance that the first, second and any later token of a draft agrees given that those before did, and how
    many there are."""

    first: float
    second: float
    later: float
    available: int


class Alignment:
    """Aligns one output with one source. `pointer` None: nothing is expected until something matches."""

    def __init__(self, source: Sequence[int], pointer: int | None, *, grows: bool = False) -> None:
        self._source = list(source)
        self._pointer = pointer
        self._grows = grows  # the output is itself part of the source
        self._recent: list[int] = self._source[-_LONGEST:] if grows else []
        self._run = 2 if pointer is not None else 0  # agreements in a row; a given start is trusted
        self._anchor: int | None = None  # where the output left the source
        self._fallback: int | None = None  # the pointer that a jump on thin evidence gave up
        self._missed: int | None = None  # the place of a miss one token ago
        self._added = 0.0  # share of recent misses where the output had a token more, not another
        self._pairs: dict[tuple[int, int], list[int]] = {}  # two tokens -> the places after them
        self._single: dict[int, int] = {}  # token -> the place after it, or -1 when there are several
        self._indexed = 0
        self._index()
        self._chance = [0.3, 0.7, 0.9]
        self._weight = [_DOUBT, _DOUBT, _DOUBT]

    @property
    def outlook(self) -> Outlook:
        state = min(self._run, _FOLLOWING)
        chance = self._chance
        available = len(self._source) - self._pointer if self._pointer is not None else 0
        return Outlook(chance[state], chance[min(state + 1, _FOLLOWING)], chance[_FOLLOWING], max(available, 0))

    def propose(self, width: int) -> list[int]:
        """The next `width` expected tokens, or fewer at the end of the source; none when nothing is expected."""
        if self._pointer is None or width <= 0:
            return []
        return self._source[self._pointer : self._pointer + width]

    def observe(self, tokens: Iterable[int]) -> None:
        """Take note of what was really written."""
        for token in tokens:
            self._observe(token)

    def _observe(self, token: int) -> None:
        source, pointer = self._source, self._pointer
        fallback = self._fallback
        if self._missed is not None:
            self._judge_miss(self._missed, token)
            self._missed = None
        if fallback is not None:
            self._fallback = fallback + 1 if fallback + 1 < len(source) else None
        if pointer is not None and pointer < len(source):
            agrees = source[pointer] == token
            self._learn(agrees)
            self._pointer = pointer + 1
            if agrees:
                self._run += 1
                if self._run > 1:
                    self._fallback = None
            else:
                if self._run > 1:
                    self._anchor = self._missed = pointer
                    if self._added > 0.5:
                        self._pointer, self._fallback = pointer, pointer + 1
                self._run = 0
        self._recent.append(token)
        if len(self._recent) > 2 * _LONGEST:
            del self._recent[:_LONGEST]
        if self._grows:
            source.append(token)
        if self._run == 0:
            if fallback is not None and fallback < len(source) and source[fallback] == token:
                self._pointer, self._run, self._fallback = fallback + 1, 1, None
            else:
                self._seek(token)
        if self._grows:
            self._index()

    def _learn(self, agrees: bool) -> None:
        state = min(self._run, _FOLLOWING)
        weight = self._weight[state] = self._weight[state] + 1.0
        self._chance[state] += (agrees - self._chance[state]) * max(1.0 / weight, _MEMORY)

    def _judge_miss(self, place: int, token: int) -> None:
        """Whether the miss at `place`, one token ago, was another token or one more."""
        source = self._source
        if source[place] == token:
            self._added += 0.25 * (1.0 - self._added)
        elif place + 1 < len(source) and source[place + 1] == token:
            self._added -= 0.25 * self._added

    def _seek(self, token: int) -> None:
        """After a miss: the place that the newest tokens speak for, if there is one."""
        best, length = self._longest_suffix()
        if best is not None:
            self._jump(best, length)
        elif self._anchor is not None and self._source[self._anchor] == token:
            self._jump(self._anchor + 1, 1)
        elif (place := self._single.get(token, -1)) >= 0:
            self._jump(place, 1)
        # Otherwise a replaced token is the best guess, and the pointer already stands behind it.

    def _jump(self, place: int, evidence: int) -> None:
        if place != self._pointer:
            self._fallback = self._pointer if evidence == 1 else None
        self._pointer, self._run = place, evidence

    def _longest_suffix(self) -> tuple[int | None, int]:
        """The place after the longest match (2 tokens or more) with the newest output, nearest to the pointer."""
        recent, source = self._recent, self._source
        if len(recent) < 2:
            return None, 0
        places = self._pairs.get((recent[-2], recent[-1]))
        if not places:
            return None, 0
        expected = self._pointer if self._pointer is not None else len(source)
        best, best_length, best_distance = None, 0, 0
        for place in places[-_CANDIDATES:]:
            length = 2
            limit = min(place, len(recent), _LONGEST)
            while length < limit and source[place - length - 1] == recent[-length - 1]:
                length += 1
            distance = abs(place - expected)
            if length > best_length or (length == best_length and distance <= best_distance):
                best, best_length, best_distance = place, length, distance
        return best, best_length

    def _index(self) -> None:
        """Index source tokens up to the newest; in a growing source the newest itself must not match with itself."""
        source = self._source
        # The place after the last token has nothing to propose yet.
        for place in range(max(self._indexed, 1), len(source)):
            token = source[place - 1]
            self._single[token] = -1 if token in self._single else place
            if place >= 2:
                self._pairs.setdefault((source[place - 2], token), []).append(place)
        self._indexed = max(self._indexed, len(source))
