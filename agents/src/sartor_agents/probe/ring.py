"""What the probe remembers: the newest records, and counts.

Records are kept as the JSON that is sent: a tenth of the memory of objects, and writing a page costs the other pairs' clocks
nothing.
"""

import json
from dataclasses import asdict, dataclass

from sartor_api.probe import PAGE_RECORDS, ProbeAsk, ProbeRecord


@dataclass(slots=True)
class Counts:
    """Since the probe began; meanings as in `ProbePage`."""

    seen: int = 0
    chosen: int = 0
    unfit: int = 0
    dropped: int = 0


class Ring:
    """The last `keep` records (rounded up to whole pairs), numbered from 0 in the order in which they were added.

    `boot` names this run of the probe.
    """

    def __init__(self, boot: str, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"{keep} records cannot be kept; keep 1 or more")
        self.boot = boot
        self.counts = Counts()
        self._keep = keep + keep % 2
        self._records: list[bytes] = []
        self._next = 0

    def add(self, pair: tuple[ProbeRecord, ProbeRecord]) -> None:
        """Keep both records of a pair, and forget the oldest pair if there is no more room."""
        for record in pair:
            text = record.model_dump_json(exclude_defaults=True).encode()
            if self._next < self._keep:
                self._records.append(text)
            else:
                self._records[self._next % self._keep] = text
            self._next += 1

    def page(self, ask: ProbeAsk, *, now: float, complete_until: float, share: float) -> bytes:
        """The JSON of a `ProbePage`: what follows on what was read, or what there is."""
        oldest = self._next - len(self._records)
        after = ask.after if ask.boot == self.boot else 0
        first = min(max(after, oldest), self._next)
        last = min(first + PAGE_RECORDS, self._next)
        head = {
            "boot": self.boot,
            "first": first,
            "next": last,
            "more": last < self._next,
            "now": now,
            "complete_until": complete_until,
            "share": share,
            **asdict(self.counts),
        }
        found = b",".join(self._records[number % self._keep] for number in range(first, last))
        return json.dumps(head).encode().removesuffix(b"}") + b', "records": [' + found + b"]}"
