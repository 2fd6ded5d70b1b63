"""The status of a pod, derived from what is observed.

Specification: kubelet `kubelet_pods.go` (`getPhase`, `convertToAPIContainerStatuses`) and `status/generate.go`. A phase
never leaves `Succeeded` or `Failed`, and never becomes one of them while a process of the pod still runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sartor_runner.core import backoff, probes
from sartor_runner.core.observed import STATUS_UNKNOWN, Observed, Run, Verdict
from sartor_runner.core.pod import Container, Json, Pod
from sartor_runner.core.probes import Kind
from sartor_runner.core.refusals import REASON as UNSUPPORTED
from sartor_runner.core.times import rfc3339, seconds

TERMINAL = frozenset({"Succeeded", "Failed"})
NOT_LOCATED = "The container could not be located when the pod was terminated"


@dataclass(frozen=True)
class Ending:
    """The pod is to stop: within `grace` seconds, and as `Failed` with the verdict's reason if there is one."""

    grace: float
    verdict: Verdict | None = None


def should_restart(pod: Pod, run: Run) -> bool:
    """Whether the restart policy wants an ended container to run again (init containers have succeeded at 0)."""
    return pod.restart_policy == "Always" or (pod.restart_policy == "OnFailure" and run.exit_code != 0)


def init_should_restart(pod: Pod, run: Run) -> bool:
    return run.exit_code != 0 and pod.restart_policy != "Never"


def initialised(pod: Pod, observed: Observed) -> bool:
    """All init containers have succeeded, or a container has already begun (they do not run again then)."""
    if any(observed.runs.get(c.name) for c in pod.containers):
        return True
    return all((run := observed.latest(c.name)) is not None and run.exit_code == 0 for c in pod.init_containers)


def is_started(container: Container, run: Run, observed: Observed) -> bool:
    """It runs, and its startup probe, if it has one, has passed."""
    if not run.running:
        return False
    return container.startup is None or _probe(observed, container, run, Kind.STARTUP) is True


def is_ready(container: Container, run: Run | None, observed: Observed) -> bool:
    if run is None or not is_started(container, run, observed):
        return False
    return container.readiness is None or _probe(observed, container, run, Kind.READINESS) is True


def _probe(observed: Observed, container: Container, run: Run, kind: Kind) -> bool | None:
    state = observed.probes.get((container.name, kind))
    if state is None or state.attempt != run.attempt:
        state = probes.initial(kind, run.attempt)
    return state.passed


def pod_status(pod: Pod, observed: Observed, ending: Ending | None, now: float) -> Json:
    """The whole status."""
    old = observed.status
    verdict = ending.verdict if ending else None
    over = ending is not None and not observed.any_running()
    status: dict[str, Any] = {"startTime": old.get("startTime") or rfc3339(now)}
    if observed.host_address:
        status |= {"hostIP": observed.host_address, "hostIPs": [{"ip": observed.host_address}]}
    addresses = list(observed.addresses) or [entry["ip"] for entry in old.get("podIPs") or ()]
    if addresses:
        status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    inits: list[Json] = []
    regular: list[Json] = []
    if not (verdict and not any(observed.runs.values()) and not old.get("containerStatuses")):
        lost = over and (initialised(pod, observed) or not pod.init_containers)
        init_lost = over and any(observed.runs.get(c.name) for c in pod.init_containers) and lost
        inits = [_container(pod, c, observed, ending, init_lost, now, init=True) for c in pod.init_containers]
        regular = [_container(pod, c, observed, ending, lost, now, init=False) for c in pod.containers]
        if inits:
            status["initContainerStatuses"] = inits
        status["containerStatuses"] = regular
    if ephemeral := [_ephemeral(c) for c in pod.spec.get("ephemeralContainers") or ()]:
        status["ephemeralContainerStatuses"] = ephemeral
    status |= _phase(pod, observed, inits, regular, ending)
    status["conditions"] = _conditions(pod, observed, status, now)
    return status


