"""What served a step or a run is removed once it is over; records, candidates and logs stay."""

from collections.abc import Iterable

from sartor_operator import names
from sartor_operator.actions import Action, Apply, Delete
from sartor_operator.kinds import DEPLOYMENT, JOB, POD, SECRET, Kind, Manifest
from sartor_operator.pods import state as pod_state
from sartor_operator.run.observe import RunObserved
from sartor_operator.wire import StepBegin


def without_baseline(observed: RunObserved) -> tuple[Action, ...]:
    return tuple(delete_of(DEPLOYMENT, d) for d in observed.deployments if not names.deleting(d))


def delete_of(kind: Kind, manifest: Manifest) -> Delete:
    return Delete(kind, manifest["metadata"]["namespace"], names.name_of(manifest), names.uid(manifest))


def leftovers(observed: RunObserved, begun: Iterable[StepBegin]) -> list[Action]:
    """Remove what served a step that has its record. A finished Job stays for a while, for whoever wants its log."""
    flying = {names.step_label(begin.id) for begin in begun}
    recorded = {names.step_label(stored.record.id) for stored in observed.records}
    actions: list[Action] = []

    def over(manifest: Manifest) -> bool:
        step = names.label(manifest, names.STEP_LABEL)
        return step in recorded and step not in flying and not names.deleting(manifest)

    actions += [delete_of(POD, pod) for pod in observed.pods if over(pod) and names.owner_uid(pod) == observed.uid]
    actions += [delete_of(SECRET, secret) for secret in observed.secrets if over(secret)]
    for job in observed.jobs:
        if not over(job) or "ttlSecondsAfterFinished" in job["spec"]:
            continue
        pods = [p for p in observed.pods if names.owner_uid(p) == names.uid(job)]
        if pod_state.holds(job, "Complete") or pod_state.holds(job, "Failed"):
            actions.append(_keep_for(observed, job))
        elif not pods or any(pod_state.phase(p) not in ("Succeeded", "Failed") for p in pods):
            actions.append(delete_of(JOB, job))
    return actions


def _keep_for(observed: RunObserved, job: Manifest) -> Apply:
    meta = {"name": names.name_of(job), "namespace": job["metadata"]["namespace"], "uid": names.uid(job)}
    seconds = observed.place.settings.keep_jobs_seconds
    return Apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"ttlSecondsAfterFinished": seconds}},
        "sartor-cleanup",
    )
