"""The servers that a step looks at: ready or not, lost or dead, and whose fault that is."""

from collections.abc import Iterable
from dataclasses import replace

from sartor_api.search.records import (
    FailureClass,
    Judgement,
    Measurement,
)
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods import state
from sartor_operator.pods.jobs import (
    StepObjects,
    baseline_labels,
)
from sartor_operator.pods.servers import BUILD, SERVE, UNPACK
from sartor_operator.pods.state import End
from sartor_operator.pods.unpack import CONTENT_CHANGED
from sartor_operator.run.observe import RunObserved
from sartor_operator.run.step import Ended, verdict_of
from sartor_operator.settings import PORT
from sartor_operator.times import parse_time
from sartor_operator.wire import (
    StepBegin,
)


def baseline_pod(observed: RunObserved) -> Manifest | None:
    """The pod of the run's baseline that is ready, the newest if there are several."""
    return max((p for p in _baseline_pods(observed) if state.ready(p)), key=state.created, default=None)


def _baseline_pods(observed: RunObserved) -> list[Manifest]:
    wanted = baseline_labels(observed.manifest)
    return [p for p in observed.pods if all(names.label(p, k) == v for k, v in wanted.items())]


def newest_baseline(observed: RunObserved) -> Manifest | None:
    """The newest pod of the run's baseline, ready or not."""
    return max(_baseline_pods(observed), key=state.created, default=None)


def since(begin: StepBegin, pod: Manifest | None) -> float:
    """When the time of a step began that needs this pod: not while a queue held the pod back."""
    return max(begin.begun, (state.scheduled_at(pod) if pod is not None else None) or 0.0)


def url(pod: Manifest) -> str:
    host = state.address(pod) or ""
    return f"http://[{host}]:{PORT}" if ":" in host else f"http://{host}:{PORT}"


def held_back(pods: Iterable[Manifest], role: str) -> state.Waiting | None:
    found = (state.waiting(p) for p in pods if names.label(p, names.ROLE_LABEL) == role and not names.deleting(p))
    return next((w for w in found if w is not None), None)


def candidate_end(observed: RunObserved, pod: Manifest, now: float) -> End | None:
    """Why a candidate's server is no more, or will never be; None while it may still be one."""
    settings = observed.place.settings
    if (end := state.disruption(pod)) is not None:
        return end
    if (end := candidate_death(pod, settings.candidate_ready_seconds)) is not None:
        return end
    if (problem := state.image_problem(pod)) is not None and now - state.placed(pod) > settings.image_seconds:
        return End("ImageUnavailable", problem, FailureClass.INFRASTRUCTURE)
    building = state.running_since(pod, BUILD)
    if building is not None and now - building > settings.build_seconds:
        text = f"the build did not end within {settings.build_seconds:.0f} s"
        return End("BuildTimedOut", text, FailureClass.CANDIDATE)
    serving = state.running_since(pod, SERVE)
    if serving is not None and not state.ready(pod) and now - serving > settings.candidate_ready_seconds:
        text = f"the candidate did not answer /health within {settings.candidate_ready_seconds:.0f} s"
        return End("CandidateNotReady", text, FailureClass.CANDIDATE)
    if state.phase(pod) == "Failed":
        return End(
            "PodFailed", str(pod.get("status", {}).get("message", "the pod failed")), FailureClass.INFRASTRUCTURE
        )
    return None


def candidate_death(pod: Manifest, patience: float) -> End | None:
    """Why a container of the candidate ended, if one did; a probe that misses under load is no end."""
    if (broken := state.failed_container(pod)) is not None:
        return _never_ready(patience, *broken) or _container_end(*broken)
    if (ended := state.terminated(pod, SERVE)) is not None:
        return _container_end(SERVE, ended)
    return None


def _never_ready(patience: float, name: str, ended: Manifest) -> End | None:
    """That the kubelet ended the server because it never answered: its start-up probe gave up."""
    started, finished = parse_time(ended.get("startedAt")), parse_time(ended.get("finishedAt"))
    killed = name == SERVE and ended.get("exitCode") in (137, 143) and ended.get("reason") != state.OOM
    if not killed or started is None or finished is None or finished - started < patience:
        return None
    text = f"the candidate did not answer /health within {patience:.0f} s"
    return End("CandidateNotReady", text, FailureClass.CANDIDATE)


def _container_end(name: str, ended: Manifest) -> End:
    code, reason = int(ended.get("exitCode", 0)), str(ended.get("reason", ""))
    said = str(ended.get("message", "")).strip()
    tail = f": {said[-1500:]}" if said else ""
    if name == UNPACK and code == CONTENT_CHANGED:
        return End("ContentChanged", said or "the content is not what was committed", FailureClass.CANDIDATE)
    if name not in (BUILD, SERVE):
        return End("PodSetupFailed", f"container {name} ended with exit code {code}{tail}", FailureClass.INFRASTRUCTURE)
    what = "Build" if name == BUILD else "Candidate"
    if reason == state.OOM:
        return End(f"{what}MemoryExceeded", f"{name} used more memory than a candidate may", FailureClass.CANDIDATE)
    if reason in ("ContainerCannotRun", "StartError", "CreateContainerError", "ContainerStatusUnknown"):
        return End("ContainerNotStarted", f"{name}: {reason}{tail}", FailureClass.INFRASTRUCTURE)
    return End(f"{what}Failed" if name == BUILD else "CandidateExited", f"{name} ended with exit code {code}{tail}",
               FailureClass.CANDIDATE)  # fmt: skip


def server_lost(observed: RunObserved, begin: StepBegin, objects: StepObjects, begun: float) -> End | None:
    """Why what was looked at is not what was started, by no fault of the candidate; None when all is well."""
    pod = next((p for p in observed.pods if names.name_of(p) == objects.candidate), None)
    if pod is None or names.deleting(pod) or state.created(pod) > begun + 1:
        return End(
            "CandidatePodLost", "the candidate's pod is gone, by no fault of its own", FailureClass.INFRASTRUCTURE
        )
    if (end := state.disruption(pod)) is not None:
        return end
    # Under load a probe may miss; what counts is that the pod is the one that was there when the step began.
    same = [p for p in _baseline_pods(observed) if state.created(p) <= begun + 1 and not names.deleting(p)]
    if not any(state.phase(p) == "Running" and not state.restarted_after(p, SERVE, begun) for p in same):
        return End("BaselineLost", "the baseline went away in the middle", FailureClass.INFRASTRUCTURE)
    return None


def with_death(observed: RunObserved, begin: StepBegin, objects: StepObjects, ended: Ended) -> Ended:
    """The answer, corrected by what the kubelet saw: a candidate that died is the cause of whatever else was seen."""
    pod = next((p for p in observed.pods if names.name_of(p) == objects.candidate), None)
    patience = observed.place.settings.candidate_ready_seconds
    death = candidate_death(pod, patience) if pod is not None else None
    if death is None or death.failure_class is not FailureClass.CANDIDATE:
        return ended
    verdict = verdict_of(begin, death)
    if isinstance(ended.result, Judgement):
        others = [v for v in ended.result.verdicts if v.passed or v.failure_class is FailureClass.CANDIDATE]
        alive = verdict.model_copy(update={"gate": "alive"})
        return replace(ended, result=Judgement(verdicts=(alive, *others)))
    if isinstance(ended.result, Measurement) and not death.reason.endswith("MemoryExceeded"):
        return ended
    return replace(ended, result=verdict)
