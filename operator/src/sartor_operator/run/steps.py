"""The step in flight: what it needs next, whether it ended, and whose fault it was.

| what is seen | class |
|---|---|
| the pod was evicted, preempted or deleted, its node or image is lost; the baseline is not there | infrastructure |
| a role's container failed, ran out of memory, or answered what is no report | infrastructure |
| a planner's answer contradicts what it was asked | provider |
| an implementer's answer contradicts what it was asked; the content is not what was committed | candidate |
| the candidate does not build, start or stay; it exceeds its memory | candidate |
| what judge and evaluator report | as they say |

An answer for another step, of another kind, or about an unknown parent is never stored as a result.
"""

from dataclasses import replace

from sartor_api.conditions import Reason
from sartor_api.search.leaks import canary_of
from sartor_api.search.records import FailureClass
from sartor_operator import names
from sartor_operator.actions import Action, Create, PublishStack
from sartor_operator.kinds import Manifest
from sartor_operator.pods import state
from sartor_operator.pods.jobs import (
    ROLE,
    SEALED,
    Servers,
    StepObjects,
    repository_url,
    step_job,
    step_labels,
)
from sartor_operator.pods.servers import candidate_pod
from sartor_operator.pods.state import End
from sartor_operator.run.answers import answer
from sartor_operator.run.observe import RunObserved
from sartor_operator.run.servers import (
    baseline_pod,
    candidate_end,
    held_back,
    newest_baseline,
    server_lost,
    since,
    url,
    with_death,
)
from sartor_operator.run.step import (
    JUDGED,
    Ended,
    Running,
    asking,
    failure,
    grant_secret,
    over,
    seed_digest,
    seed_of,
    seed_secret,
    verdict_of,
)
from sartor_operator.times import parse_time
from sartor_operator.wire import (
    StepBegin,
)

RECHECK_SECONDS = 10.0
"""How often a pod that does not get on is looked at: nothing tells that a time has passed."""


def progress(observed: RunObserved, begin: StepBegin, now: float) -> Ended | Running:
    """Where the step stands, and what it needs next. Total: every state of the cluster has an answer."""
    objects = StepObjects.of(observed.prefix, observed.uid, begin.id)
    job = next((j for j in observed.jobs if names.name_of(j) == objects.job), None)
    if job is not None:
        return _with_job(observed, begin, objects, job, now)
    seal = observed.seal
    if begin.seed_digest is not None and (seal is None or seed_digest(seed_of(seal, begin.id)) != begin.seed_digest):
        return failure(begin, now, "SealLost", "the key of the run's seeds is not the one that was committed to")
    actions: list[Action] = []
    if begin.step in SEALED and seal is not None and objects.seed not in map(names.name_of, observed.secrets):
        actions.append(Create(seed_secret(observed.manifest, begin, objects.seed, seal)))
    role = asking(observed, begin)
    if role is not None:
        models = observed.models
        if models is None or models.waits:
            said = models.waits if models is not None else "the run names no AgentProfile"
            return Running(f"the {role} waits: {said}", None, tuple(actions), now + RECHECK_SECONDS)
        if objects.grant not in map(names.name_of, observed.secrets):
            actions.append(Create(grant_secret(observed, begin, objects.grant, role, now)))
    if begin.step not in JUDGED:
        # Time that it waited for the model proxy is not its own.
        return _start(observed, begin, objects, Servers(), actions, begin.begun if role is None else now)
    return _with_servers(observed, begin, objects, actions, now)


def _with_servers(
    observed: RunObserved, begin: StepBegin, objects: StepObjects, actions: list[Action], now: float
) -> Ended | Running:
    """Baseline, then the stack's content, then the candidate, then the Job."""
    assert begin.content_hash is not None and begin.commit is not None, "a judged step names its candidate"
    baseline = baseline_pod(observed)
    begun = since(begin, baseline or newest_baseline(observed))
    patience = observed.place.hardware.start_timeout.seconds
    if baseline is None:
        held = held_back(observed.pods, "baseline")
        if held is not None and held.reason is Reason.AWAITING_QUOTA:
            return Running(f"the baseline waits: {held.message}", None, tuple(actions), reason=held.reason)
        if now - begun > patience:
            text = f"the baseline was not ready within {patience:.0f} s" + (f": {held.message}" if held else "")
            return over(begin, End("BaselineNotReady", text, FailureClass.INFRASTRUCTURE), begun, now)
        reason = held.reason if held else Reason.PROGRESSING
        message = f"waiting for the baseline{f': {held.message}' if held else ''}"
        return Running(message, begun, tuple(actions), begun + patience + 1, reason)
    index = observed.stacks.get(begin.content_hash)
    if index is None:
        return Running("the candidate is published", begun, (*actions, publish(observed, begin)))
    if index.problem is not None:
        return Ended(index.problem.model_copy(update={"gate": begin.step.value}), begun, max(now, begun))
    pod = next((p for p in observed.pods if names.name_of(p) == objects.candidate), None)
    if pod is None:
        labels = step_labels(observed.manifest, begin, "candidate")
        made = candidate_pod(
            observed.place, observed.manifest, objects.candidate, labels, begin.id, index, url(baseline)
        )
        return Running("the candidate starts", begun, (*actions, Create(made)))
    begun = max(begun, since(begin, pod))
    if names.deleting(pod):
        text = "the candidate's pod was deleted before it was looked at"
        return over(begin, End("CandidatePodLost", text, FailureClass.INFRASTRUCTURE), begun, now)
    if (end := candidate_end(observed, pod, now)) is not None:
        return Ended(verdict_of(begin, end), begun, max(now, begun))
    if state.ready(pod):
        servers = Servers(candidate=url(pod), baseline=url(baseline))
        return _start(observed, begin, objects, servers, actions, begun)
    held = state.waiting(pod)
    if held is not None and held.reason is Reason.AWAITING_QUOTA:
        return Running(f"the candidate waits: {held.message}", None, tuple(actions), reason=held.reason)
    message = f"the candidate starts{f': {held.message}' if held else ''}"
    reason = held.reason if held else Reason.PROGRESSING
    return Running(message, begun, tuple(actions), now + RECHECK_SECONDS, reason)


