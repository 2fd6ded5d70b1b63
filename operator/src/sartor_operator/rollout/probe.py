"""The probe of a rollout in the cluster: a Deployment of one pod with a Service, owned by the rollout.

It is there while the rollout waits for its first step and goes through its steps, where the policy names the source `probe`.
Nothing that carries traffic hangs on it: its writes come after all others, and one that is refused is said and holds
nothing up (`Decision.afterwards`). The route is freed of it before it goes, since a gateway may refuse a route to a Service
that does not exist.
"""

from collections.abc import Mapping

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.probe import CONTROL_PORT, COPIES_PORT
from sartor_api.serving_rollout import Arm, ServingRolloutSpec
from sartor_operator import names
from sartor_operator.actions import Action, Apply, Delete
from sartor_operator.drift import covers
from sartor_operator.kinds import DEPLOYMENT, SERVICE, Manifest, kind_of
from sartor_operator.pods.common import POD_SECURITY, SCRATCH, container, empty
from sartor_operator.rollout.index import probe_name
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position
from sartor_operator.rollout.progress import blocked
from sartor_operator.settings import Settings

KEEP = 50_000
"""Records that it keeps for an operator that is away: at one pair a second those of seven hours, 50 MB."""
OWN_MIB, PAIR_MIB = 256, 64
"""What it may use by itself, its records included, and for each pair that is under way: a body of 8 MiB and two answers of
16 at worst."""
RUNNER = {"key": "sartor.dev/runner", "operator": "Exists"}
"""The taint of a sartor-runner, beside the tolerations of the HardwareTarget: the probe needs no accelerator of either."""
_HEALTH: Manifest = {"path": "/health", "port": CONTROL_PORT}


def probe_manifests(
    rollout: Manifest, spec: ServingRolloutSpec, hardware: HardwareTargetSpec | None, settings: Settings
) -> tuple[Manifest, Manifest]:
    """Deployment and Service. `hardware` is that of the run which the candidate comes from, None for one made by hand."""
    name = probe_name(rollout)
    labels = {names.PROBE_LABEL: name}
    meta = names.metadata(name, rollout, labels)
    deployment: Manifest = {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": meta,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            # Two at once would answer the operator by turns, and each of them knows half.
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {names.MANAGED_BY: names.SARTOR, names.ROLE_LABEL: "probe", **labels}},
                "spec": _pod(str(meta["namespace"]), spec, hardware, settings),
            },
        },
    }
    service: Manifest = {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": names.metadata(name, rollout, labels),
        "spec": {
            "selector": labels,
            "ports": [
                {"name": port, "port": number, "targetPort": port, "protocol": "TCP"}
                for port, number in (("copies", COPIES_PORT), ("control", CONTROL_PORT))
            ],
        },
    }
    return deployment, service


def _pod(namespace: str, spec: ServingRolloutSpec, hardware: HardwareTargetSpec | None, settings: Settings) -> Manifest:
    images = hardware.images if hardware is not None else None
    image = (images.evaluator if images is not None else None) or settings.images.evaluator
    sampling = spec.policy.analysis.probe
    probe = container(
        "probe",
        str(image),
        command=[
            *settings.probe_command,
            "--baseline", _url(spec.baseline, namespace),
            "--candidate", _url(spec.candidate, namespace),
            "--concurrency", str(sampling.concurrency),
            "--keep", str(KEEP),
        ],
        # Its own address, since on nodes of a sartor-runner all pods share one network.
        env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        ports=[
            {"name": "copies", "containerPort": COPIES_PORT, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
        ],
        readinessProbe={"httpGet": _HEALTH, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 5},
        livenessProbe={"httpGet": _HEALTH, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        resources={
            "requests": {"cpu": "100m", "memory": "96Mi"},
            "limits": {"memory": f"{OWN_MIB + PAIR_MIB * sampling.concurrency}Mi"},
        },
    )  # fmt: skip
    made: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        # Nothing that it has under way is anybody's answer.
        "terminationGracePeriodSeconds": 5,
        "tolerations": _tolerations(hardware),
        "volumes": [empty(SCRATCH)],
        "containers": [probe],
    }
    if hardware is not None and hardware.agent_node_selector:
        made["nodeSelector"] = dict(hardware.agent_node_selector)
    if images is not None and images.pull_secret_ref is not None:
        made["imagePullSecrets"] = [{"name": images.pull_secret_ref.name}]
    return made


def _url(arm: Arm, namespace: str) -> str:
    return f"http://{arm.service}.{namespace}.svc:{arm.port}"


def _tolerations(hardware: HardwareTargetSpec | None) -> list[Manifest]:
    given: list[Manifest] = [t.to_dict(defaults=True) for t in hardware.tolerations] if hardware is not None else []
    return given if RUNNER in given else [*given, RUNNER]


def probe_writes(observed: RolloutObserved, position: Position) -> tuple[Action, ...]:
    """What brings the probe there, as it should be, or takes it away. `position` is the one that is acted by."""
    probe = observed.probe
    if probe is None:
        return ()
    there = {str(one["kind"]): one for one in probe.there}
    waits = position.stage == "pending" and blocked(observed) is None
    if probe.wanted and (waits or position.stage == "steps"):
        return tuple(
            Apply(wanted, "sartor-rollout-probe")
            for wanted in probe.manifests
            if not _as_wanted(wanted, there.get(str(wanted["kind"])))
        )
    if observed.route is not None and probe.name in observed.route.copies:
        return ()  # the route is freed of it first, if not in this look
    return tuple(
        Delete(kind_of(one), observed.namespace, probe.name, names.uid(one))
        for one in there.values()
        if not names.deleting(one)
    )


def _as_wanted(wanted: Manifest, there: Mapping[str, object] | None) -> bool:
    return there is not None and covers(wanted["spec"], there.get("spec"))
