"""The state of a run, folded from its records.

Nothing here is stored: phase, incumbent, open round and spent budgets are derived, so they cannot disagree with the records.
Folding is total and idempotent: a record that appears twice counts once.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sartor_api.search.budget import Ledger
from sartor_api.search.comparison import flat, improves, pooled
from sartor_api.search.records import (
    BaselineRecord,
    FailureClass,
    Finished,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    Record,
    RunSpec,
    Speedup,
    StepKind,
    StepRecord,
    Verdict,
)


class Attempt(Record):
    """One try of the implementer in a round, and how far it came. `failure` is the candidate's own fault that ended it."""

    number: int
    implementation: Implementation | None = None
    judgement: Judgement | None = None
    failure: Verdict | None = None

    @property
    def feedback(self) -> tuple[Verdict, ...]:
        """What the next try should know: every gate that failed, or what ended this one."""
        if self.failure is None:
            return ()
        failed = [v for v in self.judgement.verdicts if not v.passed] if self.judgement else []
        return tuple(failed) if self.failure in failed else (*failed, self.failure)


class Look(Record):
    """One valid measurement of a round, with its record's sequence number. The first is of the round's candidate. While it
    is open whether that gains, more follow (`SearchPolicy.looks`): of the incumbent and of the candidate in turn."""

    sequence: int
    measurement: Measurement


class Round(Record):
    """One round as its records tell it.

    `attempts` are the implementer's tries (the second is the repair), `measurement` the valid one if there is any, with the
    speed-up that all `looks` at its candidate give together, `retried` the failures that were nobody's attempt (oldest
    first). `kept` is whether its candidate became the incumbent.
    `order` is the sequence number of its latest record: rounds that are open at the same time close in another order than
    that of their numbers, and what came before what is told by `order`.
    """

    number: int
    plan: Plan | None = None
    attempts: tuple[Attempt, ...] = ()
    measurement: Measurement | None = None
    retried: tuple[Verdict, ...] = ()
    looks: tuple[Look, ...] = ()
    closed: bool = False
    kept: bool = False
    started: float = 0.0
    finished: float = 0.0
    order: int = 0

    @property
    def implementation(self) -> Implementation | None:
        """The latest candidate of the round."""
        return next((a.implementation for a in reversed(self.attempts) if a.implementation), None)

    @property
    def failure(self) -> Verdict | None:
        """Why the round has no measurement, as far as it is the candidate's fault."""
        return self.attempts[-1].failure if self.attempts and self.measurement is None else None

    @property
    def speedup(self) -> Speedup | None:
        return self.measurement.speedup if self.measurement else None


@dataclass(frozen=True)
class Candidate:
    """A candidate with its measurement; `order` is that of its round."""

    round: int
    commit: str
    content_hash: str
    speedup: Speedup
    order: int = 0


