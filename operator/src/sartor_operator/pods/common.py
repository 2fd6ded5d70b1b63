"""What all pods have in common: who they run as, where they run, what they may use, and the model.

Every pod: no service-account token unless a role needs an identity towards the run repository (then a projected token of
that audience alone), no service links, nothing that needs privileges, a read-only root with an empty `/tmp`.
"""

from dataclasses import dataclass
from typing import Any

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.model import ModelSource
from sartor_api.search.wire import ModelPart
from sartor_operator.kinds import Manifest
from sartor_operator.settings import Settings

MODEL = "/model"
ENGINE_CACHE = "/engine-cache"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Both together are the `restricted` profile of the Pod Security Standards."""

SCRATCH = "scratch"
CUDA_SHARED_MEMORY = "2Gi"
"""Size of /dev/shm on `cuda` where the target says nothing; vLLM's processes speak through it."""


@dataclass(frozen=True)
class Place:
    """The facts that pods of one run are made from."""

    settings: Settings
    hardware: HardwareTargetSpec
    agents: AgentProfileSpec
    model: ModelSource
    dtype: str = "bfloat16"
    baseline_image: str | None = None

    def image(self, which: str) -> str:
        """The image of `stack`, `baseline`, `agent` or `evaluator`: the synthesis's, the target's, the installation's."""
        if which == "baseline" and self.baseline_image:
            return self.baseline_image
        return str(getattr(self.hardware.images, which) or getattr(self.settings.images, which))


def empty(name: str) -> Manifest:
    """A volume that begins empty and ends with its pod."""
    return {"name": name, "emptyDir": {}}


def container(name: str, image: str, **fields: Any) -> Manifest:
    """A container under the restricted profile, with a writable `/tmp` (the volume that `scratch` names) and `HOME` there.

    Python loads nothing from there: what one container of a pod leaves in `/tmp` is no code for the next.
    """
    mounts = [{"name": fields.pop("scratch", SCRATCH), "mountPath": "/tmp"}, *fields.pop("volumeMounts", [])]
    environment = [
        {"name": "HOME", "value": "/tmp"},
        {"name": "PYTHONNOUSERSITE", "value": "1"},
        *fields.pop("env", []),
    ]
    return {
        "name": name,
        "image": image,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
        "env": environment,
        **fields,
    }


def pod_spec(place: Place, *, account: str, serving: bool, **fields: Any) -> Manifest:
    """A pod's spec. `serving` pods get the accelerator's nodes and runtime class, others the nodes of agents."""
    hardware = place.hardware
    selector = hardware.node_selector if serving else hardware.agent_node_selector
    runtime = hardware.runtime_class_name if serving else fields.pop("runtime", None)
    pull = hardware.images.pull_secret_ref
    spec: Manifest = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "volumes": [empty(SCRATCH), *fields.pop("volumes", [])],
        **fields,
    }
    if hardware.tolerations:
        spec["tolerations"] = [toleration.to_dict(defaults=True) for toleration in hardware.tolerations]
    if selector:
        spec["nodeSelector"] = dict(selector)
    if runtime:
        spec["runtimeClassName"] = runtime
    if pull is not None:
        spec["imagePullSecrets"] = [{"name": pull.name}]
    return spec


def serving_resources(hardware: HardwareTargetSpec) -> Manifest:
    """Requests and limits alike of a pod that serves a model, the accelerator included."""
    wanted = hardware.resources
    amounts: Manifest = {
        name: str(value)
        for name, value in (
            ("cpu", wanted.cpu),
            ("memory", wanted.memory),
            ("ephemeral-storage", wanted.ephemeral_storage),
        )
        if value is not None
    }
    if hardware.accelerator is not None:
        amounts[hardware.accelerator.resource] = str(hardware.accelerator.count)
    return {"requests": amounts, "limits": dict(amounts)} if amounts else {}


