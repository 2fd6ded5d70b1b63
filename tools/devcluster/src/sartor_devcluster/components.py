"""What is started: the arguments of each component, and how its health is asked.

Plain upstream components with a normal cluster's settings. What differs from kubeadm's is said where it differs.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sartor_devcluster import addresses as at
from sartor_devcluster.layout import Layout
from sartor_devcluster.pki import Pki

ETCD, API_SERVER = "etcd", "kube-apiserver"
CONTROLLER_MANAGER, SCHEDULER = "kube-controller-manager", "kube-scheduler"
APPROVER = "kubelet-serving-approver"

NAMES = (ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER, APPROVER)


@dataclass(frozen=True)
class Probe:
    """A GET that answers 200 when the component is well."""

    scheme: Literal["http", "https"]
    address: str
    port: int
    path: str
    authority: str | None = None
    """File of the authority that must have signed the server's certificate; None: any (the two that sign their own)."""


@dataclass(frozen=True)
class ComponentSpec:
    """One process of the cluster."""

    name: str
    command: tuple[str, ...]
    probe: Probe | None
    """None: well while it runs."""
    after: str | None = None
    """The component that must be well before this one starts: it would not find what it needs, and end."""


def component_specs(
    layout: Layout, binaries: Mapping[str, str], extra: Mapping[str, tuple[str, ...]]
) -> tuple[ComponentSpec, ...]:
    """All components in the order of their start; `extra` arguments come last, so that they win."""
    pki = Pki(layout.pki)
    arguments = {
        ETCD: _etcd(layout, pki),
        API_SERVER: _api_server(layout, pki),
        CONTROLLER_MANAGER: _controller_manager(layout, pki),
        SCHEDULER: _scheduler(layout),
    }
    probes = {
        ETCD: Probe("http", at.HOST, at.ETCD_HEALTH_PORT, "/health"),
        API_SERVER: Probe("https", at.API_ADDRESS, at.API_PORT, "/readyz", str(pki.certificate("ca"))),
        CONTROLLER_MANAGER: Probe("https", at.HOST, at.CONTROLLER_MANAGER_PORT, "/healthz"),
        SCHEDULER: Probe("https", at.HOST, at.SCHEDULER_PORT, "/readyz"),
    }
    servers = tuple(
        ComponentSpec(name, (binaries[name], *flags(arguments[name]), *extra.get(name, ())), probes[name], after)
        for name, after in ((ETCD, None), (API_SERVER, None), (CONTROLLER_MANAGER, API_SERVER), (SCHEDULER, API_SERVER))
    )
    approver = (sys.executable, "-m", "sartor_devcluster.approver", str(layout.folder), *extra.get(APPROVER, ()))
    return (*servers, ComponentSpec(APPROVER, approver, None, API_SERVER))


def flags(values: Mapping[str, object]) -> list[str]:
    """`{"leader-elect": False}` as `["--leader-elect=false"]`."""
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]


def _etcd(layout: Layout, pki: Pki) -> dict[str, object]:
    return {
        "name": "etcd",
        "data-dir": layout.data,
        "listen-client-urls": f"https://{at.ETCD_CLIENT}",
        "advertise-client-urls": f"https://{at.ETCD_CLIENT}",
        "listen-peer-urls": f"http://{at.ETCD_PEER}",
        "initial-advertise-peer-urls": f"http://{at.ETCD_PEER}",
        "initial-cluster": f"etcd=http://{at.ETCD_PEER}",
        # Processes of pods share this namespace's loopback; the store opens only to the API server's certificate.
        "client-cert-auth": True,
        "trusted-ca-file": pki.certificate("etcd-ca"),
        "cert-file": pki.certificate("etcd"),
        "key-file": pki.key("etcd"),
        "listen-metrics-urls": f"http://{at.HOST}:{at.ETCD_HEALTH_PORT}",
        # A killed process loses nothing by it, only a crash of the machine does; waiting for the disk costs most of
        # the time of every write.
        "unsafe-no-fsync": True,
        "election-timeout": 500,  # ms; the only voter waits this long for others before it serves
        "quota-backend-bytes": 4 << 30,
        "log-level": "warn",
    }


