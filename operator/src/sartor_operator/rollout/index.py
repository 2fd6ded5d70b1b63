"""How rollouts, and what concerns them, are found in the cache; and what of EndpointSlices and Services is kept there."""

from typing import Any

from sartor_operator import names
from sartor_operator.kinds import ENDPOINT_SLICE, HTTP_ROUTE, POD, ROLLOUT, SERVICE, Kind, Manifest
from sartor_operator.rollout.route import ROLLOUT_ANNOTATION, route_shares

GATEWAY_INDEX, SERVICE_INDEX, DEPLOYMENT_INDEX = "rollout-gateway", "rollout-service", "rollout-deployment"
CONTENT_INDEX, OWNER_INDEX = "rollout-content", "rollout-owner"
"""Rollouts by Gateway (`NAMESPACE/NAME`, over all namespaces), by Service (the probe's, too) and Deployment of an arm, by
the content of the candidate, and by the object that made them."""
SLICE_INDEX, ROUTE_INDEX, PROBE_INDEX = "slice-service", "route-rollout", "pod-probe"
BACKEND_INDEX = "route-backend"
"""EndpointSlices by their Service, HTTPRoutes by the rollout that wrote them and by the Services that they name, pods by the
probe that they are."""
SERVICE_NAME = "kubernetes.io/service-name"
_EVERYWHERE = ""


def probe_name(rollout: Manifest) -> str:
    """The name of a rollout's probe: of its Deployment and of its Service, so a DNS label that begins with a letter."""
    return names.child_name(f"probe-{names.name_of(rollout).replace('.', '-')}", names.uid(rollout))


def rollout_indexes(kind: Kind, manifest: Manifest) -> list[tuple[str, str, str]]:
    """(namespace or empty for all, index, value) of an object."""
    meta = manifest["metadata"]
    namespace = str(meta.get("namespace") or "")
    if kind is ENDPOINT_SLICE:
        return [(namespace, SLICE_INDEX, value)] if (value := names.label(manifest, SERVICE_NAME)) else []
    if kind is HTTP_ROUTE:
        value = str((meta.get("annotations") or {}).get(ROLLOUT_ANNOTATION, ""))
        written = [(namespace, ROUTE_INDEX, value)] if value else []
        return written + [(namespace, BACKEND_INDEX, name) for name in route_shares(manifest)]
    if kind is POD:
        value = names.label(manifest, names.PROBE_LABEL)
        return [(namespace, PROBE_INDEX, value)] if value else []
    return _of_rollout(namespace, manifest) if kind is ROLLOUT else []


def _of_rollout(namespace: str, manifest: Manifest) -> list[tuple[str, str, str]]:
    spec: dict[str, Any] = manifest.get("spec") or {}
    found: list[tuple[str, str, str]] = []
    for arm in (spec.get("baseline") or {}, spec.get("candidate") or {}):
        for field, index in (("service", SERVICE_INDEX), ("deployment", DEPLOYMENT_INDEX)):
            if arm.get(field):
                found.append((namespace, index, str(arm[field])))
    found.append((namespace, SERVICE_INDEX, probe_name(manifest)))
    if content := (spec.get("candidate") or {}).get("contentHash"):
        found.append((namespace, CONTENT_INDEX, str(content)))
    if owner := names.owner_uid(manifest):
        found.append((namespace, OWNER_INDEX, owner))
    parents = (spec.get("policy") or {}).get("parentRefs") or ()
    found += [(_EVERYWHERE, GATEWAY_INDEX, f"{p.get('namespace') or namespace}/{p.get('name')}") for p in parents]
    return list(dict.fromkeys(found))


def slim_slice(manifest: Manifest) -> Manifest:
    """An EndpointSlice as a decision sees it: how many endpoints are ready. Their addresses change all the time."""
    meta = manifest["metadata"]
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k in (SERVICE_NAME, names.PROBE_LABEL)}
    kept = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp") if k in meta}
    return {
        "apiVersion": manifest.get("apiVersion", ENDPOINT_SLICE.api_version),
        "kind": ENDPOINT_SLICE.kind,
        "metadata": {**kept, "labels": labels},
        "addressType": manifest.get("addressType", "IPv4"),
        "ready": manifest["ready"] if "ready" in manifest else _ready(manifest),
    }


def slim_service(manifest: Manifest) -> Manifest:
    """A Service of a user as a decision sees it: it is there. Sartor's own are kept whole."""
    if names.label(manifest, names.MANAGED_BY) == names.SARTOR:
        return manifest
    meta = manifest["metadata"]
    kept = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion") if k in meta}
    return {"apiVersion": SERVICE.api_version, "kind": SERVICE.kind, "metadata": kept}


def _ready(manifest: Manifest) -> int:
    """Endpoints that take new requests. No condition means ready, as the API says."""
    states = [e.get("conditions") or {} for e in manifest.get("endpoints") or ()]
    return sum(1 for s in states if s.get("ready") is not False and not s.get("terminating"))
