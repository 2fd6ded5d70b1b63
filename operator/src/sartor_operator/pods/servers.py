"""Model servers: a candidate under test, the run's baseline, and what is delivered. None of them holds a credential.

While a run looks at a candidate, the servers are addressed by pod IP: a step belongs to exactly these pods, and a server
that was replaced in the middle ends the step instead of being measured unnoticed.
"""

import inspect
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.records import BaselineRecord
from sartor_operator import names
from sartor_operator.kinds import Manifest
from sartor_operator.pods import unpack
from sartor_operator.pods.common import (
    MODEL,
    Place,
    container,
    device_variables,
    engine_cache,
    listening,
    model_volumes,
    pod_spec,
    queue_labels,
    same_node,
    serving_resources,
    shared_memory,
    variables,
)
from sartor_operator.pods.jobs import SERVING_ACCOUNT, baseline_labels
from sartor_operator.settings import PORT
from sartor_operator.wire import StackIndex

UNPACK, BUILD, SERVE = "unpack", "build", "serve"
"""Names of the containers of a stack's pod, in the order in which they run."""
PROBE_SECONDS = 2

_STACK, _PARTS = "/stack", "/parts"


@cache
def unpack_program() -> str:
    """The text of `unpack.py`, which an init container runs."""
    return inspect.getsource(unpack)


