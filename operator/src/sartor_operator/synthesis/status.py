"""The status of a synthesis: one screen, from the status of its run and from what is delivered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sartor_api.conditions import ConditionType, Reason
from sartor_api.fields import Money, ObjectReference
from sartor_api.meta import Condition
from sartor_api.quantities import DecimalString, Duration
from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.serving_rollout import RolloutPhase
from sartor_api.serving_synthesis import PaybackSummary, RolloutSummary, ServingSynthesisStatus, Spent, SynthesisPhase
from sartor_api.synthesis_run import RunPhase, SynthesisRunStatus
from sartor_operator.conditions import AnyReason, Wanted, conditions, done, held, stalled, working
from sartor_operator.reasons import OperatorReason
from sartor_operator.shown import decimal
from sartor_operator.synthesis.observe import RunSeen, SynthesisObserved
from sartor_operator.synthesis.traffic import DIGEST, MOST_REJECTED, RolloutSeen
from sartor_operator.understood import derived

_PHASES = {
    RunPhase.PENDING: SynthesisPhase.PENDING,
    RunPhase.BASELINE: SynthesisPhase.BASELINE,
    RunPhase.ROUND: SynthesisPhase.SEARCHING,
    RunPhase.CONFIRMING: SynthesisPhase.CONFIRMING,
    RunPhase.PAUSED: SynthesisPhase.SUSPENDED,
    RunPhase.NO_GAIN: SynthesisPhase.NO_GAIN,
    RunPhase.CANCELLED: SynthesisPhase.FAILED,
    RunPhase.FAILED: SynthesisPhase.FAILED,
}

_FROM_RUN = (ConditionType.BASELINE_READY, ConditionType.CONFIRMED, ConditionType.WITHIN_BUDGET)
_RECENT_ROUNDS = 3


@dataclass(frozen=True)
class Verdict:
    """Where the synthesis stands, in one word, one sentence and its conditions."""

    phase: SynthesisPhase
    message: str
    wanted: tuple[Wanted, ...]

    @classmethod
    def refused(cls, reason: AnyReason, message: str) -> "Verdict":
        return cls(SynthesisPhase.PENDING, message, tuple(stalled(reason, message)))

    @classmethod
    def suspended(cls, message: str) -> "Verdict":
        return cls(SynthesisPhase.SUSPENDED, message, tuple(held(Reason.SUSPENDED, message)))

    @classmethod
    def starting(cls) -> "Verdict":
        message = "the search begins"
        return cls(SynthesisPhase.PENDING, message, tuple(working(Reason.PROGRESSING, message)))

    @classmethod
    def delivering(cls, message: str, *, serving: bool) -> "Verdict":
        phase = SynthesisPhase.SERVING if serving else SynthesisPhase.DELIVERING
        delivered = Wanted(ConditionType.DELIVERED, "False", OperatorReason.DELIVERING, message)
        return cls(phase, message, (*working(OperatorReason.DELIVERING, message), delivered))

    @classmethod
    def stuck(cls, reason: AnyReason, message: str) -> "Verdict":
        delivered = Wanted(ConditionType.DELIVERED, "False", reason, message)
        return cls(SynthesisPhase.DELIVERING, message, (*stalled(reason, message), delivered))

    @classmethod
    def undeliverable(cls, message: str) -> "Verdict":
        delivered = Wanted(ConditionType.DELIVERED, "False", Reason.CANDIDATE_FAILURE, message)
        return cls(SynthesisPhase.FAILED, message, (*stalled(Reason.CANDIDATE_FAILURE, message), delivered))

    @classmethod
    def kept(cls) -> "Verdict":
        message = "the winner is confirmed and stays in the run's repository (spec.delivery.mode: none)"
        delivered = Wanted(ConditionType.DELIVERED, "False", OperatorReason.NOT_DELIVERED, message)
        return cls(SynthesisPhase.SERVING, message, (*done(Reason.SUCCEEDED, message), delivered))

    @classmethod
    def delivered(cls) -> "Verdict":
        message = "the stack and its baseline are ready"
        delivered = Wanted(ConditionType.DELIVERED, "True", Reason.SUCCEEDED, message)
        return cls(SynthesisPhase.SERVING, message, (*done(Reason.SUCCEEDED, message), delivered))

    @classmethod
    def waiting(cls, message: str) -> "Verdict":
        """Everything is ready, and a human holds it."""
        return cls(SynthesisPhase.SUSPENDED, message, (*held(Reason.SUSPENDED, message), _in_place()))

    @classmethod
    def rolling_out(cls, message: str) -> "Verdict":
        """A rollout is about to be there."""
        return cls(SynthesisPhase.ROLLING_OUT, message, (*working(Reason.PROGRESSING, message), _in_place()))

    @classmethod
    def serving(cls, message: str) -> "Verdict":
        """The stack has the traffic, and no rollout of its own has to go on."""
        return cls(SynthesisPhase.SERVING, message, (*done(Reason.SERVING, message), _in_place()))

    @classmethod
    def of_rollout(cls, rollout: RolloutSeen, missing: str) -> "Verdict":
        """A rollout that has not ended: its own words. `missing`: what of the Deployments is not as it should be."""
        said = rollout.status.message or "it begins"
        message = f"ServingRollout {rollout.name}: {said}"
        ready = rollout.condition(ConditionType.READY)
        reason: AnyReason = _reason(ready.reason) if ready is not None else Reason.PROGRESSING
        delivered = Wanted(ConditionType.DELIVERED, "False", OperatorReason.DELIVERING, missing)
        there = delivered if missing else _in_place()
        if rollout.refused:
            return cls(SynthesisPhase.ROLLED_BACK, message, (*stalled(reason, message), there))
        if rollout.promoted and ready is not None and ready.status == "True":
            return cls(SynthesisPhase.SERVING, message, (*done(Reason.SERVING, message), there))
        phase = SynthesisPhase.SERVING if rollout.promoted else SynthesisPhase.ROLLING_OUT
        found = rollout.condition(ConditionType.STALLED), rollout.condition(ConditionType.RECONCILING)
        if found[0] is not None and found[0].status == "True":
            return cls(phase, message, (*stalled(reason, message), there))
        moves = ready is None or (found[1] is not None and found[1].status == "True")
        return cls(phase, message, (*(working if moves else held)(reason, message), there))

    @classmethod
    def rolled_back(cls, rollout: RolloutSeen) -> "Verdict":
        """The winner's bytes came back, and stay where they are."""
        ready = rollout.condition(ConditionType.READY)
        reason: AnyReason = _reason(ready.reason) if ready is not None else Reason.ROLLED_BACK
        message = (
            f"ServingRollout {rollout.name}: {rollout.status.message}; these bytes are not rolled out again by themselves: "
            f"delete ServingRollout {rollout.name} to try them again, or give the annotation sartor.dev/resynthesize "
            "another value to search for others"
        )
        delivered = Wanted(
            ConditionType.DELIVERED, "False", Reason.CONTENT_REJECTED, f"came back: {rollout.content[:12]}"
        )
        return cls(SynthesisPhase.ROLLED_BACK, message, (*stalled(reason, message), delivered))

    @classmethod
    def of_run(cls, run: RunSeen) -> "Verdict":
        """A run that has no winner (yet): its own words."""
        status = run.status
        phase = _PHASES.get(status.phase or RunPhase.PENDING, SynthesisPhase.PENDING)
        ready = _condition(status, ConditionType.READY)
        reason: AnyReason = _reason(ready.reason) if ready is not None else Reason.PROGRESSING
        message = status.message or "the search begins"
        if phase is SynthesisPhase.NO_GAIN:
            text = (
                f"{message}; the baseline serves on. To search again change the spec, or give the annotation "
                "sartor.dev/resynthesize another value"
            )
            return cls(phase, text, tuple(stalled(reason, text)))
        if phase is SynthesisPhase.FAILED:
            text = f"{message}; change the spec, or delete SynthesisRun {run.name} to try again"
            return cls(phase, text, tuple(stalled(reason, text)))
        if phase is SynthesisPhase.SUSPENDED:
            return cls(phase, message, tuple(held(reason, message)))
        if _condition(status, ConditionType.STALLED) is not None:
            return cls(phase, message, tuple(stalled(reason, message)))
        return cls(phase, message, tuple(working(reason, message)))

    def with_older(self, name: str) -> "Verdict":
        """The same, while the winner of an older run serves on."""
        message = f"{self.message} (the winner of {name} serves on)"
        return Verdict(self.phase, message, self.wanted)

    def with_note(self, note: str, reason: AnyReason | None = None) -> "Verdict":
        """The same with one thing more to know; `reason` replaces that of a condition `Ready` that holds."""
        message = f"{self.message}; {note}"

        def noted(one: Wanted) -> Wanted:
            if one.message != self.message:
                return one
            holds = one.type is ConditionType.READY and one.status == "True"
            return replace(one, message=message, reason=reason if reason is not None and holds else one.reason)

        return Verdict(self.phase, message, tuple(noted(one) for one in self.wanted))


