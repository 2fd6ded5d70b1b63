"""What a synthesis needs next: a pure, total function of what is observed and the time.

| in this order | what is done |
|---|---|
| no run for this intent, and something is missing, or it cannot pay | say so; look again when it changes |
| no run for this intent, suspended | hold |
| no run for this intent | make one: an immutable snapshot under a name that follows from its number and the intent |
| the run has no winner (yet) | show what the run says; an older winner serves on |
| the run won | deliver: content, baseline and stack, then say that they are ready |
| the same, and traffic is moved through a Gateway | make its rollout, and say how it stands (`rollouts`) |
| a stack is not used any more | remove it after its drain (`retire`) |
| the run ended, and another search is due (`resynthesis`) | make its run, after the cooldown |
| more ended runs than are kept | remove the oldest |
"""

from dataclasses import dataclass

from sartor_api.conditions import Reason
from sartor_api.fields import ObjectReference
from sartor_api.search.records import Outcome
from sartor_api.serving_synthesis import SynthesisPhase
from sartor_api.synthesis_run import RunCause, Snapshot, SynthesisRunSpec
from sartor_operator import names
from sartor_operator.actions import Action, Create, Decision, Delete, StatusOf, Tell
from sartor_operator.kinds import RUN, SYNTHESIS, Manifest
from sartor_operator.run.decide import look
from sartor_operator.synthesis.access import missing_access
from sartor_operator.synthesis.delivery import Delivery, deliver, keep
from sartor_operator.synthesis.observe import SynthesisObserved
from sartor_operator.synthesis.references import agents_of, forecast, needed_secrets, refusal
from sartor_operator.synthesis.resynthesis import cause_of, due, environment_of, unseen
from sartor_operator.synthesis.retire import retire
from sartor_operator.synthesis.rollouts import Rolling, forget, roll_out
from sartor_operator.synthesis.status import Verdict, synthesis_status
from sartor_operator.synthesis.told import told_of_rollouts
from sartor_operator.times import format_time

RECHECK_SECONDS = 30.0
"""How often a missing Secret is looked for: Secrets of others are not watched."""


@dataclass(frozen=True)
class Beginning:
    """What comes of the wish for a run: `verdict` stands for the whole synthesis, `note` beside what is said of its run."""

    actions: tuple[Action, ...] = ()
    verdict: Verdict | None = None
    note: str = ""
    cooldown: bool = False
    wake_at: float | None = None


def secrets_to_read(observed: SynthesisObserved, now: float) -> list[str]:
    """Names of Secrets whose keys have to be known before a run can begin; none while no run is wanted."""
    if observed.current is not None and ((wanted := due(observed)) is None or now < wanted.not_before):
        return []
    found = observed.references
    return sorted({ref.name for _, ref in needed_secrets(found.synthesis, found.target, found.profile)})


def decide_synthesis(observed: SynthesisObserved, now: float) -> Decision:
    """What to write, the status to show, and when to look again."""
    if names.deleting(observed.manifest):
        return Decision()  # the garbage collector takes everything that the synthesis owns
    access = missing_access(observed.namespace, observed.access, policies=observed.settings.network_policies)
    delivery = _delivery(observed)
    rolling = roll_out(observed, delivery, observed.content)
    rejected = observed.traffic.rejected(observed.content)
    retiring = retire(observed, observed.content if observed.rolls_out and not rejected else "", now)
    beginning = _beginning(observed, now)
    verdict = beginning.verdict or _verdict(observed, delivery, rolling)
    if beginning.note:
        verdict = verdict.with_note(beginning.note, Reason.COOLDOWN if beginning.cooldown else None)
    if vain := unseen(observed.synthesis.spec):
        verdict = verdict.with_note(vain)
    told = _delivered(observed, delivery, verdict)
    delivered = [*(delivery.actions if delivery else ()), *(() if observed.damaged else keep(observed))]
    rolled = [*rolling.actions, *retiring.actions, *forget(observed)]
    actions: list[Action] = [*access, *delivered, *rolled, *_history(observed), *beginning.actions]
    ahead = forecast(observed.references) if observed.current is None else None
    status = synthesis_status(observed, verdict, ahead, now)
    if _said_before(observed, verdict):
        actions = [a for a in actions if not isinstance(a, Tell)]
        told = ()
    told = (*told, *told_of_rollouts(observed, delivery))
    wake = min((m for m in (beginning.wake_at, retiring.wake_at) if m is not None), default=None)
    statuses = (StatusOf(SYNTHESIS, observed.manifest, status),)
    return Decision((*actions, *told), statuses, wake, rests_on=retiring.rests_on)