def probes(start_seconds: float) -> Manifest:
    """Ready when `/health` says so; started within `start_seconds`; alive while it answers."""
    health = {"path": "/health", "port": PORT}
    return {
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": max(1, math.ceil(start_seconds / PROBE_SECONDS)),
        },
        "readinessProbe": {"httpGet": health, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {"httpGet": health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def stack_pod(place: Place, index: StackIndex, *, baseline_url: str, **fields: Any) -> Manifest:
    """A pod's spec that unpacks the stack (verified by hash), builds it, and serves it.

    The files are read-only once they were unpacked; the build writes beside them, and the server writes nowhere.
    """
    image = place.image("stack")
    resources = serving_resources(place.hardware)
    model, model_mount, fetch = model_volumes(place, "served")
    code: Manifest = {"name": "code", "mountPath": _STACK, "readOnly": True}
    built: Manifest = {"name": "build", "mountPath": f"{_STACK}/stack/build"}
    parts: list[Manifest] = [
        {"name": f"part-{number:02d}", "configMap": {"name": part.name}} for number, part in enumerate(index.parts)
    ]
    part_mounts: list[Manifest] = [
        {"name": part["name"], "mountPath": f"{_PARTS}/{part['name'].removeprefix('part-')}", "readOnly": True}
        for part in parts
    ]
    shm_volumes, shm_mounts = shared_memory(place.hardware)
    lifecycle = fields.pop("lifecycle", None)
    start_seconds = fields.pop("start_seconds", place.settings.candidate_ready_seconds)
    command = list(place.settings.stack_command)
    host, host_variables = listening(place.hardware)
    serve = container(
        SERVE,
        image,
        command=[
            *command, "serve", "--model", MODEL, "--host", host, "--port", str(PORT), "--baseline", baseline_url,
        ],
        env=[*host_variables, *device_variables(place.hardware)],
        workingDir=_STACK,
        ports=[{"name": "http", "containerPort": PORT}],
        volumeMounts=[code, built | {"readOnly": True}, model_mount, *shm_mounts],
        **({"resources": resources} if resources else {}),
        **probes(start_seconds),
        **({"lifecycle": lifecycle} if lifecycle else {}),
    )  # fmt: skip
    return pod_spec(
        place,
        account=SERVING_ACCOUNT,
        serving=True,
        volumes=[{"name": "code", "emptyDir": {}}, {"name": "build", "emptyDir": {}}, *parts, *model, *shm_volumes],
        initContainers=[
            *fetch,
            container(
                UNPACK,
                image,
                command=["python3", "-c", unpack_program(), _PARTS, _STACK, index.content_hash],
                volumeMounts=[{"name": "code", "mountPath": _STACK}, *part_mounts],
            ),
            container(
                BUILD,
                image,
                command=[*command, "build"],
                env=device_variables(place.hardware),
                workingDir=_STACK,
                volumeMounts=[code, built],
                **({"resources": resources} if resources else {}),
            ),
        ],
        containers=[serve],
        **fields,
    )


def candidate_pod(
    place: Place, run: Manifest, name: str, labels: Mapping[str, str], step_id: str, index: StackIndex, baseline: str
) -> Manifest:
    """The candidate that one step looks at: started once, beside the baseline, never restarted."""
    spec = stack_pod(
        place,
        index,
        baseline_url=baseline,
        restartPolicy="Never",
        terminationGracePeriodSeconds=5,
        affinity=same_node(baseline_labels(run)),
    )
    # A candidate that stops answering is something to see, not to restart.
    del spec["containers"][0]["livenessProbe"]
    meta = names.metadata(
        name,
        run,
        {**labels, names.ROLE_LABEL: "candidate", **queue_labels(place.hardware)},
        {names.STEP_ANNOTATION: step_id},
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def engine_command(place: Place, record: BaselineRecord, *, served_name: str, length: int) -> list[str]:
    """How the tuned engine is started: the engine's command with the arguments that the run measured."""
    template = place.settings.baseline_commands[record.engine]
    host, _ = listening(place.hardware)
    values = {"model": MODEL, "name": served_name, "host": host, "port": str(PORT), "length": str(length)}
    return [*(part.format(**values) for part in template), *record.arguments]


def baseline_pod(place: Place, record: BaselineRecord, *, served_name: str, length: int, **fields: Any) -> Manifest:
    """A pod's spec that serves the tuned baseline."""
    resources = serving_resources(place.hardware)
    model, model_mount, fetch = model_volumes(place, "served")
    shm_volumes, shm_mounts = shared_memory(place.hardware)
    lifecycle = fields.pop("lifecycle", None)
    cache_volumes, cache_mounts, cache_variables = engine_cache(place.hardware)
    environment = place.settings.baseline_environment | cache_variables | dict(record.environment)
    serve = container(
        SERVE,
        place.image("baseline"),
        command=engine_command(place, record, served_name=served_name, length=length),
        env=[*listening(place.hardware)[1], *device_variables(place.hardware), *variables(environment)],
        ports=[{"name": "http", "containerPort": PORT}],
        volumeMounts=[model_mount, *shm_mounts, *cache_mounts],
        **({"resources": resources} if resources else {}),
        **probes(place.hardware.start_timeout.seconds),
        **({"lifecycle": lifecycle} if lifecycle else {}),
    )
    return pod_spec(
        place,
        account=SERVING_ACCOUNT,
        serving=True,
        volumes=[*model, *shm_volumes, *cache_volumes],
        initContainers=fetch,
        containers=[serve],
        **fields,
    )


def run_baseline(
    place: Place, run: Manifest, name: str, record: BaselineRecord, *, served_name: str, length: int
) -> Manifest:
    """The run's own baseline: one replica that stays up from step to step, since its start takes longer than most."""
    labels = {**baseline_labels(run), names.SYNTHESIS_LABEL: names.label(run, names.SYNTHESIS_LABEL)}
    pod = baseline_pod(place, record, served_name=served_name, length=length, terminationGracePeriodSeconds=10)
    return deployment(names.metadata(name, run, labels), labels, baseline_labels(run), pod, 1, place.hardware)


def deployment(
    meta: Manifest,
    labels: Mapping[str, str],
    selector: Mapping[str, str],
    pod: Manifest,
    replicas: int | None,
    hardware: HardwareTargetSpec,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A Deployment; `replicas` None leaves their number to whoever owns it."""
    template: Manifest = {
        "labels": {names.MANAGED_BY: names.SARTOR, **labels, **queue_labels(hardware)},
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": dict(selector)},
            # The old pod serves until the new one is ready. Where no accelerator is free for both, nothing moves.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": max(60, math.ceil(hardware.start_timeout.seconds)),
            "template": {"metadata": template, "spec": pod},
        },
    }


def service(meta: Manifest, selector: Mapping[str, str]) -> Manifest:
    """A Service in front of a Deployment."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "selector": dict(selector),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
