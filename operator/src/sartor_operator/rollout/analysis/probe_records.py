"""The pages of a probe as samples of both arms: all of them or none of that time.

A probe that began anew, and records that it threw away before they were read, void what was before, like a gap in a log.
Times are the probe's; its clock and the operator's have to agree, since the other sources' samples have the gateway's.
"""

import math
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Final

from sartor_api.probe import ProbeAsk, ProbePage, ProbeRecord
from sartor_operator.rollout.verdict.integrity import CLOCK_TOLERANCE
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples, GapSketch, Outcome, Sample, Source

KEEP = 30_000
"""Samples of one arm, about 20 MB. Older ones are forgotten, and what is known begins later."""
LATE_SECONDS = 10.0
"""A window waits so long for pairs that are under way, and not longer: hanging streams would hide everything else. Those
that take longer are missing in both arms alike until they end."""

SLACK_SECONDS = 0.1
"""Between the two requests of a pair, which its durations do not tell of."""

_OUTCOMES: Final[Mapping[str, Outcome]] = {"ok": Outcome.OK, "failed": Outcome.FAILED, "cut": Outcome.CUT}


class ProbeRecords:
    """What was read of one probe. `since` (Unix s): nothing before it is wanted."""

    def __init__(self, since: float, *, keep: int = KEEP) -> None:
        self._keep = keep
        self._boot: str | None = None
        self._after = 0
        self.since = since
        """Everything that came from then on and has ended is known."""
        self.read_until: float | None = None
        self.voids: list[str] = []
        """Why something counts for nothing any more, each once; whoever tells of them takes them out."""
        self._samples: dict[ArmName, deque[Sample]] = {arm: deque() for arm in ArmName}
        self._cells: dict[tuple[int, int], tuple[int, int]] = {}

    def ask(self, share: float) -> ProbeAsk:
        """What to ask the probe next."""
        return ProbeAsk(boot=self._boot, after=self._after, share=share)

    def take(self, page: ProbePage, *, now: float) -> bool:
        """Take the answer to `ask`; `now` is the operator's wall clock. Whether there is more already.

        The same page twice changes nothing. Raises `ValueError` where the probe's clock is another one.
        """
        if abs(page.now - now) > CLOCK_TOLERANCE:
            raise ValueError(f"its clock differs from the operator's by {page.now - now:+.0f} s; set the clocks by NTP")
        if self._boot is not None and page.boot != self._boot:
            self._begin_anew(now, "the probe was started anew")
        elif page.boot == self._boot and page.next < self._after:
            return False  # an answer that was overtaken by another one
        if page.first > (self._after if page.boot == self._boot else 0):
            first = page.records[: 2 if page.records[1:2] and page.records[1].pair == page.records[0].pair else 1]
            # Pairs are numbered as they ended: who came after the first one's end has ended later, and is in here.
            ended = max((r.arrival for r in first), default=now) + sum(r.duration for r in first) + SLACK_SECONDS
            self._begin_anew(ended, "the probe threw records away before they were read")
        fresh = page.records if page.boot != self._boot else page.records[max(0, self._after - page.first) :]
        for record in fresh:
            self._add(record)
        self._boot, self._after = page.boot, page.next
        if not page.more:
            self.read_until = max(page.complete_until, page.now - LATE_SECONDS)
        return page.more

    def begin_at(self, since: float) -> None:
        """Nothing before this time (Unix s) counts any more."""
        for samples in self._samples.values():
            kept = [sample for sample in samples if sample.arrival >= since]
            samples.clear()
            samples.extend(kept)
        self.since = max(self.since, since)

    def forget_all(self, since: float) -> None:
        """All that was read is void, whatever its times say: the clock jumped. What is to come counts from `since` on."""
        for samples in self._samples.values():
            samples.clear()
        self.since, self.read_until = since, None

    def arm(self, name: ArmName) -> ArmSamples:
        """The samples of one arm."""
        return ArmSamples(tuple(self._samples[name]))

    def _begin_anew(self, since: float, why: str) -> None:
        if since > self.since:
            self.begin_at(since)
            self.voids.append(why)

    def _add(self, record: ProbeRecord) -> None:
        if record.arrival < self.since:
            return
        samples = self._samples[ArmName(record.arm)]
        samples.append(self._sample(record))
        if len(samples) > self._keep:  # in tenths, since what is left has to be looked through
            oldest = islice(samples, 1 + self._keep // 10)
            self.begin_at(math.nextafter(max(s.arrival for s in oldest), math.inf))

    def _sample(self, record: ProbeRecord) -> Sample:
        # Pairs (cell, count) are few, and each is one object however many records have it.
        cells = tuple(self._cells.setdefault(cell, cell) for cell in record.gaps or ())
        return Sample(
            arrival=record.arrival,
            arm=ArmName(record.arm),
            outcome=_OUTCOMES[record.outcome],
            duration=record.duration,
            first_byte=record.first_token,
            reason=record.reason,
            bytes=record.bytes,
            handed_over=record.handed_over,
            source=Source.PROBE,
            resolution=0.0,
            gaps=GapSketch(cells) if cells else None,
            output_tokens=record.output_tokens,
            agreed=record.agreed,
        )