def _beginning(observed: SynthesisObserved, now: float) -> Beginning:
    """A run, where one is wanted and possible; else why not."""
    again = due(observed)
    if observed.current is not None and again is None:
        return Beginning()
    what = f"another search is due ({again.why})" if again is not None else ""
    if again is not None and now < again.not_before:
        note = f"{what}; it begins when the cooldown ends, {format_time(again.not_before)}"
        return Beginning(note=note, cooldown=True, wake_at=again.not_before)
    refused = refusal(observed.references)
    if refused is not None:
        wake = now + RECHECK_SECONDS if refused.reason is Reason.SECRET_NOT_FOUND else None
        told = _told(observed, "Stalled", refused.message, refused.reason.value, warning=True)
        if again is not None:
            return Beginning((told,), note=f"{what} and cannot begin: {refused.message}", wake_at=wake)
        return Beginning((told,), Verdict.refused(refused.reason, refused.message), wake_at=wake)
    if observed.synthesis.spec.suspend:
        if again is not None:
            return Beginning(note=f"{what}; spec.suspend holds it")
        return Beginning(verdict=Verdict.suspended("spec.suspend is true; set it to false to begin"))
    made = run_manifest(observed, again.cause if again is not None else cause_of(observed))
    name = names.name_of(made)
    text = f"SynthesisRun {name} begins{f': {again.why}' if again is not None else ''}"
    verdict = Verdict.starting()
    if observed.winner is not None:
        verdict = verdict.with_older(observed.winner.name)
    return Beginning((_told(observed, "RunStarted", text, name), Create(made)), verdict)


def _verdict(observed: SynthesisObserved, delivery: Delivery | None, rolling: Rolling) -> Verdict:
    current, winner = observed.current, observed.winner
    assert current is not None, "there is a run for this intent"
    if winner is None:
        return Verdict.of_run(current)
    if winner.name == current.name:
        return _serving(observed, delivery, rolling)
    if current.ended and names.label(winner.manifest, names.INTENT_LABEL) == observed.intent:
        # The same was searched for again, in vain: what was found before is still what is wanted.
        said = f"SynthesisRun {current.name} found nothing better than {winner.name}: {current.status.message}"
        return _serving(observed, delivery, rolling).with_note(said)
    if observed.rolls_out:
        found = Verdict.of_run(current)
        return found if rolling.verdict is None else found.with_note(f"of {winner.name}: {rolling.verdict.message}")
    return Verdict.of_run(current).with_older(winner.name)


def _serving(observed: SynthesisObserved, delivery: Delivery | None, rolling: Rolling) -> Verdict:
    """How the delivery of the winner stands, or its rollout."""
    before = (observed.manifest.get("status") or {}).get("phase")
    serving = bool(observed.serving) if observed.rolls_out else before == "Serving"
    if observed.damaged:
        text = f"ConfigMap {observed.damaged[0]} cannot be read; delete it, and what it held is published again"
        return Verdict.stuck(Reason.INFRASTRUCTURE_FAILURE, text)
    if rolling.verdict is not None:
        return rolling.verdict
    if delivery is None:
        if observed.synthesis.spec.delivery.mode == "none":
            return Verdict.kept()
        return Verdict.delivering("the winner's records are read", serving=serving)
    if delivery.problem:
        return Verdict.undeliverable(delivery.problem)
    if delivery.stuck is not None:
        return Verdict.stuck(delivery.stuck, delivery.missing)
    if delivery.missing:
        return Verdict.delivering(delivery.missing, serving=serving)
    return Verdict.delivered()