@dataclass(frozen=True)
class RunState:
    """Everything that `decide` looks at.

    `records` are in order of `sequence`. `session_started` is when the current driver (or, in a cluster, the run) began
    to work: time between sessions is not charged to the wall clock.
    """

    spec: RunSpec
    records: tuple[StepRecord, ...]
    ledger: Ledger
    session_started: float
    finished: Finished | None = None

    # --- time -----------------------------------------------------------------------------------------------------------

    def elapsed(self, now: float) -> float:
        """Seconds of wall clock used: the time in which steps of earlier sessions ran, and all time since this one began."""
        earlier, until = 0.0, -math.inf
        for record in sorted(self.records, key=lambda r: r.started):
            ended = min(record.finished, self.session_started)
            earlier += max(0.0, ended - max(record.started, until))
            until = max(until, ended)
        return earlier + max(0.0, now - self.session_started)

    # --- what happened ---------------------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> BaselineRecord | None:
        return next((r.result for r in self.records if isinstance(r.result, BaselineRecord)), None)

    @cached_property
    def _folded(self) -> tuple[tuple[Round, ...], tuple[Candidate, ...]]:
        """Rounds by number and, in the order in which they were kept, the candidates.

        A candidate has to beat what was the incumbent when it was measured: a round that closes later changes nothing of
        what was found before. So the looks of all rounds are gone through in the order in which they were taken.
        """
        by_round: dict[int, list[StepRecord]] = {}
        for record in self.records:
            if record.round > 0:
                by_round.setdefault(record.round, []).append(record)
        rounds = {number: _fold_round(number, records, self.spec) for number, records in by_round.items()}
        own: dict[int, Speedup] = {}
        kept: list[Candidate] = []
        looks = ((look, number, i) for number, current in rounds.items() for i, look in enumerate(current.looks))
        for look, number, i in sorted(looks, key=lambda it: it[0].sequence):
            seen, current = look.measurement.speedup, rounds[number]
            if seen is not None and kept and i % 2:
                kept[-1] = replace(kept[-1], speedup=pooled(kept[-1].speedup, seen))
            elif seen is not None:
                own[number] = pooled(own[number], seen) if number in own else seen
            if i + 1 < len(current.looks) or not (current.closed or self._settled(own.get(number), kept, i + 1)):
                continue
            measurement = current.looks[0].measurement.model_copy(update={"speedup": own.get(number)})
            current = current.model_copy(update={"measurement": measurement, "closed": True})
            candidate, incumbent = _candidate(current), kept[-1].speedup if kept else None
            if candidate and improves(candidate.speedup, incumbent, self.spec.policy.minimum_effect):
                kept.append(candidate)
                current = current.model_copy(update={"kept": True})
            rounds[number] = current
        for candidate in kept:  # looks of later rounds tell more of it
            current = rounds[candidate.round]
            assert current.measurement is not None, "a kept candidate was measured"
            measurement = current.measurement.model_copy(update={"speedup": candidate.speedup})
            rounds[candidate.round] = current.model_copy(update={"measurement": measurement})
        return tuple(rounds[number] for number in sorted(rounds)), tuple(kept)

    def _settled(self, seen: Speedup | None, kept: Sequence[Candidate], looks: int) -> bool:
        """Whether a candidate was looked at enough: it gains, or does not, or it may not be looked at again."""
        effect, incumbent = self.spec.policy.minimum_effect, kept[-1].speedup if kept else None
        if seen is None or looks >= self.spec.policy.looks:
            return True
        return improves(seen, incumbent, effect) or flat(seen, incumbent, effect)

    def looked_at(self, current: Round | None) -> Candidate | None:
        """What the round's next measurement is of, where that is not its own candidate: every second look is of the
        incumbent."""
        return self.best if current is not None and len(current.looks) % 2 else None

    @property
    def rounds(self) -> tuple[Round, ...]:
        return self._folded[0]

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """Candidates that were the incumbent at some time, oldest first."""
        return self._folded[1]

    @property
    def best(self) -> Candidate | None:
        """The incumbent: explicit state, whatever branch was committed to last."""
        return self.kept[-1] if self.kept else None

    @cached_property
    def measured(self) -> tuple[Candidate, ...]:
        """All candidates with a valid measurement, kept or not, in the order of their rounds."""
        return tuple(found for r in self.rounds if (found := _candidate(r)) is not None)

    def incumbent_before(self, current: Round) -> Candidate | None:
        """What the round had to beat, or has to."""
        before = [one for one in self.kept if not current.closed or one.order < current.order]
        return before[-1] if before else None

    @cached_property
    def parents(self) -> dict[str, str | None]:
        """What each candidate of the run (by commit) was built on; None is the empty stack."""
        return {
            a.implementation.commit: r.plan.parent
            for r in self.rounds
            if r.plan is not None
            for a in r.attempts
            if a.implementation is not None
        }

    def line(self, commit: str | None) -> tuple[str, ...]:
        """The commit and what it was built on, back to the first stack."""
        found: list[str] = []
        while commit is not None and commit not in found:
            found.append(commit)
            commit = self.parents.get(commit)
        return tuple(found)

    @property
    def base(self) -> str | None:
        """What the next candidate is built on unless somebody says otherwise: head, incumbent, or the fastest correct stack.

        A stack that is slower than the baseline is never kept, but it is still the best ground there is.
        """
        if self.head is not None:
            return self.head
        if self.best is not None:
            return self.best.commit
        fastest = max(self.measured, key=lambda one: one.speedup.value, default=None)
        return fastest.commit if fastest is not None else None

    def round(self, number: int) -> Round | None:
        """The round of this number, if it has a record."""
        return next((r for r in self.rounds if r.number == number), None)

    @property
    def open_rounds(self) -> tuple[Round, ...]:
        """Rounds with a record that are not closed, the oldest first."""
        return tuple(r for r in self.rounds if not r.closed)

    @property
    def closed_rounds(self) -> tuple[Round, ...]:
        """Rounds that are over, by number."""
        return tuple(r for r in self.rounds if r.closed)

    @property
    def rounds_used(self) -> int:
        """Rounds that count against the budget: all but those whose planner had nothing to try."""
        return sum(r.plan is None or r.plan.action != "stop" or r.plan.parent is not None for r in self.rounds)

    @property
    def closed_in_order(self) -> tuple[Round, ...]:
        """Rounds that are over, in the order in which they closed."""
        return tuple(sorted(self.closed_rounds, key=lambda r: r.order))

    @property
    def head(self) -> str | None:
        """The commit that the latest `return` plan made the base, unless a candidate was kept after it."""
        for current in reversed(self.closed_in_order):
            if current.kept:
                return None
            if current.plan is not None and current.plan.action == "return":
                return current.plan.parent
        return None

    # --- confirmation ----------------------------------------------------------------------------------------------------

    @cached_property
    def confirmations(self) -> tuple[StepRecord, ...]:
        """Records of confirmations that count: a valid measurement, or a candidate that failed under it."""
        return tuple(
            r
            for r in self.records
            if r.step is StepKind.CONFIRM and (r.failure is None or r.failure.failure_class is FailureClass.CANDIDATE)
        )

    def holds(self, record: StepRecord) -> bool:
        """Whether a confirmation's lower end reaches the minimum speed-up and clears the minimum effect."""
        speedup = record.result.speedup if isinstance(record.result, Measurement) else None
        floor = max(self.spec.policy.minimum_speedup, 1.0 + self.spec.policy.minimum_effect)
        return speedup is not None and speedup.low >= floor

    @property
    def contender(self) -> Candidate | None:
        """The candidate whose confirmation is due: the best first, then those that were the incumbent before it."""
        tried = len(self.confirmations)
        order = self.kept[::-1][: self.spec.policy.confirmations]
        return order[tried] if tried < len(order) else None

    # --- failures --------------------------------------------------------------------------------------------------------

    def retried(self, step: StepKind, round_number: int, attempt: int) -> Sequence[Verdict]:
        """Failures of this step that did not cost an attempt, oldest first."""
        return [
            r.failure
            for r in self.records
            if (r.step, r.round, r.attempt) == (step, round_number, attempt)
            and r.failure is not None
            and r.failure.failure_class is not FailureClass.CANDIDATE
        ]

    def execution(self, step: StepKind, round_number: int, attempt: int) -> int:
        """The number of the next execution of this step: one more than were ever begun."""
        prefix = f"{round_number:03d}/{step.value}/{attempt}/"
        return 1 + sum(1 for entry in self.ledger.entries if entry.id.startswith(prefix) and not entry.open)


