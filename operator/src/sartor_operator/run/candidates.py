"""`ServingCandidate`: one for each round that builds, made from its plan, its status folded from the records."""

from collections.abc import Iterable
from typing import Any

from sartor_api.conditions import ConditionType, Reason
from sartor_api.fields import ObjectReference
from sartor_api.search.comparison import gain
from sartor_api.search.records import Plan, Verdict
from sartor_api.search.state import Round, RunState
from sartor_api.serving_candidate import (
    CandidatePhase,
    GateVerdict,
    Hypothesis,
    ServingCandidateSpec,
    ServingCandidateStatus,
)
from sartor_operator import names
from sartor_operator.actions import Apply, StatusOf
from sartor_operator.conditions import Wanted, conditions
from sartor_operator.kinds import CANDIDATE, Manifest
from sartor_operator.run.observe import RunObserved
from sartor_operator.shown import decimal, shown_cost, shown_speedup
from sartor_operator.times import at

_MOST_VERDICTS = 32


def candidate_name(observed: RunObserved, round_number: int) -> str:
    """Name of the ServingCandidate of a round."""
    return names.child_name(observed.prefix, observed.uid, f"r{round_number:03d}")


def branch(round_number: int) -> str:
    """Branch of a round's candidate in the run's repository."""
    return f"candidate/{round_number:03d}"


def candidates(observed: RunObserved, run: RunState, now: float) -> tuple[list[Apply], list[StatusOf]]:
    """Candidates that are missing, and the statuses of those that are there."""
    present = {names.name_of(m): m for m in observed.candidates}
    missing: list[Apply] = []
    statuses: list[StatusOf] = []
    for one in run.rounds:
        if one.plan is None or one.plan.action != "build":
            continue
        name = candidate_name(observed, one.number)
        manifest = present.get(name)
        if manifest is None:
            missing.append(Apply(_manifest(observed, run, one, one.plan, name), "sartor-run"))
        elif not names.deleting(manifest):
            statuses.append(StatusOf(CANDIDATE, manifest, _status(observed, run, one, manifest, now)))
    return missing, statuses


def _manifest(observed: RunObserved, run: RunState, one: Round, plan: Plan, name: str) -> Manifest:
    parent = _round_of(run.rounds, plan.parent)
    spec = ServingCandidateSpec(
        run_ref=ObjectReference(name=observed.name, uid=observed.uid),
        round=one.number,
        parent=candidate_name(observed, parent) if parent is not None else None,
        branch=branch(one.number),
        hypothesis=Hypothesis(
            summary=plan.hypothesis[:4096],
            active_evidence=plan.evidence_active[:4096],
            refuted_by=plan.refuted_by[:4096],
            forecast=None if plan.forecast_speedup is None else decimal(plan.forecast_speedup),
            recipes=tuple(recipe.name[:256] for recipe in plan.recipes[:32]),
        ),
    )
    labels = {
        names.SYNTHESIS_LABEL: names.label(observed.manifest, names.SYNTHESIS_LABEL),
        names.RUN_LABEL: observed.name,
    }
    return {
        "apiVersion": CANDIDATE.api_version,
        "kind": CANDIDATE.kind,
        "metadata": names.metadata(name, observed.manifest, labels),
        "spec": spec.to_dict(),
    }


def _round_of(rounds: Iterable[Round], commit: str | None) -> int | None:
    made = ((r.number, a.implementation) for r in rounds for a in r.attempts)
    return next((number for number, done in made if done is not None and done.commit == commit), None)


def _phase(one: Round) -> CandidatePhase:
    if one.measurement is not None:
        return CandidatePhase.KEPT if one.kept else CandidatePhase.DROPPED
    last = one.attempts[-1] if one.attempts else None
    if one.closed:
        judged = last is not None and last.judgement is not None and not last.judgement.passed
        return CandidatePhase.REJECTED if judged else CandidatePhase.FAILED
    if last is None or last.failure is not None or last.implementation is None:
        return CandidatePhase.IMPLEMENTING
    return CandidatePhase.JUDGING if last.judgement is None else CandidatePhase.EVALUATING


def _verdicts(one: Round) -> tuple[GateVerdict, ...]:
    """What the gates said of the latest attempt, each gate once, and what ended it."""
    last = one.attempts[-1] if one.attempts else None
    if last is None:
        return ()
    said: list[Verdict] = [
        *(last.judgement.verdicts if last.judgement else ()),
        *((last.failure,) if last.failure else ()),
    ]
    by_gate: dict[str, GateVerdict] = {}
    for verdict in said:
        by_gate.setdefault(
            verdict.gate,
            GateVerdict(
                gate=verdict.gate[:256],
                passed=verdict.passed,
                reason=verdict.reason[:256],
                message=verdict.message[:1024],
                failure_class=None if verdict.failure_class is None else verdict.failure_class.value,
            ),
        )
    return tuple(by_gate.values())[:_MOST_VERDICTS]


def _message(one: Round, phase: CandidatePhase) -> str:
    match phase:
        case CandidatePhase.KEPT:
            return "faster than what was best before it"
        case CandidatePhase.DROPPED:
            return "right, and not faster than what is best by the minimum effect"
        case CandidatePhase.REJECTED | CandidatePhase.FAILED:
            failure = one.failure
            return f"{failure.reason}: {failure.message}"[:4096] if failure else ""
        case _:
            latest = one.retried[-1] if one.retried else None
            return f"tried again after {latest.reason}: {latest.message}"[:4096] if latest else ""


def _status(observed: RunObserved, run: RunState, one: Round, manifest: Manifest, now: float) -> ServingCandidateStatus:
    before: dict[str, Any] = manifest.get("status") or {}
    phase = _phase(one)
    done = one.implementation
    message = _message(one, phase)
    records = [r for r in run.records if r.round == one.number]
    cost = records[0].cost
    for record in records[1:]:
        cost = cost + record.cost
    stored = {r.record.id: r.commit for r in observed.records}
    price = observed.place.hardware.price_per_hour
    parent = next((k for k in run.kept if one.plan is not None and k.commit == one.plan.parent), None)
    passed = one.measurement is not None
    wanted = [
        Wanted(
            ConditionType.READY,
            "True" if passed else ("False" if one.closed else "Unknown"),
            Reason.SUCCEEDED if passed else (Reason.CANDIDATE_FAILURE if one.closed else Reason.PROGRESSING),
            message,
        )
    ]
    if not one.closed:
        wanted.append(Wanted(ConditionType.RECONCILING, "True", Reason.PROGRESSING, message))
    generation = int(manifest["metadata"].get("generation", 1))
    return ServingCandidateStatus(
        observed_generation=generation,
        phase=phase,
        message=message,
        conditions=conditions(before.get("conditions", ()), wanted, generation=generation, now=now),
        commit=done.commit if done else None,
        content_hash=f"sha256:{done.content_hash}" if done else None,
        attempts=len(one.attempts),
        verdicts=_verdicts(one),
        speedup=shown_speedup(one.speedup) if one.speedup else None,
        speedup_over_parent=(
            shown_speedup(gain(one.speedup, parent.speedup)) if one.speedup and parent is not None else None
        ),
        spent=shown_cost(
            cost,
            rounds=1,
            seconds=sum(r.finished - r.started for r in records),
            currency=price.currency if price else None,
        ),
        evidence=next((stored[r.id] for r in reversed(records) if stored.get(r.id)), None),
        finished_at=at(one.finished) if one.closed else None,
    )
