"""What a gateway's access log has said of some Services so far: the samples of both arms of a rollout, and since when all of
them are known.

Nothing is kept but this window, and all of it can be read again: a new process begins with the file as it lies there.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from sartor_operator.rollout.record_samples import sample_of
from sartor_operator.rollout.records import Backend, RequestRecord, parse
from sartor_operator.rollout.tail import Tail
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples, Observed, Sample

KEEP = 100_000
"""Samples of one arm, about 30 MB. Older ones are forgotten, and what is known begins later."""

LATE_SECONDS = 0.5
"""A request that ended so long ago is in the log, where the gateway is up: Envoy is told to write every 0.2 s."""

Arm = tuple[Backend, ArmName]


@dataclass(frozen=True, slots=True)
class Losses:
    """What was not read since this process began. `lines`: given up one by one. `gaps`: places where an unknown number is
    missing; what lies before the last of them counts for nothing. `foreign`: lines that are no record of a request."""

    lines: int = 0
    gaps: int = 0
    foreign: int = 0


@dataclass(slots=True)
class _Known:
    """`since`: every request that came from then on and has ended is in `samples`, or was none of this arm."""

    since: float
    samples: deque[Sample] = field(default_factory=deque[Sample])


class AccessLog:
    """Reads by `tail`; `now` is the wall clock, in Unix seconds. `seen` gets every record as it is read. Not safe in several
    threads."""

    def __init__(
        self,
        tail: Tail,
        *,
        now: Callable[[], float],
        keep: int = KEEP,
        seen: Callable[[RequestRecord], None] = lambda _record: None,
    ) -> None:
        self._tail, self._now, self._keep, self._seen = tail, now, keep, seen
        self._arms: dict[Arm, _Known] = {}
        self._begun: float | None = None
        """From when on the lines that were read hold all requests that have ended."""
        self._read_at: float | None = None
        self._read_until: float | None = None
        self.losses = Losses()

    @property
    def there(self) -> bool:
        """Whether there ever was a file to read."""
        return self._tail.position() is not None

    def follow(self, arms: Collection[Arm], *, keep: int | None = None) -> None:
        """Keep the samples of these and of no others, from now on `keep` of each. One that is new is known from what is read
        next on."""
        self._keep = self._keep if keep is None else keep
        self._arms = {arm: self._arms.get(arm) or _Known(self._read_at or 0.0) for arm in arms}
        for known in self._arms.values():
            self._bound(known)

    def forget(self, arm: Arm, before: float) -> None:
        """Drop what ended before this time (Unix s): nobody asks for it any more."""
        known = self._arms.get(arm)
        if known is None:
            return
        while known.samples and known.samples[0].arrival + known.samples[0].duration < before:
            known.samples.popleft()
        known.since = max(known.since, before)

    def read(self) -> bool:
        """Read on, 4 MB at most. Whether there is more already. Raises `OSError` when the file cannot be read."""
        now, look = self._now(), self._tail.look()
        gaps = look.truncated + look.gap
        self.losses = replace(self.losses, lines=self.losses.lines + look.broken, gaps=self.losses.gaps + gaps)
        if gaps:
            self._begun = None
            for known in self._arms.values():
                known.samples.clear()
        for line in look.lines:
            self._take(line)
        if self._tail.position() is None:
            return False  # there was no file yet: that is not "no requests"
        self._read_at = now
        self._begun = now if self._begun is None else self._begun
        if not look.more:
            self._read_until = now - LATE_SECONDS
        return look.more

    def observed(self, *, baseline: Backend, candidate: Backend, since: float) -> Observed | None:
        """The samples of both arms, from `since` on or from when they are known. None while nothing was read to the end,
        and for arms that are not followed."""
        one, other = self._arms.get((baseline, ArmName.BASELINE)), self._arms.get((candidate, ArmName.CANDIDATE))
        if self._read_until is None or self._begun is None or one is None or other is None:
            return None
        begin = max(since, self._begun, one.since, other.since)
        of_arms = (ArmSamples(tuple(s for s in known.samples if s.arrival >= begin)) for known in (one, other))
        return Observed(*of_arms, since=begin, read_until=max(begin, self._read_until))

    def _take(self, line: bytes) -> None:
        record = parse(line)
        if record is None:
            self.losses = replace(self.losses, foreign=self.losses.foreign + bool(line.strip()))
            return
        if self._begun is None:
            # Lines come in the order of ends: who began after the first one's end has ended later, and is in here.
            self._begun = record.started + (record.duration or 0.0)
        if record.backend is None:
            return
        self._seen(record)
        for arm in ArmName:
            known = self._arms.get((record.backend, arm))
            sample = sample_of(record, {record.backend: arm}) if known is not None else None
            if known is None or sample is None:
                continue
            known.samples.append(sample)
            self._bound(known)

    def _bound(self, known: _Known) -> None:
        while len(known.samples) > self._keep:
            oldest = known.samples.popleft()
            known.since = max(known.since, oldest.arrival + oldest.duration)