def _in_place() -> Wanted:
    return Wanted(ConditionType.DELIVERED, "True", Reason.SUCCEEDED, "the stack and its baseline are in the cluster")


def _condition(status: SynthesisRunStatus, kind: ConditionType) -> Condition | None:
    return next((c for c in status.conditions if c.type == kind.value and c.status == "True"), None) or next(
        (c for c in status.conditions if c.type == kind.value and kind is ConditionType.READY), None
    )


def _reason(word: str) -> AnyReason:
    return OperatorReason(word) if word in set(OperatorReason) else Reason(word)


def synthesis_status(
    observed: SynthesisObserved, verdict: Verdict, ahead: PaybackSummary | None, now: float
) -> ServingSynthesisStatus:
    """The whole status. `ahead` is what is known of payback before a run has begun."""
    before = observed.manifest.get("status") or {}
    generation = int(observed.manifest["metadata"].get("generation", 1))
    current, winner = observed.current, observed.winner
    status = current.status if current is not None else SynthesisRunStatus()
    wanted = list(verdict.wanted)
    for kind in _FROM_RUN:
        found = (one for one in status.conditions if one.type == kind.value)
        wanted += [Wanted(kind, one.status, _reason(one.reason), one.message) for one in found]
    summary = status.payback if current is not None else ahead
    if summary is not None and summary.pays is not None:
        pays = "True" if summary.pays else "False"
        reason = Reason.SUCCEEDED if summary.pays else Reason.CANNOT_PAY_BACK
        wanted.append(Wanted(ConditionType.PAYS_BACK, pays, reason, summary.message))
    won = next((r for r in observed.runs if winner is not None and r.name == winner.name), None)
    # A search that ended in vain has a best, too, and it is not what serves.
    mine = current is not None and current.status.best is not None and (current.won or not current.ended)
    shown = current if mine or won is None else won
    ended = [r.status.finished_at for r in observed.runs if r.status.finished_at is not None]
    return ServingSynthesisStatus(
        observed_generation=generation,
        phase=verdict.phase,
        message=verdict.message[:4096],
        conditions=conditions(before.get("conditions", ()), wanted, generation=generation, now=now),
        run=_reference(current),
        serving_run=_reference(won if not observed.rolls_out else _serving_run(observed)),
        baseline=status.baseline,
        best=shown.status.best if shown is not None else None,
        spent=status.spent if current is not None else None,
        next_round_cost=_next_round(observed) if current is not None and not current.ended else None,
        payback=summary,
        rollout=_summary(observed),
        rejected_content=tuple(f"{DIGEST}{content}" for content in observed.traffic.rejections[:MOST_REJECTED]),
        last_synthesis_time=max(ended, default=None),
    )