def _phase(
    pod: Pod, observed: Observed, inits: Sequence[Json], regular: Sequence[Json], ending: Ending | None
) -> dict[str, str]:
    old = observed.status
    if old.get("phase") in TERMINAL:
        return {key: old[key] for key in ("phase", "reason", "message") if old.get(key)}
    verdict = ending.verdict if ending else None
    if verdict is not None and not observed.any_running():
        return {"phase": "Failed", "reason": verdict.reason, "message": verdict.message}
    phase = derived_phase(pod, inits, regular, terminal=ending is not None)
    if phase in TERMINAL and observed.any_running():
        phase = old.get("phase") or "Running"
    return {"phase": phase}


def derived_phase(pod: Pod, inits: Sequence[Json], regular: Sequence[Json], *, terminal: bool) -> str:
    """`getPhase`: from the states of the containers alone. `terminal`: none of them will be started again."""
    pending = failed = 0
    for status in inits:
        state = status["state"]
        last = (status.get("lastState") or {}).get("terminated")
        if "terminated" in state:
            failed += state["terminated"]["exitCode"] != 0
        elif "waiting" in state and last:
            failed += last["exitCode"] != 0
        else:
            pending += 1
    running = waiting = stopped = succeeded = 0
    for status in regular:
        state = status["state"]
        if "running" in state:
            running += 1
        elif "terminated" in state:
            stopped += 1
            succeeded += state["terminated"]["exitCode"] == 0
        elif (status.get("lastState") or {}).get("terminated"):
            stopped += 1
        else:
            waiting += 1
    if failed and (pod.restart_policy == "Never" or terminal):
        return "Failed"
    if pending or failed or waiting:
        return "Pending"
    if running:
        return "Running"
    if terminal or pod.restart_policy == "Never":
        return "Succeeded" if stopped == succeeded else "Failed"
    if pod.restart_policy == "Always" or stopped != succeeded:
        return "Running"
    return "Succeeded"


def _container(
    pod: Pod, container: Container, observed: Observed, ending: Ending | None, lost: bool, now: float, *, init: bool
) -> Json:
    runs = observed.runs.get(container.name, ())
    run = runs[-1] if runs else None
    previous = next((r for r in reversed(runs[:-1]) if r.ended), None)
    status: dict[str, Any] = {
        "name": container.name,
        "image": container.image,
        "imageID": run.image_id if run else "",
        "restartCount": run.attempt if run else 0,
        "ready": (run is not None and run.exit_code == 0) if init else is_ready(container, run, observed),
        "started": False if init or run is None else is_started(container, run, observed),
        "state": {},
        "lastState": {},
    }
    if run is not None:
        status["containerID"] = run.container_id
    if run is not None and run.running:
        status["state"] = {"running": {"startedAt": rfc3339(run.started_at or now)}}
        if previous:
            status["lastState"] = {"terminated": _terminated(previous)}
        return status
    wait = (
        None if ending is not None and (run is not None or lost) else _waiting(pod, container, observed, now, init=init)
    )
    if run is not None and run.ended and wait is None:
        status["state"] = {"terminated": _terminated(run)}
        if previous:
            status["lastState"] = {"terminated": _terminated(previous)}
        return status
    if wait is None:
        unknown = {
            "exitCode": 137,
            "reason": STATUS_UNKNOWN,
            "message": NOT_LOCATED,
            "startedAt": None,
            "finishedAt": None,
        }
        status["state"] = {"terminated": unknown}
        return status
    status["state"] = {"waiting": wait}
    ended = run if run is not None and run.ended else previous
    if ended is not None:
        status["lastState"] = {"terminated": _terminated(ended)}
    return status


def _waiting(pod: Pod, container: Container, observed: Observed, now: float, *, init: bool) -> dict[str, str] | None:
    """What the container waits for; None when it has ended and nothing keeps it from what comes next."""
    name, run = container.name, observed.latest(container.name)
    again = run is not None and run.ended and (init_should_restart(pod, run) if init else should_restart(pod, run))
    if run is not None and run.ended and not again:
        return None
    turn = init or initialised(pod, observed)
    if turn and name in observed.image_errors and (not init or _is_turn(pod, container, observed)):
        return image_wait(container, observed, now)
    if name in observed.failures:
        failure = observed.failures[name]
        return {"reason": failure.reason, "message": failure.message}
    if run is not None and run.ended:
        if backoff.ready_at(run.backoff, run.finished_at or now) > now:
            delay = go_duration(run.backoff.delay)
            where = f"{pod.name}_{pod.namespace}({pod.uid})"
            message = f"back-off {delay} restarting failed container={name} pod={where}"
            return {"reason": "CrashLoopBackOff", "message": message}
        return None
    return {"reason": "PodInitializing" if pod.init_containers else "ContainerCreating"}


