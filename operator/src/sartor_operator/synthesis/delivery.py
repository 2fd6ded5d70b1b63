"""The winner as a Deployment beside the tuned baseline.

The stack's content is published anew for the synthesis (the run may go), verified by hash in the operator and again by an
init container of every pod. Names of the ConfigMaps carry the content, so a new winner is a new pod template, and the old
pods serve until the new ones are ready.

Where rollouts move traffic (`spec.rollout.parentRefs`) the Deployment and its Service carry the content in their names and
labels instead, so that two stacks serve side by side, and neither's Service can reach the other's pods. A stack that a
rollout still uses is kept as it should be after a newer one has won.
"""

from dataclasses import dataclass
from typing import Any

from sartor_api.conditions import Reason
from sartor_api.search.records import Finished, RunSpec
from sartor_api.search.state import RunState
from sartor_operator import names
from sartor_operator.actions import Action, PublishStack
from sartor_operator.pods.jobs import repository_url
from sartor_operator.pods.servers import baseline_pod, stack_pod
from sartor_operator.run.observe import RunObserved
from sartor_operator.settings import PORT
from sartor_operator.synthesis.observe import CONTENT_ANNOTATION, SynthesisObserved
from sartor_operator.synthesis.server import Server, Standing, bring, grown
from sartor_operator.wire import StackIndex

STACK, BASELINE = "stack", "baseline"
STACK_ROLE, BASELINE_ROLE = "serving-stack", "serving-baseline"
ARM_ROLE = "rollout-stack"
"""Of a stack that rollouts move traffic to. Not `STACK_ROLE`: the Service of one that was delivered without rollouts selects
every pod of that role."""
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


def plain_name(observed: SynthesisObserved) -> str:
    """Of the Deployment and Service of a winner that is delivered without a rollout: the same for every winner."""
    return names.child_name(observed.name, observed.uid, STACK)


def baseline_name(observed: SynthesisObserved) -> str:
    return names.child_name(observed.name, observed.uid, BASELINE)


def baseline_service(observed: SynthesisObserved) -> tuple[str, int]:
    """Name and port of the Service of the baseline: the user's own, or the one that Sartor makes."""
    existing = observed.synthesis.spec.baseline.service_ref
    return (existing.name, existing.port) if existing is not None else (baseline_name(observed), PORT)


def deliver(observed: SynthesisObserved, run: RunState, finished: Finished) -> Delivery:
    """Bring the winner of a run, and its baseline, into the cluster; of bytes that came back the baseline alone."""
    winner = observed.winner
    assert winner is not None and finished.content_hash and finished.commit, "a winner names its content"
    index = observed.stacks.get(finished.content_hash)
    if index is None:
        made = _publish(observed, winner, finished.commit, finished.content_hash)
        return Delivery((made,), "the winner's files are published")
    if index.problem is not None:
        return Delivery((), problem=f"{index.problem.reason}: {index.problem.message}")
    wanted: list[Standing] = []
    spec: RunSpec = run.spec
    if observed.synthesis.spec.baseline.service_ref is None and run.baseline is not None:
        pod = baseline_pod(
            winner.place,
            run.baseline,
            served_name=str(spec.model["name"]),
            length=spec.envelope.max_model_len,
            **_timing(winner),
        )
        labels = {names.SYNTHESIS_LABEL: observed.name, names.ROLE_LABEL: BASELINE_ROLE}
        replicas, late = observed.synthesis.spec.baseline.replicas, Reason.BASELINE_NOT_READY
        server = Server(baseline_name(observed), labels, pod, replicas, winner.place.hardware, late)
        wanted.append(bring(observed, server))
    if not (observed.rolls_out and observed.traffic.rejected(finished.content_hash)):
        stack = _stack(observed, winner, index, finished.commit, alone=not observed.rolls_out)
        wanted += [bring(observed, stack), Standing(grown(observed, stack.name))]
    return Delivery(
        tuple(action for one in wanted for action in one.actions),
        "; ".join(one.waits for one in wanted if one.waits),
        stuck=next((one.stuck for one in wanted if one.stuck is not None), None),
    )


def keep(observed: SynthesisObserved) -> tuple[Action, ...]:
    """Stacks of older winners that still have traffic, or may get it back, stay as they should be."""
    actions: list[Action] = []
    for content, run in observed.served.items():
        finished = run.ending.finished if run.ending is not None else None
        if finished is None or finished.commit is None:
            continue
        index = observed.stacks.get(content)
        if index is None:
            actions.append(_publish(observed, run, finished.commit, content))
        elif index.problem is None:
            actions += bring(observed, _stack(observed, run, index, finished.commit, alone=False)).actions
    return tuple(actions)


def _publish(observed: SynthesisObserved, run: RunObserved, commit: str, content: str) -> PublishStack:
    return PublishStack(
        owner=observed.manifest,
        name=names.stack_name(observed.name, observed.uid, content),
        labels={names.SYNTHESIS_LABEL: observed.name},
        repository=repository_url(run.place, observed.namespace, run.name),
        commit=commit,
        content_hash=content,
    )


def _stack(observed: SynthesisObserved, run: RunObserved, index: StackIndex, commit: str, *, alone: bool) -> Server:
    """The server of one stack. `alone`: no rollout moves traffic to it."""
    wanted, content = observed.synthesis.spec, index.content_hash
    host, port = baseline_service(observed)
    pod = stack_pod(
        run.place,
        index,
        baseline_url=f"http://{host}.{observed.namespace}.svc:{port}",
        start_seconds=run.place.hardware.start_timeout.seconds,
        **_timing(run),
    )
    role = {names.SYNTHESIS_LABEL: observed.name, names.ROLE_LABEL: STACK_ROLE if alone else ARM_ROLE}
    return Server(
        name=plain_name(observed) if alone else names.stack_name(observed.name, observed.uid, content),
        labels=role if alone else {**role, names.CONTENT_LABEL: content[: names.STACK_NAME_DIGITS]},
        pod=pod,
        replicas=wanted.delivery.replicas or wanted.baseline.replicas,
        hardware=run.place.hardware,
        late=Reason.CANDIDATE_NOT_READY,
        annotations={CONTENT_ANNOTATION: content, COMMIT_ANNOTATION: commit, RUN_ANNOTATION: run.name},
        content={} if alone else {CONTENT_ANNOTATION: content},
        scaled=wanted.delivery.autoscaled,
    )


def _timing(run: RunObserved) -> dict[str, Any]:
    settings = run.place.settings
    lifecycle = {"preStop": {"sleep": {"seconds": 5}}} if settings.drain_seconds > 5 else None
    return {"terminationGracePeriodSeconds": settings.drain_seconds, "lifecycle": lifecycle}
