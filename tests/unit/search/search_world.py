"""A world for the decision core: virtual time, scripted results, and a driver that can be killed anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sartor_api.search.budget import Ledger
from sartor_api.search.decide import Begin, Cancel, Finish, Wait, decide
from sartor_api.search.estimate import held_cost
from sartor_api.search.records import (
    BaselineRecord,
    Budget,
    Cost,
    Envelope,
    FailureClass,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    RunSpec,
    SearchPolicy,
    Speedup,
    StepKind,
    StepPolicy,
    StepRecord,
    StepResult,
    Verdict,
)
from sartor_api.search.state import RunState, fold

SECONDS = {
    StepKind.BASELINE: 100.0,
    StepKind.PLAN: 1.0,
    StepKind.IMPLEMENT: 2.0,
    StepKind.JUDGE: 10.0,
    StepKind.EVALUATE: 20.0,
    StepKind.CONFIRM: 30.0,
}


def spec(*, reserve: Cost | None = None, accelerators: int = 0, **changes: object) -> RunSpec:
    """A run; `changes` go to its budget or policy by name."""
    steps = {
        kind: StepPolicy(expected_seconds=s, deadline_seconds=10 * s, reserve=reserve or Cost())
        for kind, s in SECONDS.items()
    }
    budget = {k: v for k, v in changes.items() if k in Budget.model_fields}
    policy = {k: v for k, v in changes.items() if k in SearchPolicy.model_fields}
    assert set(changes) == set(budget) | set(policy)
    return RunSpec(
        name="test",
        created=0.0,
        seed=0,
        scenario="chat",
        model={"name": "m"},
        envelope=Envelope(max_input_tokens=100, max_output_tokens=100),
        accelerators=accelerators,
        budget=Budget(**{"rounds": 3, "wall_clock_seconds": 1e6, **budget}),
        policy=SearchPolicy(steps=steps, **policy),
    )


def speedup(value: float, spread: float = 1.01) -> Speedup:
    return Speedup(value=value, low=value / spread, high=value * spread, n=6)


def verdict(failure: FailureClass, reason: str = "Broken", gate: str = "gate") -> Verdict:
    return Verdict(gate=gate, passed=False, reason=reason, failure_class=failure)


PASSED = Judgement(verdicts=(Verdict(gate="exact-greedy", passed=True, reason="Passed"),))


def plan(number: int, action: str = "build", parent: str | None = None) -> Plan:
    return Plan(round=number, action=action, parent=parent, hypothesis=f"hypothesis {number}")


def measured(value: float, spread: float = 1.01) -> Measurement:
    return Measurement(metric="outputTokensPerSecond", speedup=speedup(value, spread))


def invalid(failure: FailureClass) -> Measurement:
    return Measurement(metric="m", valid=False, invalid_reason="Contended", failure_class=failure)


def good(begin: Begin) -> StepResult:
    """What a step gives when all goes well: each round is 10 % faster than the one before."""
    match begin.step:
        case StepKind.BASELINE:
            return BaselineRecord(engine="vllm", version="1", chosen="default")
        case StepKind.PLAN:
            return plan(begin.round)
        case StepKind.IMPLEMENT:
            name = f"{begin.round:03d}{begin.attempt}"
            return Implementation(commit=name.ljust(40, "0"), content_hash=name.ljust(64, "0"))
        case StepKind.JUDGE:
            return PASSED
        case StepKind.EVALUATE:
            return measured(1.5 * 1.1**begin.round)
        case StepKind.CONFIRM:
            assert begin.candidate is not None
            return measured(begin.candidate.speedup.value * 0.99)


class KilledError(Exception):
    """The driver was killed."""


@dataclass
class World:
    """Records survive a kill; the session does not. `results` scripts steps, `kill(point, count)` says where to die."""

    spec: RunSpec
    results: Callable[[Begin, int], StepResult | None] = lambda _begin, _failures: None
    kill: Callable[[str, int], bool] = lambda _point, _count: False
    cost: Cost = field(default_factory=Cost)
    paid: frozenset[StepKind] = frozenset(StepKind)
    """The steps that cost `cost`, beside the hardware that they hold."""
    now: float = 0.0
    records: list[StepRecord] = field(default_factory=list[StepRecord])
    ledger: Ledger = field(default_factory=Ledger)
    session: float = 0.0
    reasons: list[str] = field(default_factory=list[str])
    points: int = 0
    pause: float = 0.0

    def state(self) -> RunState:
        return fold(self.spec, self.records, ledger=self.ledger, session_started=self.session)

    def _point(self, name: str) -> None:
        self.points += 1
        if self.kill(name, self.points):
            raise KilledError

    def session_once(self) -> Finish:
        """One session of a driver: what `sartor_agents.run.driver` does, in virtual time."""
        self.session = self.now
        self.ledger = self.ledger.abandon_open()
        while True:
            action = decide(self.state(), self.now)
            assert decide(self.state(), self.now) == action, "asking twice gives the same answer"
            self.reasons.append(action.reason.value)
            match action:
                case Finish():
                    return action
                case Wait():
                    assert action.until > self.now
                    self.now = action.until
                case Cancel():
                    raise AssertionError("a driver without parallel steps has nothing to cancel")
                case Begin():
                    self._step(action)

    def _step(self, begin: Begin) -> None:
        assert begin.deadline_seconds > 0
        self._point("before")
        ledger = self.ledger.reserve(begin.id, begin.reserve, now=self.now, deadline=self.now + begin.deadline_seconds)
        assert ledger != self.ledger, "an execution is never begun twice under one id"
        self.ledger = ledger
        self._point("reserved")
        started = self.now
        self.now += SECONDS[begin.step]
        failures = len(self.state().retried(begin.step, begin.round, begin.attempt))
        result = self.results(begin, failures) or good(begin)
        used = self.cost if begin.step in self.paid else Cost()
        cost = used + held_cost(self.spec, begin.step, SECONDS[begin.step])
        self._point("done")
        self.records.append(
            StepRecord(
                id=begin.id,
                sequence=len(self.records) + 1,
                step=begin.step,
                round=begin.round,
                attempt=begin.attempt,
                started=started,
                finished=self.now,
                cost=cost,
                result=result,
            )
        )
        self.ledger = self.ledger.settle(begin.id, cost)
        self._point("recorded")

    def run(self) -> Finish:
        """Sessions until the run ends."""
        for _ in range(1000):
            try:
                return self.session_once()
            except KilledError:
                self.now += self.pause
        raise AssertionError("the run does not end")
