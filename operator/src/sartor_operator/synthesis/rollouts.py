"""The rollouts of a synthesis: made when winner and baseline are ready, kept as the spec wants them, ended when unwanted.

| in this order | what is done |
|---|---|
| no `spec.rollout.parentRefs` | those that have not ended are deleted: their finalizer gives the traffic back |
| the winner's rollout has not begun, and starts from what does not serve any more | it is deleted, and made anew |
| the winner's rollout goes on | its policy and guardrails follow the spec; what it says is what the synthesis says |
| the winner's bytes came back | nothing, until a human deletes that rollout |
| the winner serves already (an older rollout promoted it, a newer one came back) | what is under way to others is deleted |
| a rollout is being deleted, something is not ready, `spec.suspend` | wait |
| else | make one, from what serves now |

A rollout is never paused, promoted or aborted from here: `spec.control` belongs to humans. One for a new winner takes the
place of the older one by itself (`rollout.progress`). Ended ones are kept as history, a bounded number of them; those whose
bytes came back are the memory of that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sartor_api.objective import Guardrail, GuardrailMetric, Guardrails
from sartor_api.rollout_policy import RolloutPolicy
from sartor_api.serving_rollout import ServingRolloutSpec
from sartor_operator import names
from sartor_operator.actions import Action, Apply, Delete
from sartor_operator.kinds import ROLLOUT, Manifest
from sartor_operator.rollout.verdict.metrics import DEFAULT_GUARDRAILS
from sartor_operator.run.observe import RunObserved
from sartor_operator.settings import PORT
from sartor_operator.synthesis.delivery import Delivery, baseline_name, baseline_service
from sartor_operator.synthesis.observe import SynthesisObserved
from sartor_operator.synthesis.status import Verdict
from sartor_operator.synthesis.traffic import DIGEST, MOST_REJECTED, RolloutSeen
from sartor_operator.understood import NotUnderstoodError, understood

KEPT = 5
"""Ended rollouts that are kept, besides those whose bytes came back."""

SEEN_BY: Mapping[GuardrailMetric, frozenset[str]] = {
    "errorRate": frozenset({"gatewayAccessLog", "prometheus", "probe"}),
    "endToEndLatencyP50": frozenset({"gatewayAccessLog", "prometheus", "probe"}),
    "endToEndLatencyP99": frozenset({"gatewayAccessLog", "prometheus", "probe"}),
    "handoverRate": frozenset({"gatewayAccessLog", "probe"}),
}
"""Sources that see what a guardrail bounds; all that is not here only the probe does (docs/rollouts/sources.md)."""
_PROBE = frozenset({"probe"})


@dataclass(frozen=True)
class Rolling:
    """What is to be written, and how the winner stands; `verdict` None: as without rollouts."""

    actions: tuple[Action, ...] = ()
    verdict: Verdict | None = None


def roll_out(observed: SynthesisObserved, delivery: Delivery | None, content: str) -> Rolling:
    """`content` of the winner that is delivered (64 hexadecimal digits); empty without one, with `delivery` None."""
    if observed.synthesis.spec.rollout.parent_refs is None:
        return Rolling(tuple(_end(observed, r) for r in observed.traffic.rollouts if r.live and not r.deleting))
    if not observed.rolls_out or delivery is None or delivery.problem or not content:
        return Rolling()
    mine = observed.traffic.of(content)
    if mine is not None and mine.rejected and not mine.live:
        return Rolling(verdict=Verdict.rolled_back(mine))
    if mine is not None:
        return _go_on(observed, mine, delivery, content)
    if observed.serving == content:
        others = [r for r in observed.traffic.rollouts if r.live and not r.deleting]
        text = f"the stack has all traffic of the Gateway (Service {observed.services_of[content]})"
        return Rolling(tuple(_end(observed, r) for r in others), Verdict.serving(text))
    going = next((r for r in observed.traffic.rollouts if r.deleting), None)
    if going is not None:
        text = f"ServingRollout {going.name} is being deleted, and its traffic goes back to {going.service('baseline')}"
        return Rolling(verdict=Verdict.rolling_out(f"{text}; then a new one is made"))
    if delivery.missing:
        return Rolling()
    if observed.synthesis.spec.suspend:
        return Rolling(verdict=Verdict.waiting("the stack is ready; spec.suspend is true, so that no rollout begins"))
    made = _manifest(observed, content)
    text = f"ServingRollout {names.name_of(made)} is made; {unwatched(observed)}".removesuffix("; ")
    return Rolling((Apply(made, "sartor-synthesis"),), Verdict.rolling_out(text))


def _go_on(observed: SynthesisObserved, mine: RolloutSeen, delivery: Delivery, content: str) -> Rolling:
    if mine.position.stage == "pending" and mine.baseline_content != _from(observed, content):
        text = f"ServingRollout {mine.name} is made anew: what it starts from does not serve any more"
        return Rolling((_end(observed, mine),), Verdict.rolling_out(text))
    actions = (Apply(_updated(observed, mine), "sartor-synthesis"),) if _outdated(observed, mine) else ()
    verdict = Verdict.of_rollout(mine, delivery.missing)
    if observed.synthesis.spec.suspend and not mine.promoted:
        verdict = verdict.with_note("spec.suspend does not stop a rollout, spec.control.pause of the rollout does")
    return Rolling(actions, verdict)


def _end(observed: SynthesisObserved, rollout: RolloutSeen) -> Delete:
    return Delete(ROLLOUT, observed.namespace, rollout.name, rollout.uid)


def forget(observed: SynthesisObserved) -> tuple[Action, ...]:
    """Ended rollouts beyond those that are kept, the oldest first."""
    ended = [r for r in observed.traffic.rollouts if not r.live and not r.deleting]
    rejected, others = [r for r in ended if r.rejected], [r for r in ended if not r.rejected]
    surplus = [*rejected[: max(0, len(rejected) - MOST_REJECTED)], *others[: max(0, len(others) - KEPT)]]
    return tuple(_end(observed, r) for r in surplus)


# --- as it should be ------------------------------------------------------------------------------------------------


def _from(observed: SynthesisObserved, content: str) -> str:
    """What a rollout of this content starts from: what serves, or the baseline where that is the content itself."""
    return observed.serving if observed.serving != content else ""


def _manifest(observed: SynthesisObserved, content: str) -> Manifest:
    """The next rollout. Its number is one more than that of the newest, so a name is used once; an operator that does not
    see the newest yet makes that one again, which changes nothing."""
    winner, before = observed.winner, _from(observed, content)
    assert winner is not None, "a winner is delivered"
    number = max((r.number for r in observed.traffic.rollouts), default=0) + 1
    name = names.child_name(observed.name, observed.uid, str(number), content[: names.STACK_NAME_DIGITS])
    return {
        "apiVersion": ROLLOUT.api_version,
        "kind": ROLLOUT.kind,
        "metadata": names.metadata(name, observed.manifest, _labels(observed, content)),
        "spec": {
            # The size of a stack that an autoscaler owns is not Sartor's to change once it is the way back.
            "baseline": _stack_arm(observed, before, sized=not observed.synthesis.spec.delivery.autoscaled)
            if before
            else _baseline_arm(observed),
            "candidate": _stack_arm(observed, content, sized=True),
            **_follows(observed, winner),
        },
    }


def _labels(observed: SynthesisObserved, content: str) -> dict[str, str]:
    return {names.SYNTHESIS_LABEL: observed.name, names.CONTENT_LABEL: content[: names.STACK_NAME_DIGITS]}


def _stack_arm(observed: SynthesisObserved, content: str, *, sized: bool) -> dict[str, Any]:
    service = names.stack_name(observed.name, observed.uid, content)
    deployment = {"deployment": service} if sized else {}
    return {"service": service, "port": PORT, **deployment, "contentHash": f"{DIGEST}{content}"}


def _baseline_arm(observed: SynthesisObserved) -> dict[str, Any]:
    service, port = baseline_service(observed)
    own = observed.synthesis.spec.baseline.service_ref is None
    return {"service": service, "port": port, **({"deployment": baseline_name(observed)} if own else {})}


def _follows(observed: SynthesisObserved, winner: RunObserved) -> dict[str, Any]:
    """What of a rollout's spec follows the synthesis for as long as it has not ended."""
    return {
        "runRef": {"name": winner.name, "uid": winner.uid},
        "policy": observed.synthesis.spec.rollout.to_dict(),
        "guardrails": [one.to_dict() for one in guardrails(observed)],
    }