def _is_turn(pod: Pod, container: Container, observed: Observed) -> bool:
    """All init containers before this one have succeeded."""
    before = pod.init_containers[: pod.init_containers.index(container)]
    return all((run := observed.latest(c.name)) is not None and run.exit_code == 0 for c in before)


def image_wait(container: Container, observed: Observed, now: float) -> dict[str, str]:
    """The waiting state of a container whose image this node does not have."""
    sentence = observed.image_errors[container.name]
    if container.pull_policy == "Never":
        message = f'Container image "{container.image}" is not present with pull policy of Never: {sentence}'
        return {"reason": "ErrImageNeverPull", "message": message}
    if backoff.pull_fresh(observed.images_since, now):
        return {"reason": "ErrImagePull", "message": sentence}
    message = f'Back-off pulling image "{container.image}": ErrImagePull: {sentence}'
    return {"reason": "ImagePullBackOff", "message": message}


def _terminated(run: Run) -> Json:
    state: dict[str, Any] = {
        "exitCode": run.exit_code,
        "reason": run.reason or ("Completed" if run.exit_code == 0 else "Error"),
        "startedAt": rfc3339(run.started_at) if run.started_at is not None else None,
        "finishedAt": rfc3339(run.finished_at) if run.finished_at is not None else None,
        "containerID": run.container_id,
    }
    if run.message:
        state["message"] = run.message
    return state


def _ephemeral(raw: Json) -> Json:
    message = "this node cannot add a container to a running pod; read its logs, or start a pod of its own"
    return {
        "name": raw.get("name"),
        "image": raw.get("image") or "",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": UNSUPPORTED, "message": message}},
        "lastState": {},
    }


def _conditions(pod: Pod, observed: Observed, status: Json, now: float) -> list[Json]:
    phase = status["phase"]
    incomplete = [s["name"] for s in status.get("initContainerStatuses", ()) if not s["ready"]]
    unready = [s["name"] for s in status.get("containerStatuses", ()) if not s["ready"]]
    old = {c["type"]: c for c in observed.status.get("conditions") or ()}
    done = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    sandbox = observed.setup == "ready" and done is None
    found: list[tuple[str, bool, str, str]] = [("PodReadyToStartContainers", sandbox, "", "")]
    if phase == "Succeeded":
        found.append(("Initialized", True, "PodCompleted", ""))
    elif incomplete and not initialised(pod, observed):
        names = " ".join(incomplete)
        found.append(
            ("Initialized", False, "ContainersNotInitialized", f"containers with incomplete status: [{names}]")
        )
    else:
        found.append(("Initialized", "initContainerStatuses" in status or not pod.init_containers, "", ""))
    message = f"containers with unready status: [{' '.join(unready)}]"
    if done is not None:
        found += [("Ready", False, done, ""), ("ContainersReady", False, done, "")]
    elif unready or "containerStatuses" not in status:
        found += [
            ("Ready", False, "ContainersNotReady", message),
            ("ContainersReady", False, "ContainersNotReady", message),
        ]
    else:
        closed = [gate for gate in pod.readiness_gates if old.get(gate, {}).get("status") != "True"]
        gates = f"the status of pod readiness gates {closed} is not True"
        found += [("Ready", not closed, "ReadinessGatesNotReady" if closed else "", gates if closed else "")]
        found += [("ContainersReady", True, "", "")]
    found.append(("PodScheduled", True, "", ""))
    return [_condition(kind, value, reason, text, old.get(kind), now) for kind, value, reason, text in found]


def _condition(kind: str, value: bool, reason: str, message: str, old: Json | None, now: float) -> Json:
    """A transition time moves only with the status."""
    status = "True" if value else "False"
    kept = old is not None and old.get("status") == status and old.get("lastTransitionTime")
    moved = seconds(old["lastTransitionTime"]) if old is not None and kept else now
    condition = {"type": kind, "status": status, "lastTransitionTime": rfc3339(moved)}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def go_duration(value: float) -> str:
    """Whole seconds the way Go prints a duration: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(value), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