def _start(
    observed: RunObserved, begin: StepBegin, objects: StepObjects, servers: Servers, actions: list[Action], begun: float
) -> Running:
    models = observed.models.url if observed.models is not None and asking(observed, begin) is not None else None
    job = step_job(
        observed.place, observed.manifest, begin, objects, observed.spec_name, replace(servers, models=models)
    )
    return Running(f"the {ROLE[begin.step]} starts", begun, (*actions, Create(job)))


def publish(observed: RunObserved, begin: StepBegin) -> PublishStack:
    """The content of a candidate, into ConfigMaps of the run."""
    assert begin.content_hash is not None and begin.commit is not None, "a judged step names its candidate"
    labels = {
        names.SYNTHESIS_LABEL: names.label(observed.manifest, names.SYNTHESIS_LABEL),
        names.RUN_LABEL: observed.name,
    }
    return PublishStack(
        owner=observed.manifest,
        name=names.child_name(observed.prefix, observed.uid, names.STACK, begin.content_hash[:12]),
        labels=labels,
        repository=repository_url(observed.place, observed.manifest["metadata"]["namespace"], observed.name),
        commit=begin.commit,
        content_hash=begin.content_hash,
        secrets=(canary_of(observed.seal), observed.seal) if observed.seal is not None else (),
    )


def _with_job(
    observed: RunObserved, begin: StepBegin, objects: StepObjects, job: Manifest, now: float
) -> Ended | Running:
    started = parse_time(job.get("status", {}).get("startTime"))
    ended = any(state.holds(job, kind) for kind in ("Complete", "Failed"))
    if job.get("spec", {}).get("suspend") and not ended:
        return Running(_queued(observed, objects), None, reason=Reason.AWAITING_QUOTA)
    if (started is None or state.holds(job, "Suspended")) and not ended:
        # Admitted just now: its time begins with it. The start that it shows may be that before it was suspended.
        return Running(f"Job {objects.job} is about to start", None)
    begun = started if started is not None else now  # it ended without having begun
    pods = [
        p
        for p in observed.of_step(observed.pods, begin.id)
        # A queue that takes its admission back has the pod deleted; what is left of it says nothing of the next one.
        if names.owner_uid(p) == names.uid(job) and not (names.deleting(p) and state.created(p) < begun)
    ]
    pod = max(pods, key=state.created, default=None)
    answered = answer(observed, begin, job, pod, begun, now)
    lost = server_lost(observed, begin, objects, begun) if begin.step in JUDGED else None
    if answered is None:
        if lost is not None:
            return Ended(verdict_of(begin, lost), begun, max(now, begun))
        return _still_running(begin, pod, begun, now)
    if lost is not None:
        # What was said of a server that was gone says nothing about the candidate.
        return Ended(verdict_of(begin, lost), begun, answered.finished, answered.cost, told=answered.told)
    return with_death(observed, begin, objects, answered)


def _queued(observed: RunObserved, objects: StepObjects) -> str:
    """What a suspended Job waits for, and what to do where nobody will ever resume it."""
    queue = observed.place.hardware.kueue
    if queue is None:
        return f"waiting for whoever suspended it to resume Job {objects.job}"
    text = f"waiting for queue {queue.queue_name} to admit Job {objects.job}"
    if not observed.queue_left:
        return text
    target = observed.run.spec.snapshot.synthesis.hardware.target_ref.name
    return (
        f"{text}, though HardwareTarget {target} does not name this queue any more; if nobody serves it, delete "
        f"SynthesisRun {observed.name}, and the search begins again as the HardwareTarget says now"
    )


def _still_running(begin: StepBegin, pod: Manifest | None, begun: float, now: float) -> Running:
    held = state.waiting(pod) if pod is not None else None
    role = ROLE[begin.step]
    if pod is not None and names.deleting(pod):
        return Running(f"the {role}'s pod is being deleted", begun, (), now + RECHECK_SECONDS)
    if held is not None:
        return Running(f"the {role} waits: {held.message}", begun, (), now + RECHECK_SECONDS, held.reason)
    return Running(f"the {role} works", begun)
