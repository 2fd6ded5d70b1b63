"""What this node cannot give a pod, by the field that asks for it.

A pod that asks for one of these is not run with less: it is refused (phase `Failed`, reason `UnsupportedByRunner`)
with every such field and what to do, so that nobody believes in a protection or a feature that is not there. Ephemeral
containers, which come to a pod that runs already, are refused in their own status instead (`status.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sartor_runner.core import payload
from sartor_runner.core.pod import Json, Pod
from sartor_runner.core.quantity import parse as parse_quantity

REASON = "UnsupportedByRunner"

VOLUME_KINDS = frozenset({"emptyDir", "configMap", "secret", "projected", "downwardAPI", "hostPath"})
PROJECTED_KINDS = frozenset({"serviceAccountToken", "configMap", "secret", "downwardAPI"})
HOST_PATH_TYPES = frozenset({"", "Directory", "File", "DirectoryOrCreate", "FileOrCreate"})
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@dataclass(frozen=True)
class Allowed:
    """What the configuration allows beyond the defaults. Paths are absolute prefixes; a writable one is readable too."""

    host_paths: tuple[str, ...] = ()
    writable_host_paths: tuple[str, ...] = ()

    def host_path(self, path: str, *, writable: bool) -> bool:
        parts = path.split("/")
        if ".." in parts or not path.startswith("/"):
            return False
        prefixes = self.writable_host_paths if writable else self.host_paths + self.writable_host_paths
        return any(path == p or path.startswith(p.rstrip("/") + "/") for p in prefixes)


def refusals(pod: Pod, allowed: Allowed) -> tuple[str, ...]:
    """A sentence per field that cannot be honoured; empty when the pod can run."""
    return (
        *_pod(pod),
        *_volumes(pod, allowed),
        *(s for c in _containers(pod) for s in _container(c, pod)),
    )


def written(pod: Pod) -> frozenset[str]:
    """Names of the volumes that some container of the pod mounts for writing."""
    return frozenset(
        mount["name"]
        for container in pod.all_containers()
        for mount in container.raw.get("volumeMounts") or ()
        if not mount.get("readOnly")
    )


def _containers(pod: Pod) -> Iterator[tuple[str, Json]]:
    for index, container in enumerate(pod.init_containers):
        yield f"spec.initContainers[{index}]", container.raw
    for index, container in enumerate(pod.containers):
        yield f"spec.containers[{index}]", container.raw


def _pod(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    for name, what in (
        ("hostPID", "pods on this node have a process namespace of their own"),
        ("hostIPC", "pods on this node have an IPC namespace of their own"),
        ("shareProcessNamespace", "each container on this node has a process namespace of its own"),
        ("hostnameOverride", "use spec.hostname"),
        ("setHostnameAsFQDN", "use spec.hostname"),
    ):
        if spec.get(name):
            yield f"spec.{name}: {what}"
    if spec.get("hostUsers") is True and spec.get("hostNetwork") is None:
        yield "spec.hostUsers: true: processes on this node never run as the host's users; leave it out"
    if spec.get("runtimeClassName"):
        yield "spec.runtimeClassName: this node has one runtime, its own; leave it out"
    if spec.get("resources"):
        yield "spec.resources: this node accounts for containers, not for whole pods; set the containers' own resources"
    if (spec.get("os") or {}).get("name") == "windows":
        yield "spec.os.name: windows: this node runs no Windows pods"
    security = spec.get("securityContext") or {}
    yield from _security("spec.securityContext", security)
    if security.get("sysctls"):
        yield "spec.securityContext.sysctls: this node sets no kernel parameters"


def _volumes(pod: Pod, allowed: Allowed) -> Iterator[str]:
    writers = written(pod)
    for index, volume in enumerate(pod.volumes):
        where = f"spec.volumes[{index}] ({volume.get('name')})"
        kind = next((k for k in volume if k != "name"), "emptyDir")
        if kind not in VOLUME_KINDS:
            yield f"{where}.{kind}: this node mounts only {', '.join(sorted(VOLUME_KINDS))}"
        elif kind == "projected":
            for source in volume["projected"].get("sources") or ():
                yield from (
                    f"{where}.projected.sources: {k}: this node projects only {', '.join(sorted(PROJECTED_KINDS))}"
                    for k in source
                    if k not in PROJECTED_KINDS
                )
        elif kind == "emptyDir" and (volume["emptyDir"] or {}).get("medium") not in (None, "", "Memory"):
            yield f"{where}.emptyDir.medium: {volume['emptyDir']['medium']}: this node has only the default and Memory"
        elif kind == "hostPath":
            path, writable = volume["hostPath"].get("path", ""), volume["name"] in writers
            if not allowed.host_path(path, writable=writable):
                how = "written" if writable else "read"
                yield (
                    f"{where}.hostPath: {path} may not be {how} here; the node's configuration must list it "
                    f"under host_paths.{'writable' if writable else 'readable'}"
                )
            if (volume["hostPath"].get("type") or "") not in HOST_PATH_TYPES:
                yield f"{where}.hostPath.type: {volume['hostPath']['type']}: this node mounts only files and directories"


def _container(located: tuple[str, Json], pod: Pod) -> Iterator[str]:
    where, raw = located
    if raw.get("restartPolicy") or raw.get("restartPolicyRules"):
        what = "sidecar init containers" if "init" in where else "restart rules of a single container"
        yield f"{where}.restartPolicy: this node has no {what}; use a second container and the pod's restartPolicy"
    for field in ("stdin", "tty"):
        if raw.get(field):
            yield f"{where}.{field}: nothing can be attached to a container on this node; leave it out"
    if raw.get("volumeDevices"):
        yield f"{where}.volumeDevices: this node has no block volumes; use volumeMounts"
    if not pod.host_network:
        for index, port in enumerate(raw.get("ports") or ()):
            if port.get("hostPort"):
                yield (
                    f"{where}.ports[{index}].hostPort: {port['hostPort']}: this node forwards no ports; "
                    "connect to the pod's own address"
                )
    kinds = {volume["name"]: payload.volume_kind(volume) for volume in pod.volumes}
    for mount in raw.get("volumeMounts") or ():
        if (mount.get("subPath") or mount.get("subPathExpr")) and kinds.get(mount["name"]) not in payload.API_VOLUMES:
            yield (
                f"{where}.volumeMounts ({mount['name']}).subPath: only parts of configMap, secret, downwardAPI and "
                "projected volumes can be mounted here; use a volume of its own"
            )
        if mount.get("mountPropagation") not in (None, "None"):
            yield f"{where}.volumeMounts ({mount.get('name')}).mountPropagation: mounts are never propagated here"
    for probe in PROBES:
        if "grpc" in (raw.get(probe) or {}):
            yield f"{where}.{probe}.grpc: this node probes by httpGet, tcpSocket or exec"
    if (raw.get("lifecycle") or {}).get("postStart"):
        yield f"{where}.lifecycle.postStart: this node runs only preStop hooks; do it in the command"
    for name, value in (raw.get("resources") or {}).get("limits", {}).items():
        if name == "ephemeral-storage":
            yield f"{where}.resources.limits.{name}: {value}: not enforced here; limit an emptyDir by sizeLimit"
        elif name == "memory" and parse_quantity(value) <= 0:
            yield f"{where}.resources.limits.memory: {value}: must be more than nothing"
    if (raw.get("resources") or {}).get("claims"):
        yield f"{where}.resources.claims: this node allocates no dynamic resources"
    yield from _security(f"{where}.securityContext", raw.get("securityContext") or {})


def _security(where: str, security: Json) -> Iterator[str]:
    if security.get("privileged"):
        yield f"{where}.privileged: processes on this node never have privileges"
    if (security.get("capabilities") or {}).get("add"):
        added = ", ".join(security["capabilities"]["add"])
        yield f"{where}.capabilities.add: {added}: processes on this node have no capabilities"
    if security.get("allowPrivilegeEscalation"):
        yield f"{where}.allowPrivilegeEscalation: true: processes on this node can never gain privileges; set it to false"
    if security.get("procMount") not in (None, "Default"):
        yield f"{where}.procMount: {security['procMount']}: only Default is there"
    if security.get("seLinuxOptions") or security.get("windowsOptions"):
        yield f"{where}: seLinuxOptions and windowsOptions mean nothing on this node; leave them out"
    if (security.get("seccompProfile") or {}).get("type") == "Localhost":
        yield f"{where}.seccompProfile.type: Localhost: this node has no seccomp profiles; use RuntimeDefault"
    if (security.get("appArmorProfile") or {}).get("type") == "Localhost":
        yield f"{where}.appArmorProfile.type: Localhost: this node has no AppArmor profiles; use RuntimeDefault"
