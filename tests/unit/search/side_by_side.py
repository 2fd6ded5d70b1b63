"""A world in which steps are in flight at the same time, and which checks at each step what may run beside what."""

from dataclasses import dataclass, field

from search_world import SECONDS, World, good, spec

from sartor_api.search.decide import Begin, Cancel, Finish, Wait, decide
from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import Cost, RunSpec, StepKind, StepRecord

SLOW = SECONDS | {StepKind.IMPLEMENT: 200.0}
"""Implementing takes far longer than measuring, as it does for a language model."""


@dataclass
class SideBySide(World):
    """Steps in flight at the same time, in virtual time; numbers are given to records when their steps end."""

    flying: dict[str, tuple[Begin, float, float]] = field(default_factory=dict)
    seen: list[frozenset[StepKind]] = field(default_factory=list)
    most_open: int = 0
    seconds: dict[StepKind, float] = field(default_factory=lambda: dict(SLOW))

    def session_once(self) -> Finish:
        self.session, self.flying = self.now, {}
        self.ledger = self.ledger.abandon_open()
        while True:
            action = decide(self.state(), self.now)
            assert decide(self.state(), self.now) == action, "asking twice gives the same answer"
            self.reasons.append(action.reason.value)
            match action:
                case Finish():
                    assert not self.flying
                    return action
                case Cancel():
                    raise AssertionError("no step is late here")
                case Begin():
                    self._begin(action)
                case Wait() if self.flying:
                    self._end(action.until)
                case Wait():
                    assert action.until > self.now
                    self.now = action.until

    def _begin(self, begin: Begin) -> None:
        self._point("before")
        assert begin.id not in self.flying and begin.deadline_seconds > 0
        lasts = self.seconds[begin.step]
        self.ledger = self.ledger.reserve(begin.id, begin.reserve, now=self.now, deadline=self.now + 10 * lasts)
        self.flying[begin.id] = (begin, self.now, self.now + lasts)
        self._point("reserved")
        self.seen.append(frozenset(one.step for one, _, _ in self.flying.values()))
        self.most_open = max(self.most_open, len({one.round for one, _, _ in self.flying.values()}))
        kinds = [one.step for one, _, _ in self.flying.values()]
        assert sum(kind in MEASURING for kind in kinds) <= 1, "two measurements would disturb each other"
        assert kinds.count(StepKind.PLAN) <= 1, "each planner knows what the others are about"
        assert len({one.round for one, _, _ in self.flying.values()}) == len(kinds), "a round does one thing at a time"
        if self.spec.policy.exclusive and any(kind in MEASURING for kind in kinds):
            assert len(kinds) == 1, "nothing else runs beside a measurement"

    def _end(self, until: float) -> None:
        name, (begin, started, ends) = min(self.flying.items(), key=lambda item: item[1][2])
        if ends > until:
            self.now = max(self.now, until)
            return
        self.now = max(self.now, ends)
        del self.flying[name]
        failures = len(self.state().retried(begin.step, begin.round, begin.attempt))
        result = self.results(begin, failures) or good(begin)
        cost = self.cost if begin.step in self.paid else Cost()
        self._point("done")
        before = self.state()
        self.records.append(
            StepRecord(
                id=name, sequence=len(self.records) + 1, step=begin.step, round=begin.round, attempt=begin.attempt,
                started=started, finished=self.now, cost=cost, result=result,
            )
        )  # fmt: skip
        self.ledger = self.ledger.settle(name, cost)
        after = self.state()
        assert after.kept[: len(before.kept)] == before.kept, "what was kept stays kept"
        told = {r.number: r for r in before.closed_rounds}
        assert all(told.get(r.number, r) == r for r in after.closed_rounds), "what was found stays found"
        self._point("recorded")


def wide(parallelism: int, *, exclusive: bool = True, **changes: object) -> RunSpec:
    return spec(parallelism=parallelism, exclusive=exclusive, **{"rounds": 6, **changes})
