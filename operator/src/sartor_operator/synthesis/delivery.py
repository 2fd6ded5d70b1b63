"""The winner as a Deployment beside the tuned baseline.

The stack's content is published anew for the synthesis (the run may go), verified by hash in the operator and again by an
init container of every pod. Names of the ConfigMaps carry the content, so a new winner is a new pod template, and the old
pods serve until the new ones are ready.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sartor_api.conditions import Reason
from sartor_api.search.records import Finished, RunSpec
from sartor_api.search.state import RunState
from sartor_operator import names
from sartor_operator.actions import Action, Apply, PublishStack
from sartor_operator.drift import covers
from sartor_operator.kinds import Manifest
from sartor_operator.pods import state
from sartor_operator.pods.jobs import repository_url
from sartor_operator.pods.servers import baseline_pod, deployment, service, stack_pod
from sartor_operator.settings import PORT
from sartor_operator.synthesis.observe import SynthesisObserved

STACK, BASELINE = "stack", "baseline"
STACK_ROLE, BASELINE_ROLE = "serving-stack", "serving-baseline"
CONTENT_ANNOTATION = "sartor.dev/content-hash"
COMMIT_ANNOTATION = "sartor.dev/commit"
RUN_ANNOTATION = "sartor.dev/run"


@dataclass(frozen=True)
class Delivery:
    """What is to be written, and what is still missing (empty: everything is there and ready)."""

    actions: tuple[Action, ...]
    missing: str = ""
    problem: str = ""
    stuck: Reason | None = None
    """Why Kubernetes has given up waiting for a Deployment (it goes on trying), if it has."""


def deliver(observed: SynthesisObserved, run: RunState, finished: Finished) -> Delivery:
    """Bring the winner of a run, and its baseline, into the cluster."""
    winner = observed.winner
    assert winner is not None and finished.content_hash and finished.commit, "a winner names its content"
    index = observed.stacks.get(finished.content_hash)
    if index is None:
        labels = {names.SYNTHESIS_LABEL: observed.name}
        made = PublishStack(
            owner=observed.manifest,
            name=names.child_name(observed.name, observed.uid, STACK, finished.content_hash[:12]),
            labels=labels,
            repository=repository_url(winner.place, observed.namespace, winner.name),
            commit=finished.commit,
            content_hash=finished.content_hash,
        )
        return Delivery((made,), "the winner's files are published")
    if index.problem is not None:
        return Delivery((), problem=f"{index.problem.reason}: {index.problem.message}")
    actions: list[Action] = []
    waits: list[str] = []
    stuck: list[Reason] = []
    wanted = observed.synthesis.spec
    replicas = wanted.delivery.replicas or wanted.baseline.replicas
    existing = wanted.baseline.service_ref
    baseline_name = names.child_name(observed.name, observed.uid, BASELINE)
    baseline_host = existing.name if existing else baseline_name
    baseline_url = f"http://{baseline_host}.{observed.namespace}.svc:{existing.port if existing else PORT}"
    settings = winner.place.settings
    lifecycle = {"preStop": {"sleep": {"seconds": 5}}} if settings.drain_seconds > 5 else None
    timing: dict[str, Any] = {"terminationGracePeriodSeconds": settings.drain_seconds, "lifecycle": lifecycle}
    provenance = {
        CONTENT_ANNOTATION: finished.content_hash,
        COMMIT_ANNOTATION: finished.commit,
        RUN_ANNOTATION: winner.name,
    }
    spec: RunSpec = run.spec
    if existing is None and run.baseline is not None:
        pod = baseline_pod(
            winner.place,
            run.baseline,
            served_name=str(spec.model["name"]),
            length=spec.envelope.max_model_len,
            **timing,
        )
        _one(
            observed,
            baseline_name,
            BASELINE_ROLE,
            pod,
            wanted.baseline.replicas,
            {},
            actions,
            waits,
            stuck,
            scaled=False,
        )
    pod = stack_pod(
        winner.place,
        index,
        baseline_url=baseline_url,
        start_seconds=winner.place.hardware.start_timeout.seconds,
        **timing,
    )
    name = names.child_name(observed.name, observed.uid, STACK)
    _one(
        observed, name, STACK_ROLE, pod, replicas, provenance, actions, waits, stuck, scaled=wanted.delivery.autoscaled
    )
    return Delivery(tuple(actions), "; ".join(waits), stuck=stuck[0] if stuck else None)


def _one(
    observed: SynthesisObserved,
    name: str,
    role: str,
    pod: Manifest,
    replicas: int,
    annotations: Mapping[str, str],
    actions: list[Action],
    waits: list[str],
    stuck: list[Reason],
    *,
    scaled: bool,
) -> None:
    """One Deployment with its Service. `scaled`: an autoscaler owns the number of replicas once it is there."""
    hardware = observed.winner.place.hardware if observed.winner else None
    assert hardware is not None, "there is a winner"
    selector = {names.SYNTHESIS_LABEL: observed.name, names.ROLE_LABEL: role}
    meta = names.metadata(name, observed.manifest, selector)
    there = observed.deployments.get(name)
    wanted = deployment(
        meta, selector, selector, pod, None if scaled and there is not None else replicas, hardware, annotations
    )
    if there is None:
        actions.append(Apply(wanted, "sartor-delivery"))
        waits.append(f"Deployment {name} is created")
    else:
        if not covers(wanted["spec"], there.get("spec", {})):
            if scaled:
                # The number as it is goes to a manager of its own first: dropping it would set it back to one.
                actions.append(Apply(_replicas(there), "sartor-replicas"))
            actions.append(Apply(wanted, "sartor-delivery"))
        if (waiting := _not_ready(there, wanted)) is not None:
            ours = (p for p in observed.pods if names.label(p, names.ROLE_LABEL) == role)
            held = next((found for p in ours if (found := state.waiting(p)) is not None), None)
            waits.append(f"{waiting}: {held.message}" if held else waiting)
            if _given_up(there):
                stuck.append(Reason.CANDIDATE_NOT_READY if role == STACK_ROLE else Reason.BASELINE_NOT_READY)
    front = service(names.metadata(name, observed.manifest, selector), selector)
    found = observed.services.get(name)
    if found is None or not covers(front["spec"], found.get("spec", {})):
        actions.append(Apply(front, "sartor-delivery"))


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
