"""One execution of one step: that it runs, that it ended, its record and its sealed seed."""

import hashlib
import hmac
from dataclasses import dataclass, replace

from sartor_api.conditions import Reason
from sartor_api.search.agents import AgentSettings, RoleName
from sartor_api.search.budget import ZERO
from sartor_api.search.estimate import held_cost
from sartor_api.search.grants import LONGER_SECONDS, Grant, step_grant
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
    GRANT,
    ROLE,
    SEED_KEY,
    StepObjects,
    step_labels,
)
from sartor_operator.pods.state import End
from sartor_operator.run.observe import RunObserved
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
    told: bool = False
    """Whether its role said what it cost."""


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


def grant_secret(observed: RunObserved, begin: StepBegin, name: str, role: RoleName, now: float) -> Manifest:
    """The Secret with what one step's agent may spend at the model proxy: worth no more than that, and until its end."""
    models, spec = observed.models, observed.spec
    assert models is not None and models.grant_key is not None and spec is not None, "the proxy is ready"
    grant = _grant(begin, observed.name, spec, role, now + begin.deadline_seconds + LONGER_SECONDS)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": names.metadata(name, observed.manifest, step_labels(observed.manifest, begin, ROLE[begin.step])),
        "immutable": True,
        "stringData": {GRANT: grant.signed(models.grant_key.encode())},
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


def asking(observed: RunObserved, begin: StepBegin) -> RoleName | None:
    """The role that asks a model in this step."""
    assert observed.spec is not None, "a run with a step has its spec"
    return AgentSettings.model_validate(observed.spec.agents).asks(begin.step)


def unbooked(observed: RunObserved, begin: StepBegin, ended: Ended) -> bool:
    """Whether nobody said what the step cost, and it had a pod that could spend: then the model proxy knows."""
    if ended.told or asking(observed, begin) is None:
        return False
    # Its grant alone spends nothing: a reviewing judge has one before its candidate has started.
    return StepObjects.of(observed.prefix, observed.uid, begin.id).job in map(names.name_of, observed.jobs)


def booked(observed: RunObserved, begin: StepBegin, ended: Ended) -> Ended:
    """The end with what the proxy says that the step spent; all that was reserved for it where the proxy says nothing."""
    if not unbooked(observed, begin, ended):
        return ended
    return replace(ended, cost=observed.spent.get(begin.id) or begin.reserve)


def own_grant(observed: RunObserved, begin: StepBegin, now: float) -> Grant:
    """The operator's own, to ask what a step spent."""
    role, spec = asking(observed, begin), observed.spec
    assert role is not None and spec is not None, "the step asks a model"
    return _grant(begin, observed.name, spec, role, now + LONGER_SECONDS)


def _grant(begin: StepBegin, run: str, spec: RunSpec, role: RoleName, expires: float) -> Grant:
    return step_grant(
        begin.id,
        run=run,
        role=role,
        model=AgentSettings.model_validate(spec.agents).roles[role].model,
        reserve=begin.reserve,
        budget=spec.budget,
        expires=expires,
    )


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