def _serving_run(observed: SynthesisObserved) -> RunSeen | None:
    """The run whose stack has the traffic; None while the baseline has it."""
    return next((r for r in reversed(observed.runs) if r.won and r.content == (observed.serving or None)), None)


def shown_rollout(observed: SynthesisObserved) -> RolloutSeen | None:
    """The rollout that the status tells of: the winner's, else the newest."""
    mine = observed.traffic.of(observed.content) if observed.content else None
    return mine or next(reversed(observed.traffic.rollouts), None)


def _summary(observed: SynthesisObserved) -> RolloutSummary | None:
    shown = shown_rollout(observed)
    if shown is None:
        return None
    said = shown.status
    policy = derived(RolloutPolicy, (shown.manifest.get("spec") or {}).get("policy"))
    return RolloutSummary(
        name=shown.name,
        phase=(said.phase or RolloutPhase.PENDING).value,
        step=said.step,
        steps=len(policy.steps),
        weight=said.candidate.weight,
        message=said.message,
        baseline=shown.service("baseline"),
        candidate=shown.service("candidate"),
    )


def _reference(run: RunSeen | None) -> ObjectReference | None:
    if run is None:
        return None
    return ObjectReference(name=run.name, uid=str(run.manifest["metadata"]["uid"]))


def _next_round(observed: SynthesisObserved) -> Spent | None:
    """The mean of the last rounds."""
    costs = [c.spent for c in observed.rounds if c.spent is not None and c.finished_at is not None][-_RECENT_ROUNDS:]
    if not costs:
        return None
    count = len(costs)
    money = [float(c.money.amount.number) for c in costs if c.money is not None]
    currency = next((c.money.currency for c in costs if c.money is not None), None)
    return Spent(
        rounds=1,
        wall_clock=Duration.of(round(sum(c.wall_clock.seconds for c in costs) / count)),
        accelerator_hours=_mean([float(c.accelerator_hours.number) for c in costs]),
        tokens=sum(c.tokens for c in costs) // count,
        money=None if currency is None else Money(amount=decimal(sum(money) / count, 2), currency=currency),
    )


def _mean(values: Sequence[float]) -> DecimalString:
    return decimal(sum(values) / len(values))
