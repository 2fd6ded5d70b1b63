"""From the answers of both arms to their two records.

Tokens are counted by the baseline's measure. What an engine says of itself never decides (docs/rollouts/verdict.md), and an
engine may send several tokens in one event, so neither the candidate's `usage` nor its events are a count. The baseline's
`usage` is: where both say the same, the candidate's answer has as many tokens as the baseline's; where they differ, as many
as its bytes would have at the baseline's rate.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sartor_api.probe import ProbeRecord, gap_cell

Arm = Literal["baseline", "candidate"]
ARMS: tuple[Arm, Arm] = ("baseline", "candidate")

_DIGITS = 6
"""Microseconds are more than the clock is worth."""


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """What one arm answered. Times in seconds from when the request was sent.

    `arrivals` are (time, bytes of text) of each event with text, `tokens` the arm's own count, `stopped` whether the model
    ended by itself, `choices` how many answers there are in one.
    """

    outcome: Literal["ok", "failed", "cut"]
    reason: str
    duration: float
    arrivals: Sequence[tuple[float, int]] = ()
    texts: Mapping[tuple[int, str], str] | None = None
    tokens: int | None = None
    stopped: bool = False
    choices: int = 0
    handed_over: bool = False
    bytes: int = 0

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(size for _, size in self.arrivals)


def records(
    pair: int, arrival: float, order: tuple[Arm, Arm], answers: Mapping[Arm, ArmAnswer]
) -> tuple[ProbeRecord, ProbeRecord]:
    """Both records, in the order in which the arms were asked."""
    agreed = agreement(answers["baseline"], answers["candidate"])
    first, second = (
        _record(
            pair,
            arrival,
            arm,
            1 if position == 0 else 2,
            answers[arm],
            token_count(answers[arm], answers["baseline"]),
            agreed if arm == "candidate" else None,
        )
        for position, arm in enumerate(order)
    )
    return first, second


def agreement(baseline: ArmAnswer, candidate: ArmAnswer) -> bool | None:
    """Whether both say the same; None where that cannot be told. What the candidate handed
    over is somebody else's answer."""
    if not (baseline.ok and candidate.ok) or candidate.handed_over:
        return None
    return baseline.texts == candidate.texts


def token_count(answer: ArmAnswer, baseline: ArmAnswer) -> int | None:
    """Tokens of `answer` by the baseline's measure; None where the baseline's answer to the same request gives none."""
    if not (answer.ok and baseline.ok) or baseline.tokens is None:
        return None
    if answer.size == baseline.size:
        return baseline.tokens
    if not baseline.size:
        return None
    return round(answer.size * baseline.tokens / baseline.size)


def token_gaps(answer: ArmAnswer, tokens: int) -> tuple[tuple[int, int], ...]:
    """Gaps between `tokens` tokens as (cell, number of gaps), cells ascending.

    Each event has one token; tokens beyond that are spread over the events by the bytes that they brought. A gap before an
    event is spread evenly over its tokens, as the evaluator does it (`measurement.samples`). Tokens of the first event have
    no gap of their own.
    """
    if answer.stopped:
        tokens -= 1  # the one that ends the answer shows no text
    spare = max(0, tokens - len(answer.arrivals))
    total, seen, given = max(1, answer.size), 0, 0
    counts: Counter[int] = Counter()
    previous: float | None = None
    for time, size in answer.arrivals:
        seen += size
        extra = spare * seen // total - given
        given += extra
        if previous is not None:
            counts[gap_cell((time - previous) / (1 + extra))] += 1 + extra
        previous = time
    return tuple(sorted(counts.items()))


def _record(
    pair: int,
    arrival: float,
    arm: Arm,
    position: Literal[1, 2],
    answer: ArmAnswer,
    tokens: int | None,
    agreed: bool | None,
) -> ProbeRecord:
    gaps = token_gaps(answer, tokens) if tokens is not None and answer.choices <= 1 else None
    return ProbeRecord(
        pair=pair,
        arm=arm,
        arrival=round(arrival, _DIGITS),
        position=position,
        outcome=answer.outcome,
        reason=answer.reason,
        duration=round(answer.duration, _DIGITS),
        first_token=round(answer.arrivals[0][0], _DIGITS) if answer.arrivals else None,
        gaps=gaps,
        output_tokens=tokens,
        agreed=agreed,
        handed_over=answer.handed_over,
        bytes=answer.bytes,
    )