def shared_memory(hardware: HardwareTargetSpec) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts for /dev/shm, where an engine of several processes needs more than the default."""
    size = hardware.resources.shared_memory
    if size is None and hardware.platform == "cuda":
        size = CUDA_SHARED_MEMORY  # the 64 MiB of a container end vLLM's processes with a bus error
    if size is None:
        return [], []
    volume = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}
    return [volume], [{"name": "shm", "mountPath": "/dev/shm"}]


def device_variables(hardware: HardwareTargetSpec) -> list[Manifest]:
    """What the container runtime needs to know to bring an accelerator's libraries into a container.

    The device plugin says which devices (NVIDIA_VISIBLE_DEVICES). Which parts of the driver is the image's to say, and one
    without CUDA's own base image says nothing: then neither CUDA nor NVML would be found.
    """
    if hardware.platform != "cuda":
        return []
    return [{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"}]


def queue_labels(hardware: HardwareTargetSpec) -> dict[str, str]:
    """Kueue's labels, if the target names a queue."""
    if hardware.kueue is None:
        return {}
    labels = {QUEUE_LABEL: hardware.kueue.queue_name}
    return labels | ({PRIORITY_LABEL: hardware.kueue.priority_class} if hardware.kueue.priority_class else {})


def listening(hardware: HardwareTargetSpec) -> tuple[str, list[Manifest]]:
    """What a server in a pod binds, and the variables that this takes."""
    if hardware.listen_on == "all":
        return "0.0.0.0", []
    return "$(POD_IP)", [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def engine_cache(hardware: HardwareTargetSpec) -> tuple[list[Manifest], list[Manifest], dict[str, str]]:
    """Volumes, mounts and variables for the folder in which an engine keeps what it compiled.

    Without one in the cluster the folders lie in `/tmp`, so that nothing depends on the home of an image's user.
    """
    folder = ENGINE_CACHE if hardware.engine_cache is not None else f"/tmp{ENGINE_CACHE}"
    variables = {
        "SARTOR_ENGINE_CACHE": folder,
        "VLLM_CACHE_ROOT": f"{folder}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
    }
    if hardware.engine_cache is None:
        return [], [], variables
    claim, path = hardware.engine_cache.persistent_volume_claim, hardware.engine_cache.host_path
    place: Manifest = (
        {"persistentVolumeClaim": {"claimName": claim}} if claim else {"hostPath": {"path": path, "type": "Directory"}}
    )
    return [{"name": "engine-cache", **place}], [{"name": "engine-cache", "mountPath": ENGINE_CACHE}], variables


def variables(values: dict[str, str]) -> list[Manifest]:
    """Environment variables of a container, in the order of their names."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def same_node(labels: dict[str, str]) -> Manifest:
    """Affinity to the node that runs the pod with these labels: what is compared has to share its hardware."""
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


# --- the model --------------------------------------------------------------------------------------------------------


def model_needs_credentials(source: ModelSource) -> str | None:
    """The field of a model's source that names a Secret, if one does.

    Such a model cannot be fetched in a candidate's pod, which may hold no credential.
    """
    if source.hugging_face is not None and source.hugging_face.token_secret_ref is not None:
        return "huggingFace.tokenSecretRef"
    if source.oci is not None and source.oci.pull_secret_ref is not None:
        return "oci.pullSecretRef"
    if source.s3 is not None and source.s3.credentials_secret_ref is not None:
        return "s3.credentialsSecretRef"
    return None


def model_volumes(place: Place, much: ModelPart) -> tuple[list[Manifest], Manifest, list[Manifest]]:
    """(volumes, the mount, init containers) that put the checkpoint, or `much` of it, at `MODEL`, read-only.

    A claim is mounted whole; any other source is fetched by an init container of Sartor's own image into an empty volume.
    """
    claim = place.model.persistent_volume_claim
    if claim is not None:
        volume = {"name": "model", "persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
        mount: Manifest = {"name": "model", "mountPath": MODEL, "readOnly": True}
        return [volume], mount | ({"subPath": claim.path} if claim.path else {}), []
    fetch = container(
        "fetch-model",
        place.image("evaluator"),
        command=[*place.settings.role_command, "fetch-model"],
        env=[
            {"name": "SARTOR_MODEL_SOURCE", "value": place.model.model_dump_json(by_alias=True, exclude_none=True)},
            {"name": "SARTOR_MODEL", "value": MODEL},
            {"name": "SARTOR_MODEL_DTYPE", "value": place.dtype},
            {"name": "SARTOR_MODEL_PART", "value": much},
        ],
        volumeMounts=[{"name": "model", "mountPath": MODEL}],
    )
    return [{"name": "model", "emptyDir": {}}], {"name": "model", "mountPath": MODEL, "readOnly": True}, [fetch]
