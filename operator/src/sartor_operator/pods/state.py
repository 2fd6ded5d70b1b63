"""What a pod's status says: ready, waiting and for what, ended and by whose fault. Pure readings of plain JSON."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sartor_api.conditions import Reason
from sartor_api.search.records import FailureClass
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.times import parse_time

OOM = "OOMKilled"
_DISRUPTED = ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated", "Shutdown", "UnexpectedAdmissionError")
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")


@dataclass(frozen=True)
class End:
    """Why something ended. `reason` is a CamelCase constant."""

    reason: str
    message: str
    failure_class: FailureClass


@dataclass(frozen=True)
class Waiting:
    """Why something has not begun. `reason` is one of the API's; `since` is Unix seconds."""

    reason: Reason
    message: str
    since: float


def phase(pod: Manifest) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def condition(manifest: Manifest, kind: str) -> dict[str, Any] | None:
    """A condition by its type, if it is there."""
    return next((c for c in manifest.get("status", {}).get("conditions", ()) if c.get("type") == kind), None)


def holds(manifest: Manifest, kind: str) -> bool:
    found = condition(manifest, kind)
    return found is not None and found.get("status") == "True"


def ready(pod: Manifest) -> bool:
    return holds(pod, "Ready") and not names.deleting(pod) and address(pod) is not None


def address(pod: Manifest) -> str | None:
    return pod.get("status", {}).get("podIP") or None


def created(manifest: Manifest) -> float:
    return parse_time(manifest["metadata"].get("creationTimestamp")) or 0.0


def container_status(pod: Manifest, name: str) -> dict[str, Any]:
    """The status of a container or init container, empty while there is none."""
    status = pod.get("status", {})
    every: Iterable[dict[str, Any]] = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return next((one for one in every if one.get("name") == name), {})


def terminated(pod: Manifest, name: str) -> dict[str, Any] | None:
    """How a container ended (exitCode, reason, message, startedAt, finishedAt), if it did."""
    return container_status(pod, name).get("state", {}).get("terminated")


def running_since(pod: Manifest, name: str) -> float | None:
    return parse_time(container_status(pod, name).get("state", {}).get("running", {}).get("startedAt"))


def restarted_after(pod: Manifest, name: str, moment: float) -> bool:
    """Whether a container ended after `moment` (and was started again, or not)."""
    status = container_status(pod, name)
    for state in (status.get("lastState", {}), status.get("state", {})):
        finished = parse_time(state.get("terminated", {}).get("finishedAt"))
        if finished is not None and finished >= moment:
            return True
    return False


def failed_container(pod: Manifest) -> tuple[str, dict[str, Any]] | None:
    """The first container that ended with another code than 0, with how it ended."""
    status = pod.get("status", {})
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        ended = one.get("state", {}).get("terminated")
        if ended is not None and ended.get("exitCode", 0) != 0:
            return str(one["name"]), ended
    return None


def disruption(pod: Manifest) -> End | None:
    """That the pod was ended from outside: evicted, preempted, deleted, its node lost. Nobody's fault in it."""
    status = pod.get("status", {})
    found = condition(pod, "DisruptionTarget")
    if found is not None and found.get("status") == "True":
        return End(
            "PodDisrupted", f"{found.get('reason', '')}: {found.get('message', '')}", FailureClass.INFRASTRUCTURE
        )
    reason = str(status.get("reason", ""))
    if phase(pod) == "Failed" and (reason in _DISRUPTED or reason.startswith("OutOf")):
        name = "PodEvicted" if reason == "Evicted" else "PodDisrupted"
        return End(name, f"{reason}: {status.get('message', '')}", FailureClass.INFRASTRUCTURE)
    return None


def waiting(pod: Manifest) -> Waiting | None:
    """What keeps a pod from running: quota, a node, an image. None when nothing does."""
    since = created(pod)
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        changed = parse_time(scheduled.get("lastTransitionTime")) or since
        if scheduled.get("reason") == "SchedulingGated":
            return Waiting(Reason.AWAITING_QUOTA, "the pod waits for its queue to admit it", changed)
        return Waiting(Reason.AWAITING_NODE, str(scheduled.get("message", "no node has room")), changed)
    problem = image_problem(pod) or _crash_loop(pod)
    return Waiting(Reason.PROGRESSING, problem, since) if problem else None


def _crash_loop(pod: Manifest) -> str | None:
    """How a container that is started again and again ended last."""
    status = pod.get("status", {})
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if one.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
            last = one.get("lastState", {}).get("terminated", {})
            said = str(last.get("message", "")).strip()
            tail = f": {said[-500:]}" if said else ""
            return (
                f"{one['name']} crashes again and again (exit code {last.get('exitCode')}, {last.get('reason')}){tail}"
            )
    return None


def image_problem(pod: Manifest) -> str | None:
    """Why a container cannot be created (its image, a missing ConfigMap), if that is so."""
    status = pod.get("status", {})
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state = one.get("state", {}).get("waiting", {})
        if state.get("reason") in _IMAGE:
            return f"{state['reason']}: {state.get('message') or one.get('image', '')}"
    return None


def scheduled_at(pod: Manifest) -> float | None:
    found = condition(pod, "PodScheduled")
    if found is None or found.get("status") != "True":
        return None
    return parse_time(found.get("lastTransitionTime"))


def placed(pod: Manifest) -> float:
    """Since when the pod has a node; before that since when it is there. What a queue held it back does not count."""
    return scheduled_at(pod) or created(pod)
