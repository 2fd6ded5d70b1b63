"""The objects that a new cluster needs before node agents can join it, as kubeadm makes them, and what tells it is usable.

Node agents join by TLS bootstrap: a bootstrap token may ask for a client certificate, which the controller manager approves
by itself; a serving certificate is approved by our own approver, so that `kubectl logs` reaches the agent. kube-proxy's
rights come with every cluster (`system:node-proxier`); the DNS server's do not.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sartor_devcluster import addresses as at
from sartor_devcluster.api import FIELD_MANAGER, ApiError, AsyncApi
from sartor_devcluster.pki import APPROVER_USER, DNS_USER, KUBELET_CLIENT

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_SIGNER = "kubernetes.io/kubelet-serving"
_CSR = "certificatesigningrequests"
_BOOTSTRAPPERS = "system:bootstrappers:sartor"
_WATCH = ["list", "watch"]
_DNS_PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))


def new_token(draw: Any = secrets.token_hex) -> str:
    """A bootstrap token, `ID.SECRET` with 6 and 16 lower-case letters and digits."""
    return f"{draw(3)}.{draw(8)}"


def objects(token: str) -> list[tuple[str, dict[str, Any]]]:
    """Path and manifest of each object that every cluster has."""
    identifier, secret = token.split(".")
    return [
        cluster_role(
            APPROVER_USER,
            [
                {"apiGroups": ["certificates.k8s.io"], "resources": [_CSR], "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["certificates.k8s.io"], "resources": [f"{_CSR}/approval"], "verbs": ["update"]},
                {
                    "apiGroups": ["certificates.k8s.io"],
                    "resources": ["signers"],
                    "resourceNames": [_SIGNER],
                    "verbs": ["approve"],
                },
                {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
            ],
        ),
        binding(APPROVER_USER, APPROVER_USER, user(APPROVER_USER)),
        binding("sartor:apiserver-to-kubelet", "system:kubelet-api-admin", user(KUBELET_CLIENT)),
        binding("sartor:node-bootstrapper", "system:node-bootstrapper", _group(_BOOTSTRAPPERS)),
        binding(
            "sartor:node-client-certificates",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            _group(_BOOTSTRAPPERS),
        ),
        binding(
            "sartor:node-client-renewal",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            _group("system:nodes"),
        ),
        (
            f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{identifier}",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": f"bootstrap-token-{identifier}", "namespace": "kube-system"},
                "type": "bootstrap.kubernetes.io/token",
                "stringData": {
                    "token-id": identifier,
                    "token-secret": secret,
                    "usage-bootstrap-authentication": "true",
                    "usage-bootstrap-signing": "true",
                    "auth-extra-groups": _BOOTSTRAPPERS,
                    "description": "Node agents of this development cluster join with it.",
                },
            },
        ),
    ]


def dns_objects() -> list[tuple[str, dict[str, Any]]]:
    """Path and manifest of what the DNS server needs: its rights, and the Service by which pods know it.

    The Service has no selector, as the server is no pod; its one endpoint is written here.
    """
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    place = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": name, "port": at.DNS_PORT, "protocol": protocol} for name, protocol in _DNS_PORTS]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**place, "labels": labels},
        "spec": {
            "clusterIP": at.DNS_SERVICE,
            "ports": [{**port, "targetPort": at.DNS_PORT} for port in ports],
        },
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            **place,
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.DNS_ADDRESS], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return [
        cluster_role(
            DNS_USER,
            [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": _WATCH},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _WATCH},
            ],
        ),
        binding(DNS_USER, DNS_USER, user(DNS_USER)),
        ("/api/v1/namespaces/kube-system/services/kube-dns", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns", endpoints),
    ]


async def apply(api: AsyncApi, token: str, *, dns: bool) -> None:
    """Create or correct every object. Raises `ApiError` or `OSError` when the API server is not there yet: try again."""
    for path, manifest in [*objects(token), *(dns_objects() if dns else [])]:
        await api.apply(path, manifest)


async def usable(api: AsyncApi) -> bool:
    """Whether pods can be created: the controller manager has made the default namespace's service account."""
    try:
        await api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")
    except (ApiError, OSError):
        return False
    return True


def cluster_role(name: str, rules: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Path and manifest of a ClusterRole."""
    manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    }
    return f"{_RBAC}/clusterroles/{name}", manifest


def binding(name: str, role: str, subject: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Path and manifest of the binding of a ClusterRole to one subject."""
    manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [subject],
    }
    return f"{_RBAC}/clusterrolebindings/{name}", manifest


def user(name: str) -> dict[str, str]:
    """A user, as the subject of a binding."""
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}


def _group(name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name}