def _delivery(observed: SynthesisObserved) -> Delivery | None:
    """What the winner needs in the cluster; None without a winner, or where the winner is not to be delivered."""
    winner = observed.winner
    if (
        winner is None
        or winner.spec is None
        or winner.ending is None
        or observed.damaged
        or observed.synthesis.spec.delivery.mode != "apply"
    ):
        return None
    finished = winner.ending.finished
    if finished is None or finished.outcome is not Outcome.CONFIRMED:
        return None
    try:
        run = look(winner, winner.spec, finished.at).run
    except ValueError as error:
        return Delivery((), problem=f"the records of SynthesisRun {winner.name} do not fit together: {error}")
    return deliver(observed, run, finished)


def run_manifest(observed: SynthesisObserved, cause: RunCause) -> Manifest:
    """The next run, for the intent as it is now.

    Its number is one more than that of the newest run, which is never removed before a newer one is there. So a name is
    used once, and an operator that does not see the newest run yet makes that one again, which changes nothing.
    """
    found = observed.references
    assert found.target is not None, "references were checked"
    snapshot = Snapshot(
        synthesis=observed.synthesis.spec,
        hardware=found.target.spec,
        agents=agents_of(found.profile),
        environment=environment_of(observed),
    )
    number = max((r.number for r in observed.runs), default=0) + 1
    spec = SynthesisRunSpec(
        synthesis_ref=ObjectReference(
            name=observed.name, uid=observed.uid, generation=int(observed.manifest["metadata"].get("generation", 1))
        ),
        cause=cause,
        content_hash=names.sha256(snapshot.to_dict(defaults=True)),
        snapshot=snapshot,
    )
    name = names.child_name(observed.name, observed.uid, str(number), observed.intent[:8])
    labels = {names.SYNTHESIS_LABEL: observed.name, names.INTENT_LABEL: observed.intent}
    return {
        "apiVersion": RUN.api_version,
        "kind": RUN.kind,
        "metadata": names.metadata(name, observed.manifest, labels),
        "spec": spec.to_dict(),
    }


def _history(observed: SynthesisObserved) -> list[Delete]:
    """Ended runs beyond those that are kept, oldest first. Not counted: the current one, those that serve, the newest."""
    used = (observed.current, observed.winner, *observed.served.values(), *observed.runs[-1:])
    kept = {r.name for r in used if r is not None}
    old = [r for r in observed.runs if r.ended and r.name not in kept]
    surplus = old[: max(0, len(old) - observed.settings.keep_runs)]
    return [Delete(RUN, observed.namespace, r.name, names.uid(r.manifest)) for r in surplus]


def _told(observed: SynthesisObserved, reason: str, message: str, key: str, *, warning: bool = False) -> Tell:
    return Tell(observed.manifest, reason, message, key, warning)


def _delivered(observed: SynthesisObserved, delivery: Delivery | None, verdict: Verdict) -> tuple[Tell, ...]:
    winner = observed.winner
    finished = winner.ending.finished if winner is not None and winner.ending is not None else None
    if delivery is None or delivery.missing or observed.rolls_out or verdict.phase is not SynthesisPhase.SERVING:
        return ()
    if finished is None or finished.content_hash is None:
        return ()
    key = finished.content_hash[:16]
    return (_told(observed, "Delivered", f"{verdict.message}: content {key[:12]}", key),)


def _said_before(observed: SynthesisObserved, verdict: Verdict) -> bool:
    """Whether the status says this already, so that its Event was sent, too."""
    before = observed.manifest.get("status") or {}
    return before.get("phase") == verdict.phase.value and before.get("message") == verdict.message[:4096]
