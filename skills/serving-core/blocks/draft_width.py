"""How many draft tokens to verify: as many as pay for their rows, judged by running estimates.

A draft of width k yields 1 + sum of the chances that its tokens are all right so far, and costs a step of k more
rows. The width with the most tokens per second is taken.

What a row more costs is learnt while serving, and that is the delicate part: the same step takes 1.5 times as long a
minute later because the memory or a neighbour changed its mind. So a step time is seen as `speed * shape[rows]`.
`speed` belongs to the moment and follows it within a few steps. `shape`, the relative cost of widths, belongs to
machine and model; it learns quickly only from two consecutive steps of different width (a pair seen in the same
moment) and hardly at all otherwise, so a change of mode moves all widths together and no decision.
"""

from bisect import bisect_left
from math import exp, log

from .alignment import Outlook

_FOLLOW = 0.25  # how fast `speed` follows
_CONTRAST = 0.2  # how fast `shape` learns from a change of width
_DRIFT = 0.01  # and from a step of the same width
_CLIP = 0.5  # an outlier counts as this much at most (natural logarithm of a ratio)
_PRIOR_PER_ROW = 0.03  # relative cost of a row before anything is known
_PROBE_EVERY = 64  # steps between trials of a neighbouring width


class StepCost:
    """Relative cost of a step by its rows, at knots with straight lines between."""

    def __init__(self, rows: int) -> None:
        knots = [1]
        while knots[-1] < rows:
            knots.append(knots[-1] * 2 if knots[-1] > 1 else 2)
        self._knots = knots
        self._shape = [log(1.0 + _PRIOR_PER_ROW * (knot - 1)) for knot in knots]
        self._speed: float | None = None
        self._last_rows = 0

    def relative(self, rows: int) -> float:
        """The cost of a step of `rows`, in steps of one row."""
        left, share = self._place(rows)
        low = exp(self._shape[left])
        return low if share == 0.0 else low + share * (exp(self._shape[left + 1]) - low)

    def observe(self, rows: int, seconds: float) -> None:
        measured = log(max(seconds, 1e-9))
        if self._speed is None:
            self._speed = measured - log(self.relative(rows))
        surprise = measured - self._speed - log(self.relative(rows))
        surprise = max(-_CLIP, min(_CLIP, surprise))
        changed = rows != self._last_rows
        self._last_rows = rows
        # A changed width is held responsible for its surprise, otherwise the moment is.
        self._speed += surprise * (_FOLLOW / 4 if changed else _FOLLOW)
        self._learn(rows, surprise * (_CONTRAST if changed else _DRIFT))

    def _learn(self, rows: int, amount: float) -> None:
        left, share = self._place(rows)
        self._shape[left] += amount * (1.0 - share)
        if share:
            self._shape[left + 1] += amount * share
        base = self._shape[0]  # one row is the unit
        if base and self._speed is not None:
            self._shape = [value - base for value in self._shape]
            self._speed += base
        # More rows are never cheaper; noise must not make them look so.
        for i in range(1, len(self._shape)):
            if self._shape[i] < self._shape[i - 1]:
                self._shape[i] = self._shape[i - 1]

    def _place(self, rows: int) -> tuple[int, float]:
        knots = self._knots
        right = bisect_left(knots, rows)
        if right >= len(knots):
            return len(knots) - 1, 0.0
        if knots[right] == rows:
            return right, 0.0
        low = knots[right - 1]
        return right - 1, (rows - low) / (knots[right] - low)


class DraftWidth:
    """Chooses draft widths for the sequences of one step at a time: `begin`, `choose` for each, later `observe`."""

    def __init__(self, widest: int, *, adaptive: bool, step_tokens: int) -> None:
        self._widest = widest
        self._adaptive = adaptive
        self._cost = StepCost(step_tokens)
        self._widths = sorted({w for w in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if w < widest} | {widest})
        self._rows = 1
        self._yield = 1.0
        self._steps = 0

    def begin(self, rows: int, tokens: int) -> None:
        """A step of `rows` rows that gives `tokens` tokens before any draft."""
        self._rows = max(rows, 1)
        self._yield = float(max(tokens, 1))
        self._steps += 1

    def choose(self, outlook: Outlook, room: int) -> int:
        """The width of one sequence's draft, at most `room` rows; 0 when drafting does not pay."""
        room = min(room, outlook.available, self._widest)
        if room <= 0:
            return 0
        if not self._adaptive:
            return room
        rows, expected = self._rows, self._yield
        best, best_rate, best_gain = 0, expected / self._cost.relative(rows), 0.0
        chance, gain, done = outlook.first, 0.0, 0
        for width in self._widths:
            width = min(width, room)
            while done < width:
                gain += chance
                chance *= outlook.second if done == 0 else outlook.later
                done += 1
            cost = self._cost.relative(rows + width)
            rate = (expected + gain) / cost
            if rate > best_rate:
                best, best_rate, best_gain = width, rate, gain
            # Wider drafts cost no less, and this is the most that they could still gain.
            if width == room or expected + gain + chance * (room - width) <= best_rate * cost:
                break
        if best and self._steps % _PROBE_EVERY == 0:
            best = max(1, best // 2)  # keeps the shape of other widths fresh, at next to no cost
        self._rows += best
        self._yield += best_gain
        return best

    def observe(self, rows: int, seconds: float) -> None:
        """What a step of `rows` rows took."""
        if self._adaptive:
            self._cost.observe(rows, seconds)
