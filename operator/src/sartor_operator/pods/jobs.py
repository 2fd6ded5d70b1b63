"""One Job for each step: a pod of one role, with what the role may see and nothing else.

| step | role | image | sees | identity |
|---|---|---|---|---|
| baseline | tuner | baseline | step, spec, seed, model | evaluator |
| plan | history, planner, recorder | agent | step, spec, records, configuration of the model (see below) | planner |
| implement | source, implementer, committer | agent | the same, no records | implementer |
| judge | judge | evaluator | step, spec, seed, model; candidate and baseline over HTTP | judge |
| evaluate, confirm | evaluator | evaluator | the same | evaluator |

Planner and implementer, which a model may lead, are the container `agent` between two others, and have no identity: what
they start from is fetched before, and what they leave is checked and stored after them. Where they ask a model they have a
grant of their step for the model proxy (`sartor_api.search.grants`), and the container after them asks it what was spent.

Agents that ask a model have the weights too where they lie on a claim or are made by Sartor: then they can start the
candidate, ask it and profile it. Others would have to be downloaded, and there is no way out of their pods.

A Job tries once (`backoffLimit: 0`): what is tried again, and whose fault a failure was, is decided by `decide`. The pod
failure policy keeps a disruption (eviction, preemption, a lost node) apart from a container that failed, and its verdict
stays in the Job when the pod is gone. It has no rule for exit codes: a queue that suspends a Job has its pod deleted, the
Job controller looks at such a pod by the policy (not by the limit) as long as it is there, and a 143 would fail the Job.
"""

import math
from dataclasses import dataclass

from sartor_api.search.records import StepKind
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods.common import (
    MODEL,
    Place,
    container,
    device_variables,
    empty,
    engine_cache,
    model_volumes,
    pod_spec,
    queue_labels,
    same_node,
    serving_resources,
    shared_memory,
    variables,
)
from sartor_operator.wire import StepBegin

ROLE = {
    StepKind.BASELINE: "tuner",
    StepKind.PLAN: "planner",
    StepKind.IMPLEMENT: "implementer",
    StepKind.JUDGE: "judge",
    StepKind.EVALUATE: "evaluator",
    StepKind.CONFIRM: "evaluator",
}
ACCOUNT = {
    "tuner": "sartor-evaluator",
    "planner": "sartor-planner",
    "implementer": "sartor-implementer",
    "judge": "sartor-judge",
    "evaluator": "sartor-evaluator",
}
"""Service account of each role; `SERVING_ACCOUNT` is that of every pod that runs a model server."""
SERVING_ACCOUNT = "sartor-serving"
ACCOUNTS = (*dict.fromkeys(ACCOUNT.values()), SERVING_ACCOUNT)

SEALED = frozenset({StepKind.BASELINE, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM})
"""Steps that get a sealed seed."""
SEED_KEY = "seed"
CANARY_KEY = "canary"
STEP_KEY = "step.json"
RECORDS_KEY = "records.json"
SPEC_KEY = "spec.json"
CONTAINER = "role"
"""The container whose termination message is the step's report."""

GRANT = "grant"
"""Key of a step's grant in its Secret, and the only one that an agent's pod may mount."""
AGENT_STEPS = {
    StepKind.PLAN: ("history", "planner", "recorder"),
    StepKind.IMPLEMENT: ("source", "implementer", "committer"),
}
"""Before the agent, the agent, after it: what each of the three containers is started as."""

_STEP, _SPEC, _SEAL, _TOKEN, _WORK = "/sartor/step", "/sartor/run", "/sartor/seal", "/sartor/identity", "/work"
_GRANT = "/sartor/grant"


@dataclass(frozen=True)
class StepObjects:
    """Names of the objects of one step, all from the run's uid and the step's id."""

    step: str
    seed: str
    job: str
    candidate: str
    record: str
    grant: str

    @classmethod
    def of(cls, prefix: str, run_uid: str, step_id: str) -> "StepObjects":
        return cls(
            step=names.child_name(prefix, run_uid, step_id, "step"),
            seed=names.child_name(prefix, run_uid, step_id, "seed"),
            job=names.child_name(prefix, run_uid, step_id),
            candidate=names.child_name(prefix, run_uid, step_id, "server"),
            record=names.child_name(prefix, run_uid, step_id, "record"),
            grant=names.child_name(prefix, run_uid, step_id, "grant"),
        )