def _candidate(current: Round) -> Candidate | None:
    made, speedup = current.implementation, current.speedup
    if made is None or speedup is None:
        return None
    return Candidate(current.number, made.commit, made.content_hash, speedup, current.order)


def _fold_round(number: int, records: Sequence[StepRecord], spec: RunSpec) -> Round:
    plan: Plan | None = None
    attempts: dict[int, Attempt] = {}
    looks: list[Look] = []
    ended = False
    retried: list[Verdict] = []
    for record in records:
        attempt = attempts.get(record.attempt, Attempt(number=record.attempt))
        failure = record.failure
        if failure is not None and failure.failure_class is not FailureClass.CANDIDATE:
            retried.append(failure)
            continue
        if failure is not None and looks and len(looks) % 2:
            ended = True  # it was the incumbent that failed: what was measured of the candidate stands
            continue
        update: dict[str, object] = {"failure": failure} if failure is not None else {}
        looks = [] if failure is not None else looks
        match record.result:
            case Plan():
                plan = record.result
                continue
            case Implementation():
                update["implementation"] = record.result
            case Judgement():
                update["judgement"] = record.result
            case Measurement(valid=True):
                looks.append(Look(sequence=record.sequence, measurement=record.result))
            case _:
                pass
        attempts[record.attempt] = attempt.model_copy(update=update)
    closed = (
        ended
        or sum(a.failure is not None for a in attempts.values()) >= spec.policy.attempts
        or (plan is not None and plan.action != "build")
    )
    return Round(
        number=number,
        plan=plan,
        attempts=tuple(attempts[n] for n in sorted(attempts)),
        looks=tuple(looks),
        retried=tuple(retried),
        closed=closed,
        started=min(r.started for r in records),
        finished=max(r.finished for r in records),
        order=max(r.sequence for r in records),
    )


def fold(
    spec: RunSpec,
    records: Iterable[StepRecord],
    *,
    ledger: Ledger,
    session_started: float,
    finished: Finished | None = None,
    pending: Collection[int] = (),
) -> RunState:
    """The state that the records tell, in any order and with repetitions.

    `pending` are the sequence numbers of records to come, where numbers are given to steps when they begin. Raises
    `ValueError` when two different records have one id or one sequence number, or when a number is missing: a record was
    lost or forged, and going on would decide from half of the history.
    """
    by_id: dict[str, StepRecord] = {}
    for record in records:
        known = by_id.setdefault(record.id, record)
        if known != record:
            raise ValueError(f"two different records have the id {record.id}")
    ordered = sorted(by_id.values(), key=lambda r: r.sequence)
    numbers = (number for number in itertools.count(1) if number not in pending)
    for expected, record in zip(numbers, ordered, strict=False):
        if record.sequence != expected:
            missing = "appears twice" if record.sequence < expected else "is missing"
            number = record.sequence if record.sequence < expected else expected
            raise ValueError(f"record number {number} of the run {missing} (found {record.id})")
    return RunState(spec, tuple(ordered), ledger, session_started, finished)
