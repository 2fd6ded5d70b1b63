"""One execution of one step: that it runs, that it ended, its record and its sealed seed."""

import hashlib
import hmac
from dataclasses import dataclass

from sartor_api.conditions import Reason
from sartor_api.search.budget import ZERO
from sartor_api.search.estimate import held_cost
from sartor_api.search.leaks import canary_of
from sartor_api.search.records import (
    Cost,
    FailureClass,
    RunSpec,
    StepKind,
    StepRecord,
    StepResult,
    Verdict,
)
from sartor_operator import names
from sartor_operator.actions import Action
from sartor_operator.kinds import Manifest
from sartor_operator.pods.jobs import (
    CANARY_KEY,
    ROLE,
    SEED_KEY,
    step_labels,
)
from sartor_operator.pods.state import End
from sartor_operator.wire import (
    StepBegin,
    StoredRecord,
    failed,
)

JUDGED = frozenset({StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM})
"""Steps that look at a candidate beside the baseline."""


@dataclass(frozen=True)
class Ended:
    """The step is over. Times are Unix seconds."""

    result: StepResult
    started: float
    finished: float
    cost: Cost = ZERO
    commit: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Running:
    """The step goes on. `started` is None while it waits for something that is not its own time (quota, suspension)."""

    message: str
    started: float | None
    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    reason: Reason = Reason.PROGRESSING


def seed_of(seal: str, step_id: str) -> str:
    """The sealed seed of a step: 64 hexadecimal digits, derived from the run's key. A repeated step has another one."""
    return hmac.new(bytes.fromhex(seal), step_id.encode(), hashlib.sha256).hexdigest()


def seed_secret(run: Manifest, begin: StepBegin, name: str, seal: str) -> Manifest:
    """The Secret with one step's seed, and the run's canary beside it, for its judge or evaluator alone."""
    labels = step_labels(run, begin, ROLE[begin.step])
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": names.metadata(name, run, labels),
        "immutable": True,
        "stringData": {SEED_KEY: seed_of(seal, begin.id), CANARY_KEY: canary_of(seal)},
    }


def verdict_of(begin: StepBegin, end: End) -> Verdict:
    failure_class = end.failure_class
    if begin.step in (StepKind.BASELINE, StepKind.PLAN) and failure_class is FailureClass.CANDIDATE:
        failure_class = FailureClass.INFRASTRUCTURE
    return failed(begin.step.value, end.reason, end.message, failure_class)


def over(begin: StepBegin, end: End, begun: float, finished: float) -> Ended:
    return Ended(verdict_of(begin, end), begun, max(begun, finished))


def failure(begin: StepBegin, now: float, reason: str, message: str) -> Ended:
    return over(begin, End(reason, message, FailureClass.INFRASTRUCTURE), begin.begun, now)


def seed_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record_of(begin: StepBegin, ended: Ended, spec: RunSpec) -> StoredRecord:
    """The record of a step that ended; the hardware that it held is booked by its duration."""
    used = ended.cost.model_copy(update={"accelerator_seconds": 0.0})
    spent = used + held_cost(spec, begin.step, ended.finished - ended.started)
    record = StepRecord(
        id=begin.id,
        sequence=begin.sequence,
        step=begin.step,
        round=begin.round,
        attempt=begin.attempt,
        started=ended.started,
        finished=ended.finished,
        cost=spent,
        result=ended.result,
    )
    return StoredRecord(record=record, commit=ended.commit, digest=ended.digest)
