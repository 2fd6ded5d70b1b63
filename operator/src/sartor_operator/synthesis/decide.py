"""What a synthesis needs next: a pure, total function of what is observed and the time.

| in this order | what is done |
|---|---|
| no run for this intent, and something it refers to is missing | say so; look again when it changes |
| no run for this intent, suspended | hold |
| no run for this intent | make one: an immutable snapshot under a name that follows from the intent |
| the run has no winner (yet) | show what the run says; an older winner serves on |
| the run won | deliver: content, baseline and stack, then say that they are ready |
| more ended runs than are kept | remove the oldest |
"""

from sartor_api.conditions import Reason
from sartor_api.fields import ObjectReference
from sartor_api.search.records import Outcome
from sartor_api.synthesis_run import RunCause, Snapshot, SynthesisRunSpec
from sartor_operator import names
from sartor_operator.actions import Action, Create, Decision, Delete, StatusOf, Tell
from sartor_operator.kinds import RUN, SYNTHESIS, Manifest
from sartor_operator.run.decide import look
from sartor_operator.synthesis.access import missing_access
from sartor_operator.synthesis.delivery import Delivery, deliver
from sartor_operator.synthesis.observe import SynthesisObserved
from sartor_operator.synthesis.references import agents_of, refusal
from sartor_operator.synthesis.status import Verdict, synthesis_status

RECHECK_SECONDS = 30.0
"""How often a missing Secret is looked for: Secrets of others are not watched."""


def decide_synthesis(observed: SynthesisObserved, now: float) -> Decision:
    """What to write, the status to show, and when to look again."""
    if names.deleting(observed.manifest):
        return Decision()  # the garbage collector takes everything that the synthesis owns
    access = missing_access(observed.namespace, observed.access, policies=observed.settings.network_policies)
    delivery = _delivery(observed)
    actions: list[Action] = [*access, *(delivery.actions if delivery else ()), *_history(observed)]
    wake: float | None = None
    if observed.current is None:
        refused = refusal(observed.references)
        if refused is not None:
            verdict = Verdict.refused(refused.reason, refused.message)
            actions.append(_told(observed, "Stalled", refused.message, refused.reason.value, warning=True))
            wake = now + RECHECK_SECONDS if refused.reason is Reason.SECRET_NOT_FOUND else None
        elif observed.synthesis.spec.suspend:
            verdict = Verdict.suspended("spec.suspend is true; set it to false to begin")
        else:
            made = run_manifest(observed)
            name = names.name_of(made)
            actions += [_told(observed, "RunStarted", f"SynthesisRun {name} begins", name), Create(made)]
            verdict = Verdict.starting()
    else:
        verdict = _verdict(observed, delivery)
    told = _delivered(observed, delivery, verdict)
    status = synthesis_status(observed, verdict, now)
    if _said_before(observed, verdict):
        actions = [a for a in actions if not isinstance(a, Tell)]
        told = ()
    return Decision((*actions, *told), (StatusOf(SYNTHESIS, observed.manifest, status),), wake)


def _verdict(observed: SynthesisObserved, delivery: Delivery | None) -> Verdict:
    current, winner = observed.current, observed.winner
    assert current is not None, "there is a run for this intent"
    if winner is None or winner.name != current.name:
        verdict = Verdict.of_run(current)
        return verdict.with_older(winner.name) if winner is not None else verdict
    before = (observed.manifest.get("status") or {}).get("phase")
    if delivery is None:
        if observed.synthesis.spec.delivery.mode == "none":
            return Verdict.kept()
        return Verdict.delivering("the winner's records are read", serving=before == "Serving")
    if delivery.problem:
        return Verdict.undeliverable(delivery.problem)
    if delivery.stuck is not None:
        return Verdict.stuck(delivery.stuck, delivery.missing)
    if delivery.missing:
        return Verdict.delivering(delivery.missing, serving=before == "Serving")
    return Verdict.delivered()


def _delivery(observed: SynthesisObserved) -> Delivery | None:
    """What the winner needs in the cluster; None without a winner, or where the winner is not to be delivered."""
    winner = observed.winner
    if (
        winner is None
        or winner.spec is None
        or winner.ending is None
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


def run_manifest(observed: SynthesisObserved) -> Manifest:
    """The run for the intent as it is now. Its name is the same until a run of this intent was superseded."""
    found = observed.references
    assert found.target is not None, "references were checked"
    snapshot = Snapshot(synthesis=observed.synthesis.spec, hardware=found.target.spec, agents=agents_of(found.profile))
    again = sum(r.intent == observed.intent for r in observed.runs)
    spec = SynthesisRunSpec(
        synthesis_ref=ObjectReference(
            name=observed.name, uid=observed.uid, generation=int(observed.manifest["metadata"].get("generation", 1))
        ),
        cause=RunCause.SPEC_CHANGED if observed.runs else RunCause.CREATED,
        content_hash=names.sha256(snapshot.to_dict(defaults=True)),
        snapshot=snapshot,
    )
    name = names.child_name(observed.name, observed.uid, *(("again", str(again)) if again else ()), observed.intent[:8])
    labels = {names.SYNTHESIS_LABEL: observed.name, names.INTENT_LABEL: observed.intent}
    return {
        "apiVersion": RUN.api_version,
        "kind": RUN.kind,
        "metadata": names.metadata(name, observed.manifest, labels),
        "spec": spec.to_dict(),
    }


def _history(observed: SynthesisObserved) -> list[Delete]:
    """Ended runs beyond those that are kept, oldest first. The current one and the one that serves are not counted."""
    kept = {r.name for r in (observed.current, observed.winner) if r is not None}
    old = [r for r in observed.runs if r.ended and r.name not in kept]
    surplus = old[: max(0, len(old) - observed.settings.keep_runs)]
    return [Delete(RUN, observed.namespace, r.name, names.uid(r.manifest)) for r in surplus]


def _told(observed: SynthesisObserved, reason: str, message: str, key: str, *, warning: bool = False) -> Tell:
    return Tell(observed.manifest, reason, message, key, warning)


def _delivered(observed: SynthesisObserved, delivery: Delivery | None, verdict: Verdict) -> tuple[Tell, ...]:
    winner = observed.winner
    finished = winner.ending.finished if winner is not None and winner.ending is not None else None
    ready = delivery is not None and not delivery.missing and not delivery.problem
    if not ready or finished is None or finished.content_hash is None:
        return ()
    key = finished.content_hash[:16]
    return (_told(observed, "Delivered", f"{verdict.message}: content {key[:12]}", key),)


def _said_before(observed: SynthesisObserved, verdict: Verdict) -> bool:
    """Whether the status says this already, so that its Event was sent, too."""
    before = observed.manifest.get("status") or {}
    return before.get("phase") == verdict.phase.value and before.get("message") == verdict.message[:4096]
