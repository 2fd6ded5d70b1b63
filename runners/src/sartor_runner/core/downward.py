"""The downward API: fields and resources of a pod as text, for variables and files.

Specification: kubelet `fieldpath.ExtractFieldPathAsString`, `resource.ExtractContainerResourceValue`, and the defaults of
limits (a limit that is not set is what the node can allocate).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sartor_runner.core.pod import Container, Json, Pod
from sartor_runner.core.quantity import whole

_SUBSCRIPT = re.compile(r"(.+)\['([^']+)'\]")


@dataclass(frozen=True)
class Placement:
    """Where the pod is: its addresses and the node's, its name, and what the node can allocate (quantities as text)."""

    node_name: str
    pod_addresses: tuple[str, ...]
    node_address: str
    allocatable: Mapping[str, str]


def field(pod: Pod, path: str, placement: Placement) -> str:
    """The value of a `fieldRef`. Raises `ValueError` for a field that the downward API does not have."""
    metadata = pod.metadata
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript and subscript.group(1) in ("metadata.labels", "metadata.annotations"):
        return (metadata.get(subscript.group(1).partition(".")[2]) or {}).get(subscript.group(2), "")
    first = placement.pod_addresses[0] if placement.pod_addresses else ""
    plain = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": placement.node_name,
        "spec.serviceAccountName": pod.service_account,
        "status.hostIP": placement.node_address,
        "status.hostIPs": placement.node_address,
        "status.podIP": first,
        "status.podIPs": ",".join(placement.pod_addresses),
    }
    if path in plain:
        return plain[path]
    if path in ("metadata.labels", "metadata.annotations"):
        return _map(metadata.get(path.partition(".")[2]) or {})
    raise ValueError(f"fieldRef {path}: the downward API has no such field")


def resource(container: Container, reference: Json, placement: Placement) -> str:
    """The value of a `resourceFieldRef`, in units of its divisor, rounded up. Raises `ValueError`."""
    which, _, name = str(reference["resource"]).partition(".")
    divisor = str(reference.get("divisor") or "1")
    if which == "limits":
        value = container.limits.get(name, placement.allocatable.get(name, "0"))
    elif which == "requests":
        value = container.requests.get(name, "0")
    else:
        raise ValueError(f"resourceFieldRef {reference['resource']}: must begin with limits. or requests.")
    return str(whole(value, divisor))


def _map(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(values.items()))


def _escaped(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]
