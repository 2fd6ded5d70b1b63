"""What the Gateway consists of in the API server: definitions, rights, the address, the Gateway itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sartor_devcluster import addresses as at
from sartor_devcluster.api import FIELD_MANAGER, ApiError, AsyncApi
from sartor_devcluster.bootstrap import binding, cluster_role, user
from sartor_devcluster.gateway import CONTROLLER, GATEWAY, GATEWAY_CLASS, LISTENER, NAMESPACE
from sartor_devcluster.pki import CONTOUR_USER

GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/envoy"
RETRY_SECONDS = 0.1
_READ = ["get", "list", "watch"]
_STATUS = ["create", "get", "patch", "update"]


def rights() -> list[tuple[str, dict[str, Any]]]:
    """Path and manifest of what Contour may do: what its own release manifest gives it."""
    routes = ["backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "httproutes", "tcproutes", "tlsroutes"]
    own = ["contourconfigurations", "extensionservices", "httpproxies", "tlscertificatedelegations"]
    rules: list[Mapping[str, Any]] = [
        {"apiGroups": [""], "resources": ["configmaps", "namespaces", "secrets", "services"], "verbs": _READ},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": _READ},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"], "verbs": _STATUS},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": [*routes, "referencegrants"], "verbs": _READ},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": _statuses(routes), "verbs": _STATUS},
        {"apiGroups": ["projectcontour.io"], "resources": own, "verbs": _READ},
        {"apiGroups": ["projectcontour.io"], "resources": _statuses(own), "verbs": _STATUS},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
    ]
    return [cluster_role(CONTOUR_USER, rules), binding(CONTOUR_USER, CONTOUR_USER, user(CONTOUR_USER))]


def address_objects() -> list[tuple[str, dict[str, Any]]]:
    """Path and manifest of the Service that is the Gateway's address, without its status, and of its one endpoint."""
    ports = [{"name": "http", "port": at.GATEWAY_PORT}, {"name": "http-80", "port": 80}]
    place = {"name": "envoy", "namespace": NAMESPACE}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": place,
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": False,
            "ports": [{**port, "protocol": "TCP", "targetPort": at.ENVOY_PORT} for port in ports],
        },
    }
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            **place,
            "labels": {
                "kubernetes.io/service-name": "envoy",
                "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.ENVOY_ADDRESS], "conditions": {"ready": True}}],
        "ports": [{"name": port["name"], "port": at.ENVOY_PORT, "protocol": "TCP"} for port in ports],
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return [
        (f"/api/v1/namespaces/{NAMESPACE}", namespace),
        (SERVICE, service),
        (f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/envoy", slice_),
    ]


def gateway_objects() -> list[tuple[str, dict[str, Any]]]:
    """Path and manifest of the GatewayClass and the Gateway."""
    gateway_class = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": CONTROLLER},
    }
    listener = {
        "name": LISTENER,
        "protocol": "HTTP",
        "port": at.GATEWAY_PORT,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
        "spec": {"gatewayClassName": GATEWAY_CLASS, "listeners": [listener]},
    }
    return [
        (f"{GATEWAY_API}/gatewayclasses/{GATEWAY_CLASS}", gateway_class),
        (f"{GATEWAY_API}/namespaces/{NAMESPACE}/gateways/{GATEWAY}", gateway),
    ]


def programmed(gateway: Mapping[str, Any]) -> bool:
    """Whether the Gateway's controller says that its present generation is served."""
    return any(
        c["type"] == "Programmed"
        and c["status"] == "True"
        and c.get("observedGeneration") == gateway["metadata"]["generation"]
        for c in _conditions(gateway)
    )


class GatewayObjects:
    """Makes them once, in the supervisor's event loop. `defined`: Contour finds what it watches. `served`: it says that the
    Gateway is programmed. `say` is told why the API server does not take something, once."""

    def __init__(self, api: AsyncApi, definitions: Path, say: Callable[[str], None]) -> None:
        self._api, self._definitions, self._say = api, definitions, say
        self.defined, self.served = asyncio.Event(), asyncio.Event()

    async def make(self) -> None:
        """Returns when the Gateway is served. Idempotent; tries again until the API server takes everything."""
        files = sorted(self._definitions.glob("*.yaml"))
        await self._until_taken(lambda: self._define(files))
        await self._until_taken(lambda: self._await_definitions(files))
        self.defined.set()
        await self._until_taken(self._serve)
        self.served.set()

    async def _define(self, files: Sequence[Path]) -> None:
        await asyncio.gather(*(self._api.apply_text(f"{CRD_PATH}/{f.stem}", f.read_bytes()) for f in files))
        for path, manifest in [*rights(), *address_objects()]:
            await self._api.apply(path, manifest)
        ingress = {"status": {"loadBalancer": {"ingress": [{"ip": at.GATEWAY_ADDRESS}]}}}
        await self._api.call("PATCH", f"{SERVICE}/status", ingress, kind="application/merge-patch+json")

    async def _await_definitions(self, files: Sequence[Path]) -> None:
        for file in files:
            while not established(await self._api.call("GET", f"{CRD_PATH}/{file.stem}")):
                await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self) -> None:
        for path, manifest in gateway_objects():
            await self._api.apply(path, manifest)
        while not programmed(await self._api.call("GET", gateway_objects()[-1][0])):
            await asyncio.sleep(RETRY_SECONDS)

    async def _until_taken(self, work: Callable[[], Awaitable[None]]) -> None:
        seen = ""
        while True:
            try:
                return await work()
            except (ApiError, OSError) as error:
                if str(error) != seen and isinstance(error, ApiError):
                    self._say(f"objects of the Gateway, trying again: {error}")
                seen = str(error)
                await asyncio.sleep(RETRY_SECONDS)


def established(definition: Mapping[str, Any]) -> bool:
    """Whether the API server serves what a CustomResourceDefinition defines."""
    return any(c["type"] == "Established" and c["status"] == "True" for c in _conditions(definition))


def _conditions(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a definition that was made just now they are null, not absent."""
    return cast(list[dict[str, Any]], (manifest.get("status") or {}).get("conditions") or [])


def _statuses(resources: list[str]) -> list[str]:
    return [f"{resource}/status" for resource in resources]
