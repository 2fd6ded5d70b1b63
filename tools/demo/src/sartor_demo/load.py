"""The load generator as a child process, and what the Gateway wrote of its requests.

A client cannot know which arm answered, nor whether its request was carried out twice. The Gateway's access log can: it has
the Service of each request by its id, and the number of attempts.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

from sartor_demo.errors import DemoError
from sartor_demo.follow import Json, documents
from sartor_demo.traffic import Outcome, Plan
from sartor_devcluster import DevCluster
from sartor_operator.rollout.records import parse
from sartor_operator.rollout.tail import Tail

RECENT = 200
"""Answers of an arm that its figures are about."""
LOGGED_SECONDS = 2.0
"""Until the Gateway has written what has ended; it takes 0.2 s."""


@dataclass
class ArmSeen:
    """An arm as its clients see it. Times in seconds, of the last `RECENT` answers."""

    requests: int = 0
    lost: int = 0
    """Failed or cut."""
    handovers: int = 0
    first: "deque[float]" = field(default_factory=lambda: deque[float](maxlen=RECENT))
    whole: "deque[float]" = field(default_factory=lambda: deque[float](maxlen=RECENT))

    def add(self, outcome: Outcome) -> None:
        self.requests += 1
        self.handovers += outcome.handover
        if outcome.result != "answered":
            self.lost += 1
            return
        self.whole.append(outcome.seconds)
        if outcome.first is not None:
            self.first.append(outcome.first)

    def figures(self) -> Json:
        """For machines: medians in milliseconds."""
        return {
            "requests": self.requests,
            "lost": self.lost,
            "handovers": self.handovers,
            "ttftP50Ms": _milliseconds(self.first),
            "latencyP50Ms": _milliseconds(self.whole),
        }


def _milliseconds(values: "deque[float]") -> float | None:
    return round(1000 * median(values), 1) if values else None


class Seen:
    """Outcomes and the Gateway's lines, joined by the request's id. `arms`: name of the Service to arm."""

    def __init__(self, arms: Mapping[str, str]) -> None:
        self._arms = dict(arms)
        self.arms = {arm: ArmSeen() for arm in ("baseline", "candidate")}
        self.counts: Counter[str] = Counter()
        self.problems: deque[str] = deque(maxlen=5)
        """What the last requests that were lost ended with."""
        self._waiting: dict[str, Outcome] = {}
        self._service: dict[str, str | None] = {}
        self._carried: Counter[str] = Counter()
        self._joined: set[str] = set()

    def outcome(self, one: Outcome) -> None:
        """A request ended for its client."""
        self.counts["sent"] += 1
        self.counts[one.result] += 1
        if one.result != "answered":
            self.problems.append(one.detail)
        self._waiting[one.id] = one
        self._join(one.id)

    def line(self, text: bytes) -> None:
        """The Gateway wrote a line; those of other clients are passed over when their id is not among the outcomes."""
        record = parse(text)
        if record is None or record.request_id is None:
            return
        identity = record.request_id
        self._carried[identity] += max(1, record.attempts or 1)
        self._service.setdefault(identity, record.backend.service if record.backend is not None else None)
        self._join(identity)

    def _join(self, identity: str) -> None:
        if identity not in self._waiting or identity not in self._service:
            return
        arm = self._arms.get(self._service[identity] or "")
        one = self._waiting.pop(identity)
        self._joined.add(identity)
        if arm is not None:
            self.arms[arm].add(one)

    @property
    def duplicated(self) -> int:
        """How often one of these requests came to the Gateway, or went on from there, beyond the once that it was sent."""
        return sum(self._carried[identity] - 1 for identity in self._joined)

    @property
    def unlogged(self) -> int:
        """Requests that have ended and of which the Gateway has written nothing (yet)."""
        return len(self._waiting)


class Load:
    """A generator inside the cluster's network. `tell` gets its lines in a thread of their own."""

    def __init__(self, cluster: DevCluster, plan: Plan, arms: Mapping[str, str], tell: Callable[[Json], None]) -> None:
        self.plan, self.seen = plan, Seen(arms)
        self._tail = Tail(cluster.access_log, clock=time.monotonic, from_end=True)
        self._tail.look()
        command = [sys.executable, "-m", "sartor_demo.traffic", json.dumps(asdict(plan))]
        self._process = subprocess.Popen(
            cluster.enter(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._read, args=(tell,), name="load", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Read what the Gateway has written since the last look."""
        while True:
            look = self._tail.look()
            for text in look.lines:
                self.seen.line(text)
            if not look.more:
                return

    def failed(self) -> bool:
        """Whether it ended before it was told to."""
        return self._process.poll() not in (None, 0)

    def stop(self) -> None:
        """Nothing more is sent; what is under way is waited for. `tell` has had everything when this returns. Idempotent.

        Raises `DemoError` when it does not end.
        """
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(self.plan.timeout + 15)
        except subprocess.TimeoutExpired as error:
            raise DemoError("the load generator did not end; its requests are not counted") from error
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        self._thread.join(10)

    def settle(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Until the Gateway has written every request that has ended, or `LOGGED_SECONDS` are over."""
        deadline = clock() + LOGGED_SECONDS
        while True:
            self.look()
            if not self.seen.unlogged or clock() > deadline:
                return
            sleep(0.1)

    def _read(self, tell: Callable[[Json], None]) -> None:
        assert self._process.stdout is not None
        for found in documents(iter(self._process.stdout.readline, "")):
            tell(found)


def outcome_of(found: Json) -> Outcome:
    """The outcome in a line of the generator."""
    return Outcome(**{key: value for key, value in found.items() if key != "kind"})
