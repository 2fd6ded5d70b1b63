"""What the operator and a rollout's probe say to each other: `POST /poll` with a `ProbeAsk`, answered by a `ProbePage`.

A probe sends copies of users' requests to both arms of a rollout and keeps, for each arm, one `ProbeRecord` of how the
answer came. Records are numbered from 0 in the order in which their pairs ended; the two records of a pair are always
neighbours and appear together, so that a slow arm is never seen later than a fast one. A reader asks with `after` = the
`next` of the page before until `more` is false. Asking again for the same page is harmless: reading changes nothing but
the share.

Nothing of a request or an answer is in here: only times, counts, and whether both answers were the same.

Units: seconds (points in time: Unix time on the probe's clock), tokens, bytes; shares from 0 to 1.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

GAP_STEP = 1.02
"""Width of a gap's cell: cell i holds gaps in (GAP_STEP**(i - 1), GAP_STEP**i] seconds (DDSketch: Masson, Rim & Lee,
VLDB 2019), so a gap is known to 2 %."""
SHORTEST_GAP = 1e-6
"""Seconds that stand for any shorter gap: events that came in one read have none that could be seen."""
PAGE_RECORDS = 2000
"""Records that a page holds at most. Even, so that no page ends within a pair."""
COPIES_PORT = 8000
"""Where copies of users' requests come in."""
CONTROL_PORT = 8001
"""Where the operator asks."""

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


def gap_cell(seconds: float) -> int:
    """The cell of a gap. Raises `ValueError` for one that is negative or not finite."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a gap between tokens of {seconds} s: the clock is wrong; discard the answer")
    return math.ceil(math.log(max(seconds, SHORTEST_GAP), GAP_STEP) - 1e-9)


class ProbeMessage(BaseModel):
    """Base of what goes over the wire: frozen, unknown fields refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProbeAsk(ProbeMessage):
    """What the operator wants to know, and how much is to be sampled from now on.

    `boot` and `after` are those of the last page that was read (`boot`, `next`); none and 0 for the first one. A `boot` that
    is not the probe's own means that it was started anew: it answers from its oldest record on, whatever `after` says.
    `share` is the share of the copies that are sent to both arms. A probe that was never asked samples nothing.
    """

    boot: str | None = Field(default=None, max_length=64)
    after: Count = 0
    share: float = Field(ge=0, le=1)


class ProbeRecord(ProbeMessage):
    """How one arm answered one request.

    Times run from when the request was about to be sent to this arm, on a clock that does not jump. A record of an answer
    that failed or was cut says what was seen until then.
    """

    pair: Count
    """Number of the pair in this boot: the other arm's record has the same."""
    arm: Literal["baseline", "candidate"]
    arrival: Seconds
    """When the copy had come in, Unix time: the same for both arms of a pair."""
    position: Literal[1, 2]
    """Whether this arm was asked first or second (by chance)."""
    outcome: Literal["ok", "failed", "cut"]
    """`failed`: no answer or one that is an error. `cut`: the answer began and did not come to its end."""
    reason: str = Field(default="", max_length=100)
    """Why it is not `ok`: the status (`503`) or a word (`connect`, `reset`, `timeout`, `protocol`, `stream`, `error`)."""
    duration: Seconds
    """To the last byte, or to when it was given up."""
    first_token: Seconds | None = None
    """To the first event that brought text; none where no text came."""
    gaps: tuple[tuple[int, Annotated[int, Field(gt=0)]], ...] | None = None
    """Gaps between tokens as (cell, number of gaps), cells ascending, see `GAP_STEP`. A gap before an event that brought
    several tokens is spread evenly over them. None where gaps are not known (`output_tokens` is not, or the answer has
    several choices); empty for an answer of a single token."""
    output_tokens: Count | None = None
    """Tokens of the answer by the baseline's measure: its own `usage` where both answers have the same length, else in
    proportion to the bytes of text. None where an arm was not `ok`, or the baseline gave no `usage`."""
    agreed: bool | None = None
    """On the candidate's record: whether its text is the baseline's, byte for byte. None on the baseline's record, and
    where nothing can be compared: an arm was not `ok`, or the candidate handed the request over."""
    handed_over: bool = False
    """Whether the answer says that it is the baseline's (`X-Sartor-Handover`)."""
    bytes: Count = 0
    """Of the answer's body."""


class ProbePage(ProbeMessage):
    """Records from number `first` on, up to `next`, and what was counted since the probe began.

    `first` is greater than what was asked for where records were thrown away before anybody read them.
    """

    boot: str = Field(min_length=1, max_length=64)
    """Name of this run of the probe: another one means that numbers and counts began anew."""
    first: Count
    """Number of the first record here."""
    next: Count
    """Number of the record after the last one here: what to ask for next."""
    more: bool
    """Whether there are further records already."""
    records: tuple[ProbeRecord, ...]
    now: Seconds
    """The probe's wall clock, Unix time, when it wrote this page."""
    complete_until: Seconds
    """Every pair that arrived before this has ended and has its records (in this page, the ones before, or, with `more`,
    those after): the arrival of the oldest pair under way, else `now`."""
    share: float = Field(ge=0, le=1)
    """The share that holds from now on."""
    seen: Count
    """Requests that came in, of any kind."""
    chosen: Count
    """Generation requests (POST to `/v1/completions` or `/v1/chat/completions`) that the share fell on."""
    unfit: Count
    """Of the chosen: no JSON object, so nothing that both arms could be asked alike."""
    dropped: Count
    """Of the chosen: not sent, because as many pairs as allowed were under way, or the body was too large or incomplete."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.next - self.first != len(self.records):
            raise ValueError(f"records {self.first} to {self.next} are announced, and {len(self.records)} are there")
        return self