def _api_server(layout: Layout, pki: Pki) -> dict[str, object]:
    issuer = f"https://kubernetes.default.svc.{at.CLUSTER_DOMAIN}"
    return {
        "advertise-address": at.API_ADDRESS,
        "bind-address": "0.0.0.0",
        "secure-port": at.API_PORT,
        "etcd-servers": f"https://{at.ETCD_CLIENT}",
        "etcd-cafile": pki.certificate("etcd-ca"),
        "etcd-certfile": pki.certificate("apiserver-etcd-client"),
        "etcd-keyfile": pki.key("apiserver-etcd-client"),
        "tls-cert-file": pki.certificate("apiserver"),
        "tls-private-key-file": pki.key("apiserver"),
        "client-ca-file": pki.certificate("ca"),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "enable-bootstrap-token-auth": True,
        "allow-privileged": True,
        "service-cluster-ip-range": at.SERVICES,
        "service-account-issuer": issuer,
        "service-account-key-file": pki.service_account_public,
        "service-account-signing-key-file": pki.key("service-accounts"),
        "kubelet-certificate-authority": pki.certificate("ca"),
        "kubelet-client-certificate": pki.certificate("apiserver-kubelet-client"),
        "kubelet-client-key": pki.key("apiserver-kubelet-client"),
        "kubelet-preferred-address-types": "InternalIP,Hostname",
        "requestheader-client-ca-file": pki.certificate("front-proxy-ca"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": pki.certificate("front-proxy-client"),
        "proxy-client-key-file": pki.key("front-proxy-client"),
        # There is no kube-proxy: aggregated API servers and webhooks behind Services are reached by their endpoints.
        "enable-aggregator-routing": True,
        # Told to end, it would else wait for watches that no client means to end, up to a minute.
        "shutdown-watch-termination-grace-period": "1s",
        "audit-log-path": layout.audit_log,
        "audit-policy-file": layout.audit_policy,
        "audit-log-maxsize": 4096,  # MB: who counts writes in it must not lose a piece to rotation
    }


def _controller_manager(layout: Layout, pki: Pki) -> dict[str, object]:
    own = layout.component_kubeconfig(CONTROLLER_MANAGER)
    return {
        "kubeconfig": own,
        "authentication-kubeconfig": own,
        "authorization-kubeconfig": own,
        "bind-address": at.HOST,
        "secure-port": at.CONTROLLER_MANAGER_PORT,
        "controllers": "*,bootstrap-signer-controller,token-cleaner-controller",
        "use-service-account-credentials": True,
        "service-account-private-key-file": pki.key("service-accounts"),
        "root-ca-file": pki.certificate("ca"),
        "client-ca-file": pki.certificate("ca"),
        "requestheader-client-ca-file": pki.certificate("front-proxy-ca"),
        "cluster-signing-cert-file": pki.certificate("ca"),
        "cluster-signing-key-file": pki.key("ca"),
        "cluster-name": layout.name,
        "cluster-cidr": at.PODS,
        "allocate-node-cidrs": True,
        "service-cluster-ip-range": at.SERVICES,
        "leader-elect": False,  # there is one; an election costs seconds at every start
        # The default of 20 requests a second makes the start wait for forty service accounts, and tests for their pods.
        "kube-api-qps": 200,
        "kube-api-burst": 400,
    }


def _scheduler(layout: Layout) -> dict[str, object]:
    own = layout.component_kubeconfig(SCHEDULER)
    return {
        "kubeconfig": own,
        "authentication-kubeconfig": own,
        "authorization-kubeconfig": own,
        "bind-address": at.HOST,
        "secure-port": at.SCHEDULER_PORT,
        "leader-elect": False,
    }


AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""
