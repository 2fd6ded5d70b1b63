"""What could be done next: one lane for each open round, and one for the round that would be opened.

With `parallelism` rounds are open at the same time, each with a branch of its own. What they share stays in one order:

- Plans are made one after the other, so that each planner knows what the others are about. A new round is opened only
  when every open one has its plan.
- Measurements are made one after the other, so that no candidate disturbs another.
- Where roles and measurements share the machine (`exclusive`), nothing else runs beside a measurement either. The search
  then goes by batches: it opens rounds until `parallelism` are open, implements them side by side, and measures one after
  the other; the next batch is opened when all of them are closed. Elsewhere a round that closes makes room for the next.

Pure, and the same for `sartor run` and the operator.
"""

from dataclasses import dataclass

from sartor_api.search.budget import Entry
from sartor_api.search.records import StepKind
from sartor_api.search.state import Attempt, Round, RunState

MEASURING = frozenset({StepKind.BASELINE, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM})
"""Steps that look at a server whose speed or answers count."""


@dataclass(frozen=True)
class Lane:
    """The next step of one round. `busy`: it is in flight. `current` is None for a round without a record."""

    step: StepKind
    round: int
    attempt: int
    current: Round | None = None
    busy: bool = False

    @property
    def measures(self) -> bool:
        return self.step in MEASURING

    @property
    def new(self) -> bool:
        """Whether it is a round that was not begun."""
        return self.current is None and not self.busy


def kind_of(entry: Entry) -> StepKind:
    """The kind of step that an entry of the ledger is about."""
    return StepKind(entry.id.split("/")[1])


def attempt_of(current: Round | None) -> Attempt:
    """The try that a round is in; a failed one is followed by the next."""
    if current is None or not current.attempts:
        return Attempt(number=1)
    last = current.attempts[-1]
    return last if last.failure is None else Attempt(number=last.number + 1)


def next_step(current: Round | None) -> tuple[StepKind, int]:
    """Step and attempt that a round is about."""
    if current is None or current.plan is None:
        return StepKind.PLAN, 1
    attempt = attempt_of(current)
    if attempt.implementation is None:
        return StepKind.IMPLEMENT, attempt.number
    return (StepKind.JUDGE if attempt.judgement is None else StepKind.EVALUATE), attempt.number


def open_lanes(run: RunState) -> tuple[Lane, ...]:
    """The rounds that were begun and are not closed, the oldest first; one whose first plan is in flight included."""
    flying = {int(entry.id.split("/")[0]) for entry in run.ledger.in_flight}
    found = [Lane(*_at(current), current, current.number in flying) for current in run.open_rounds]
    unknown = sorted(flying - {0} - {current.number for current in run.rounds})
    return (*found, *(Lane(StepKind.PLAN, number, 1, None, True) for number in unknown))


def new_lane(run: RunState, lanes: tuple[Lane, ...]) -> Lane | None:
    """The round that could be opened beside `lanes`, or None: as far as order and room are concerned, not budgets."""
    if len(lanes) >= run.spec.policy.parallelism or any(lane.step is StepKind.PLAN for lane in lanes):
        return None
    if lanes and run.spec.policy.exclusive and _drains(run, lanes):
        return None
    return Lane(StepKind.PLAN, len(run.rounds) + 1, 1)


def _at(current: Round) -> tuple[StepKind, int, int]:
    step, attempt = next_step(current)
    return step, current.number, attempt


def _drains(run: RunState, lanes: tuple[Lane, ...]) -> bool:
    """Whether the batch is being measured: one of it is judged, or is already closed."""
    oldest = min((lane.current.started for lane in lanes if lane.current is not None), default=0.0)
    judged = any(a.judgement is not None for lane in lanes if lane.current is not None for a in lane.current.attempts)
    flying = any(kind_of(entry) in MEASURING for entry in run.ledger.in_flight)
    return judged or flying or any(one.finished > oldest for one in run.closed_rounds)


def may_begin(run: RunState, lane: Lane) -> bool:
    """Whether what is in flight leaves room for the lane's step."""
    flying = run.ledger.in_flight
    if lane.busy:
        return False
    if lane.measures and (run.spec.policy.exclusive or lane.step is StepKind.CONFIRM):
        return not flying
    if lane.measures or run.spec.policy.exclusive:
        return not any(kind_of(entry) in MEASURING for entry in flying)
    return True
