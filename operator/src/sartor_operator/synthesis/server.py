"""One model server that serves: a Deployment with its Service, brought to what it should be.

Rollouts that use it own it, too (not as its controller): when the synthesis is deleted, the garbage collector leaves it
until the last of them is gone, and a rollout goes when its traffic is back at the baseline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sartor_api.conditions import Reason
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_operator import names
from sartor_operator.actions import Action, Apply
from sartor_operator.drift import covers
from sartor_operator.kinds import Manifest
from sartor_operator.pods import state
from sartor_operator.pods.servers import deployment, service
from sartor_operator.rollout.observed import FULL_ANNOTATION
from sartor_operator.synthesis.observe import SynthesisObserved


@dataclass(frozen=True)
class Server:
    """As it should be. `labels` are those of its pods, and the selector. `annotations`: of its pods. `content`: of its own
    metadata. `scaled`: an autoscaler owns the number of replicas once it is there. `late`: why it does not get ready."""

    name: str
    labels: Mapping[str, str]
    pod: Manifest
    replicas: int
    hardware: HardwareTargetSpec
    late: Reason
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Mapping[str, str] = field(default_factory=dict[str, str])
    scaled: bool = False


@dataclass(frozen=True)
class Standing:
    """What is to be written, what is waited for (empty: it is ready), and whether Kubernetes has given up waiting."""

    actions: tuple[Action, ...] = ()
    waits: str = ""
    stuck: Reason | None = None


def bring(observed: SynthesisObserved, server: Server) -> Standing:
    """The writes that make it so. Nothing is written where all is as it should be."""
    there = observed.deployments.get(server.name)
    meta = _meta(observed, server)
    sized = there is not None and (server.scaled or sized_by_rollout(there))
    wanted = deployment(
        meta, server.labels, server.labels, server.pod, None if sized else server.replicas, server.hardware,
        server.annotations,
    )  # fmt: skip
    actions: list[Action] = []
    if there is None:
        actions.append(Apply(wanted, "sartor-delivery"))
    elif not (covers(wanted["spec"], there.get("spec", {})) and _owned(there, meta)):
        if server.scaled:
            # The number as it is goes to a manager of its own first: dropping it would set it back to one.
            actions.append(Apply(_replicas(there), "sartor-replicas"))
        actions.append(Apply(wanted, "sartor-delivery"))
    front = service(_meta(observed, server), server.labels)
    found = observed.services.get(server.name)
    if found is None or not (covers(front["spec"], found.get("spec", {})) and _owned(found, meta)):
        actions.append(Apply(front, "sartor-delivery"))
    if there is None:
        return Standing(tuple(actions), f"Deployment {server.name} is created")
    waiting = _not_ready(there, wanted)
    if waiting is None:
        return Standing(tuple(actions))
    ours = (p for p in observed.pods if all(names.label(p, k) == v for k, v in server.labels.items()))
    why = next((held for p in ours if (held := state.waiting(p)) is not None), None)
    stuck = server.late if _given_up(there) else None
    return Standing(tuple(actions), f"{waiting}: {why.message}" if why else waiting, stuck)


def sized_by_rollout(there: Manifest) -> bool:
    """Whether a rollout has scaled this Deployment down: then the number of replicas is the rollout's."""
    return FULL_ANNOTATION in (there["metadata"].get("annotations") or {})


def grown(observed: SynthesisObserved, name: str) -> tuple[Action, ...]:
    """A stack that was the way back of a newer one, at its floor, and is the winner again: it gets all its replicas."""
    there = observed.deployments.get(name)
    way_back = any(r.arm("baseline").get("deployment") == name for r in observed.traffic.users.get(name, ()))
    if there is None or way_back or not sized_by_rollout(there):
        return ()
    full, now = str(there["metadata"]["annotations"][FULL_ANNOTATION]), int(there["spec"].get("replicas", 1))
    meta = {"name": name, "namespace": observed.namespace, "uid": names.uid(there)}
    spec = {"replicas": max(now, int(full) if full.isdecimal() else 1)}
    # The same manager as the rollout's: with the number of before its annotation goes, too.
    return (
        Apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}, "sartor-rollout-scale"),
    )


def _meta(observed: SynthesisObserved, server: Server) -> Manifest:
    meta = names.metadata(server.name, observed.manifest, dict(server.labels), dict(server.content) or None)
    for rollout in observed.traffic.users.get(server.name, ()):
        known: Any = rollout.manifest
        reference = {"apiVersion": known["apiVersion"], "kind": known["kind"], "name": rollout.name, "uid": rollout.uid}
        meta["ownerReferences"].append(reference)
    return meta


def _owned(there: Manifest, wanted: Manifest) -> bool:
    """Whether all owners are named. One more does no harm: the garbage collector takes out those that are gone."""
    known = {str(r["uid"]) for r in there["metadata"].get("ownerReferences") or ()}
    return {str(r["uid"]) for r in wanted["ownerReferences"]} <= known


def _replicas(there: Manifest) -> Manifest:
    meta = {"name": names.name_of(there), "namespace": there["metadata"]["namespace"], "uid": names.uid(there)}
    spec = {"replicas": there["spec"].get("replicas", 1)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def _not_ready(there: Manifest, wanted: Manifest) -> str | None:
    status, name = there.get("status", {}), names.name_of(there)
    if not covers(wanted["spec"], there.get("spec", {})):
        return f"Deployment {name} is updated"
    if int(status.get("observedGeneration", 0)) < int(there["metadata"].get("generation", 1)):
        return f"Deployment {name} is not observed yet"
    replicas = int(there["spec"].get("replicas", 1))
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    if updated >= replicas and available >= replicas and int(status.get("replicas", 0)) == updated:
        return None
    given_up = _given_up(there)
    late = f" ({given_up.get('reason')}: {given_up.get('message')})" if given_up else ""
    return f"Deployment {name}: {min(updated, available)} of {replicas} ready{late}"


def _given_up(there: Manifest) -> dict[str, Any] | None:
    """The condition of a Deployment that says that its pods do not get ready in time."""
    found = state.condition(there, "Progressing")
    return found if found is not None and found.get("status") == "False" else None
