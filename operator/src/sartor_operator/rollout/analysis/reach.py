"""Whether a gateway gets through to each arm: an outage, seen within seconds from records of requests that never arrived.

Only failures to connect count (Envoy's flags UF and UH): such a request never reached an engine, whatever that would have
said. An engine's own errors, slow answers, cut streams, and clients that left are the verdict's business.

An arm is out when all of this holds:

- At least `FAILURES` connects failed in a row, over `RUN_SECONDS` or more, with no sign of life in between: no answer that
  began or came to its end.
- By the rate at which it ended answers in the minute before, `EXPECTED` of them are missing since its last sign of life.
  So some refused connects among long streams, of which the log knows nothing yet, are no outage, nor is one endpoint of two.
- The other arm answered meanwhile, and its newest record is no failed connect. Where nothing can be reached, nothing moves.

It then gets no traffic, so no record can tell that it is back. It is out until a sign of life, or for `HOLD_SECONDS` after
the last failure, which is longer than Kubernetes takes to see that a node is lost. Once its endpoints are not ready any more
that says all, and when they are ready again they are believed. Else its share is tried again after that time. `AGAIN`
failures without a sign of life are enough then, and each time it is out for twice as long: that bounds the cost of an arm
which is ready for ever and never there.

All of it follows from the records, by their own times: a new process that reads the same log comes to the same.
"""

from collections import deque
from dataclasses import dataclass

from sartor_operator.rollout.verdict.samples import Outcome, Sample

CONNECT_FLAGS = frozenset({"UF", "UH"})
"""The connection failed or was refused; no endpoint was there to connect to."""
FAILURES = 8
RUN_SECONDS = 3.0
RATE_SECONDS = 60
EXPECTED = 6.0
"""Answers that are missing. Of a steady arm that many do not come by chance in 1 of 400 cases (Poisson: exp(-6))."""
OTHERS = 5
"""Answers of the other arm beside a run of failures."""
AGAIN = 3
PAUSE_SECONDS = 10.0
"""Between two failures of one run: it had no traffic, and was then tried again."""
HOLD_SECONDS = 60.0
LONGEST_HOLD = 3600.0
CALM_SECONDS = 600.0
"""An arm that answered for so long is not held for longer because of what was before."""
_KEPT = 4 * RATE_SECONDS


@dataclass(slots=True)
class Run:
    """Failures to connect without a sign of life since the first. Times are Unix seconds, of the ends of requests.

    `rate`: answers a second in the minute before; `tries`: how often it was out already; `begin` and `recent`: the first
    failure of the newest try, and how many there are in it. `out`: it was an outage once; only a sign of life ends that.
    `released`: its endpoints went meanwhile; what fails from now on is another try.
    """

    first: float
    last: float
    rate: float
    tries: int
    begin: float
    count: int = 1
    recent: int = 1
    out: bool = False
    released: bool = False

    @property
    def hold(self) -> float:
        return min(LONGEST_HOLD, HOLD_SECONDS * 2**self.tries)


class Reach:
    """What the records say of one Service so far. Bounded, however many there are."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, int]] = deque(maxlen=_KEPT)
        """(whole second, answers that came to their end in it), in order."""
        self.alive = 0.0
        """The newest sign of life (Unix seconds)."""
        self.run: Run | None = None
        self._tries, self._until = 0, 0.0
        """Tries of the last outage, and until when they are held against it."""

    def take(self, sample: Sample) -> None:
        """One record. They come in the order of their ends, those of several gateways nearly so."""
        end = sample.arrival + sample.duration
        if sample.first_byte is None and sample.outcome is Outcome.FAILED and _connect(sample):
            self._fails(end)
            return
        if sample.first_byte is None:
            return
        if sample.outcome is Outcome.CUT:
            self._lives(sample.arrival + sample.first_byte)  # it had begun to answer
        else:
            self._count(int(end))
            self._lives(end)

    def release(self) -> None:
        """Its endpoints are not ready. Idempotent."""
        if self.run is not None and self.run.out:
            self.run.released = True

    def answers(self, begin: float, end: float) -> int:
        """Answers that came to their end in between, by whole seconds."""
        return sum(count for second, count in self._answers if int(begin) <= second <= end)

    def _count(self, second: int) -> None:
        if self._answers and second <= self._answers[-1][0]:
            last, count = self._answers.pop()
            self._answers.append((last, count + 1))
        else:
            self._answers.append((second, 1))

    def _lives(self, at: float) -> None:
        self.alive = max(self.alive, at)
        if self.run is None or at <= self.run.first:
            return
        if self.run.out:
            self._tries, self._until = self.run.tries + 1, at + CALM_SECONDS
        self.run = None

    def _fails(self, end: float) -> None:
        if self.run is None:
            if end <= self.alive:
                return
            rate = self.answers(end - RATE_SECONDS, end) / RATE_SECONDS
            tries = self._tries if end < self._until else 0
            self.run = Run(first=end, last=end, rate=rate, tries=tries, begin=end)
            return
        run = self.run
        if run.out and (run.released or end - run.last > PAUSE_SECONDS):
            run.tries, run.begin, run.recent, run.released = run.tries + 1, end, 0, False
        run.last = max(run.last, end)
        run.count, run.recent = run.count + 1, run.recent + 1


def _connect(sample: Sample) -> bool:
    return not CONNECT_FLAGS.isdisjoint(sample.reason.split(","))


def out(arm: Reach, other: Reach, now: float, *, whole: bool) -> Run | None:
    """The outage of `arm` at `now` (Unix seconds), None without one. `whole`: the records of all gateways are read up to
    now; without that no outage begins, and one that is known goes on."""
    run = arm.run
    if run is None:
        return None
    if whole and not run.out:
        run.out = _begins(run, arm, other)
    known = run.out and (run.begin == run.first or run.recent >= AGAIN)
    return run if known and not run.released and now < run.last + run.hold else None


def _begins(run: Run, arm: Reach, other: Reach) -> bool:
    silent = run.last - min(run.first, arm.alive)
    return (
        run.count >= FAILURES
        and run.last - run.first >= RUN_SECONDS
        and run.rate * silent >= EXPECTED
        and other.run is None
        and other.answers(run.first, run.last) >= OTHERS
    )