@dataclass(frozen=True)
class Servers:
    """Addresses of the servers that a step looks at, and of the model proxy where its role asks a model."""

    candidate: str | None = None
    baseline: str | None = None
    models: str | None = None


def step_labels(run: Manifest, begin: StepBegin, role: str) -> dict[str, str]:
    """Labels of everything that belongs to one step."""
    return {
        names.SYNTHESIS_LABEL: names.label(run, names.SYNTHESIS_LABEL),
        names.RUN_LABEL: names.name_of(run),
        names.STEP_LABEL: names.step_label(begin.id),
        names.ROLE_LABEL: role,
    }


def step_job(
    place: Place, run: Manifest, begin: StepBegin, objects: StepObjects, spec_name: str, servers: Servers
) -> Manifest:
    """The Job that carries the step out."""
    role = ROLE[begin.step]
    labels = step_labels(run, begin, role)
    queue = queue_labels(place.hardware)
    job: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": names.metadata(objects.job, run, labels | queue, {names.STEP_ANNOTATION: begin.id}),
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": max(1, math.ceil(begin.deadline_seconds)),
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {
                    "labels": {names.MANAGED_BY: names.SARTOR, **labels},
                    "annotations": {names.STEP_ANNOTATION: begin.id},
                },
                "spec": _pod(place, run, begin, objects, spec_name, servers, role),
            },
        },
    }
    if queue:
        # Kueue admits a Job by setting this to false; nobody else touches it.
        job["spec"]["suspend"] = True
    return job


def _pod(
    place: Place,
    run: Manifest,
    begin: StepBegin,
    objects: StepObjects,
    spec_name: str,
    servers: Servers,
    role: str,
) -> Manifest:
    serving = begin.step in SEALED
    volumes: list[Manifest] = [
        {"name": "step", "configMap": {"name": objects.step}},
        {"name": "run", "configMap": {"name": spec_name}},
        # An agent's root is read-only, so what it may write is what these volumes may hold.
        empty("work", _disk(place, begin.step)),
    ]
    mounts: list[Manifest] = [
        {"name": "step", "mountPath": _STEP, "readOnly": True},
        {"name": "run", "mountPath": _SPEC, "readOnly": True},
        {"name": "work", "mountPath": _WORK},
    ]
    environment = _environment(place, run, role, servers)
    if serving:
        volumes.append({"name": "seal", "secret": {"secretName": objects.seed, "defaultMode": 0o440}})
        mounts.append({"name": "seal", "mountPath": _SEAL, "readOnly": True})
        environment.append({"name": "SARTOR_SEED_FILE", "value": f"{_SEAL}/{SEED_KEY}"})
    # Where a model writes, it may start what it wrote. Nothing is downloaded for that, there is no way out of its pod.
    tried = servers.models is not None and place.model.synthetic is not None
    model, model_mount, fetch = model_volumes(place, "all" if serving else "served" if tried else "configuration")
    volumes += model
    mounts.append(model_mount)
    token: Manifest = {
        "name": "identity",
        "projected": {
            "sources": [
                {
                    "serviceAccountToken": {
                        "audience": place.settings.repository_audience,
                        "expirationSeconds": 3600,
                        "path": "token",
                    }
                }
            ]
        },
    }
    volumes.append(token)
    identity: Manifest = {"name": "identity", "mountPath": _TOKEN, "readOnly": True}
    known = [*environment, {"name": "SARTOR_TOKEN_FILE", "value": f"{_TOKEN}/token"}]
    resources = _resources(place, begin.step)
    command = list(place.settings.role_command)
    granted: list[Manifest] = []
    if servers.models is not None:
        items = [{"key": GRANT, "path": "token"}]
        volumes.append({"name": "grant", "secret": {"secretName": objects.grant, "items": items, "defaultMode": 0o440}})
        granted = [{"name": "grant", "mountPath": _GRANT, "readOnly": True}]
    if begin.step in AGENT_STEPS:
        before, agent, after = AGENT_STEPS[begin.step]
        trusted: Manifest = {
            "env": known,
            "resources": _resources(place, StepKind.JUDGE),
            "image": place.image("agent"),
        }
        return pod_spec(
            place,
            account=ACCOUNT[role],
            serving=False,
            runtime=place.hardware.sandbox_runtime_class_name,
            restartPolicy="Never",
            volumes=[*volumes, empty("agent-scratch", _disk(place, begin.step))],
            initContainers=[
                *fetch,
                # What needs the identity is done by containers that the agent cannot reach.
                container("source", command=[*command, before], volumeMounts=[*mounts, identity], **trusted),
                container(
                    "agent",
                    place.image("agent"),
                    command=[*command, agent],
                    scratch="agent-scratch",  # what it leaves in its /tmp, the one after it never meets
                    env=[*environment, {"name": "SARTOR_ISOLATION", "value": "pod"}],
                    volumeMounts=[*mounts, *granted],
                    resources=resources,
                ),
            ],
            containers=[
                container(CONTAINER, command=[*command, after], volumeMounts=[*mounts, identity, *granted], **trusted)
            ],
        )
    fields: Manifest = {"affinity": same_node(baseline_labels(run))} if servers.baseline else {}
    engine_volumes: list[Manifest] = []
    engine_mounts: list[Manifest] = []
    if begin.step is StepKind.BASELINE:
        shm_volumes, shm_mounts = shared_memory(place.hardware)
        cache_volumes, cache_mounts, cache_variables = engine_cache(place.hardware)
        engine_volumes, engine_mounts = [*shm_volumes, *cache_volumes], [*shm_mounts, *cache_mounts]
        known += [*device_variables(place.hardware), *variables(cache_variables)]
    return pod_spec(
        place,
        account=ACCOUNT[role],
        serving=serving,
        restartPolicy="Never",
        volumes=[*volumes, *engine_volumes],
        initContainers=fetch,
        containers=[
            container(
                CONTAINER,
                place.image(_image(begin.step)),
                command=[*command, role],
                env=known,
                volumeMounts=[*mounts, identity, *granted, *engine_mounts],
                resources=resources,
            )
        ],
        **fields,
    )