def _updated(observed: SynthesisObserved, mine: RolloutSeen) -> Manifest:
    """The same rollout with the same arms, as the synthesis wants it now."""
    assert observed.winner is not None, "a winner is delivered"
    arms = {which: dict(mine.arm(which)) for which in ("baseline", "candidate")}
    return {
        "apiVersion": ROLLOUT.api_version,
        "kind": ROLLOUT.kind,
        "metadata": names.metadata(mine.name, observed.manifest, _labels(observed, mine.content)) | {"uid": mine.uid},
        "spec": {**arms, **_follows(observed, observed.winner)},
    }


def _outdated(observed: SynthesisObserved, mine: RolloutSeen) -> bool:
    """Whether the spec wants it otherwise. One of a newer version, which this one does not understand, is left alone."""
    assert observed.winner is not None, "a winner is delivered"
    try:
        spec = understood(ServingRolloutSpec, mine.manifest["spec"], "spec")
    except NotUnderstoodError:
        return False
    run = spec.run_ref.uid if spec.run_ref is not None else None
    kept = {one.metric: one for one in spec.guardrails} == {one.metric: one for one in guardrails(observed)}
    same = _sorted(spec.policy) == _sorted(observed.synthesis.spec.rollout)
    return not (same and kept and run == observed.winner.uid)


def _sorted(policy: RolloutPolicy) -> RolloutPolicy:
    """Host names are merged one by one, and keep an order of their own. (That of sources says which comes first.)"""
    return policy.model_copy(update={"hostnames": tuple(sorted(policy.hostnames))})


# --- guardrails -----------------------------------------------------------------------------------------------------


def guardrails(observed: SynthesisObserved) -> Guardrails:
    """Those of the objective that the sources of the rollout see; errors are always watched."""
    wanted = observed.synthesis.spec.objective.guardrails
    found = tuple(one for one in wanted if _seen(observed, one))
    return found or tuple(one for one in DEFAULT_GUARDRAILS if one.metric == "errorRate")


def unwatched(observed: SynthesisObserved) -> str:
    """What to say of guardrails that no source of the rollout sees; empty without any."""
    blind = [one.metric for one in observed.synthesis.spec.objective.guardrails if not _seen(observed, one)]
    if not blind:
        return ""
    return f"not watched with live traffic, since only the source probe sees it: {', '.join(blind)}"


def _seen(observed: SynthesisObserved, one: Guardrail) -> bool:
    return bool(SEEN_BY.get(one.metric, _PROBE) & set(observed.synthesis.spec.rollout.analysis.sources))
