"""The kinds that the operator reads and writes, and how the API server calls them."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from sartor_api.agent_profile import AgentProfile
from sartor_api.base import GROUP, VERSION
from sartor_api.hardware_target import HardwareTarget
from sartor_api.meta import Resource
from sartor_api.serving_candidate import ServingCandidate
from sartor_api.serving_rollout import ServingRollout
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_api.synthesis_run import SynthesisRun

Manifest: TypeAlias = dict[str, Any]
"""An object as the API server sends it and takes it: plain JSON."""


@dataclass(frozen=True)
class Kind:
    """A kind of object. `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The path on the API server; without `namespace` all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{place}/{self.plural}{tail}"


def _own(resource: type[Resource]) -> Kind:
    return Kind(
        GROUP, VERSION, resource.naming.plural, resource.__name__, namespaced=not resource.naming.cluster_scoped
    )


SYNTHESIS = _own(ServingSynthesis)
RUN = _own(SynthesisRun)
CANDIDATE = _own(ServingCandidate)
TARGET = _own(HardwareTarget)
PROFILE = _own(AgentProfile)
ROLLOUT = _own(ServingRollout)
JOB = Kind("batch", "v1", "jobs", "Job")
POD = Kind("", "v1", "pods", "Pod")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
SECRET = Kind("", "v1", "secrets", "Secret")
SERVICE = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENT = Kind("", "v1", "events", "Event")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
GATEWAY_CLASS = Kind("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GATEWAY = Kind("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")

PRIMARY = (SYNTHESIS, RUN, CANDIDATE, TARGET, PROFILE, ROLLOUT)
"""Sartor's own kinds, watched as a whole."""

WHOLE = (*PRIMARY, NODE, ENDPOINT_SLICE, SERVICE)
"""Kinds that are watched without regard to labels; of Services that are not Sartor's own it is kept that they are there."""

OPTIONAL = (GATEWAY_CLASS, GATEWAY, HTTP_ROUTE)
"""Kinds that a cluster may not know. Of routes only Sartor's own are watched."""

LOOKED_AT = (SYNTHESIS, RUN, TARGET, PROFILE, ROLLOUT)
"""Kinds whose objects are reconciled."""

CHILDREN = (JOB, POD, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, DEPLOYMENT, NETWORK_POLICY)
"""Kinds of which only Sartor's own objects (by label) are watched."""

BY_NAME = {kind.kind: kind for kind in (*WHOLE, *OPTIONAL, *CHILDREN, EVENT, LEASE)}


def kind_of(manifest: Manifest) -> Kind:
    """The kind of a manifest that the operator made."""
    return BY_NAME[str(manifest["kind"])]