def _image(step: StepKind) -> str:
    if step is StepKind.BASELINE:
        return "baseline"
    return "evaluator" if step in SEALED else "agent"


def _environment(place: Place, run: Manifest, role: str, servers: Servers) -> list[Manifest]:
    meta = run["metadata"]
    values = {
        "SARTOR_ROLE": role,
        "SARTOR_STEP_FILE": f"{_STEP}/{STEP_KEY}",
        "SARTOR_RECORDS_FILE": f"{_STEP}/{RECORDS_KEY}" if role == "planner" else None,
        "SARTOR_MODEL_URL": servers.models,
        "SARTOR_MODEL_TOKEN_FILE": f"{_GRANT}/token" if servers.models is not None else None,
        "SARTOR_SPEC_FILE": f"{_SPEC}/{SPEC_KEY}",
        "SARTOR_MODEL": MODEL,
        "SARTOR_WORK": _WORK,
        "SARTOR_REPOSITORY": repository_url(place, meta["namespace"], meta["name"]),
        "SARTOR_CANDIDATE_URL": servers.candidate,
        "SARTOR_BASELINE_URL": servers.baseline,
    }
    return [{"name": name, "value": value} for name, value in values.items() if value is not None]


def repository_url(place: Place, namespace: str, run_name: str) -> str:
    """Address of a run's repository."""
    return f"{place.settings.repository}/{namespace}/{run_name}"


def baseline_labels(run: Manifest) -> dict[str, str]:
    """Labels that the pods of a run's baseline server have, and no other pod."""
    return {names.RUN_LABEL: names.name_of(run), names.ROLE_LABEL: "baseline"}


def _disk(place: Place, step: StepKind) -> str | None:
    return str(place.agents.sandbox.disk) if step in AGENT_STEPS else None


def _resources(place: Place, step: StepKind) -> Manifest:
    if step is StepKind.BASELINE and (serving := serving_resources(place.hardware)):
        return serving
    wanted = place.settings.roles
    limits = dict(wanted.limits)
    if step in AGENT_STEPS:
        limits |= {"cpu": str(place.agents.sandbox.cpu), "memory": str(place.agents.sandbox.memory)}
    return {"requests": dict(wanted.requests)} | ({"limits": limits} if limits else {})
