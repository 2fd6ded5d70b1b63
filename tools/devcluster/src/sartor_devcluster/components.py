"""What is started: the arguments of each component, and how its health is asked.

Plain upstream components with a normal cluster's settings. What differs from kubeadm's is said where it differs.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sartor_devcluster import addresses as at
from sartor_devcluster import gateway, prometheus
from sartor_devcluster.layout import Layout
from sartor_devcluster.pki import Pki

ETCD, API_SERVER = "etcd", "kube-apiserver"
CONTROLLER_MANAGER, SCHEDULER = "kube-controller-manager", "kube-scheduler"
KUBE_PROXY, COREDNS = "kube-proxy", "coredns"
APPROVER = "kubelet-serving-approver"
CONTOUR, ENVOY, PROMETHEUS = "contour", "envoy", "prometheus"

NAMES = (
    ETCD,
    API_SERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBE_PROXY,
    COREDNS,
    APPROVER,
    CONTOUR,
    ENVOY,
    PROMETHEUS,
)

CONSEQUENCES = {
    KUBE_PROXY: "addresses of Services lead nowhere",
    COREDNS: "names of Services are not resolved",
    CONTOUR: "no HTTPRoute takes effect",
    ENVOY: "the Gateway takes no request",
    PROMETHEUS: "nobody keeps metrics",
}
"""The components that a cluster comes up without where it must, and what follows then."""

GATEWAY = (CONTOUR, ENVOY, PROMETHEUS)
"""What a cluster has only where a Gateway is asked for."""


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
    probes: tuple[Probe, ...] = ()
    """All must be answered; none: well while it runs."""
    after: str | None = None
    """The component that must be well before this one starts: it would not find what it needs, and end."""


def component_specs(
    layout: Layout, binaries: Mapping[str, str], extra: Mapping[str, tuple[str, ...]]
) -> tuple[ComponentSpec, ...]:
    """All components in the order of their start; `extra` arguments come last, so that they win.

    Of `CONSEQUENCES` those for which there is a program.
    """
    pki = Pki(layout.pki)
    authority = str(pki.certificate("ca"))
    arguments = {
        ETCD: _etcd(layout, pki),
        API_SERVER: _api_server(layout, pki),
        CONTROLLER_MANAGER: _controller_manager(layout, pki),
        SCHEDULER: _scheduler(layout),
        KUBE_PROXY: _kube_proxy(layout),
    }
    probes = {
        ETCD: (Probe("http", at.HOST, at.ETCD_HEALTH_PORT, "/health"),),
        API_SERVER: (Probe("https", at.API_ADDRESS, at.API_PORT, "/readyz", authority),),
        CONTROLLER_MANAGER: (Probe("https", at.HOST, at.CONTROLLER_MANAGER_PORT, "/healthz"),),
        SCHEDULER: (Probe("https", at.HOST, at.SCHEDULER_PORT, "/readyz"),),
        # Its own word says only that it is not late; that it has written its rules is seen by going through them.
        KUBE_PROXY: (
            Probe("http", at.HOST, at.PROXY_HEALTH_PORT, "/livez"),
            Probe("https", at.KUBERNETES_SERVICE, at.API_PORT, "/readyz", authority),
        ),
    }
    after = {ETCD: None, API_SERVER: None}
    specs = [
        ComponentSpec(
            name,
            (binaries[name], *flags(arguments[name]), *extra.get(name, ())),
            probes[name],
            after.get(name, API_SERVER),
        )
        for name in arguments
        if name not in CONSEQUENCES or name in binaries
    ]
    if COREDNS in binaries:
        command = (binaries[COREDNS], "-conf", str(layout.corefile), *extra.get(COREDNS, ()))
        ready = Probe("http", at.DNS_ADDRESS, at.DNS_READY_PORT, "/ready")
        specs.append(ComponentSpec(COREDNS, command, (ready,), API_SERVER))
    approver = (sys.executable, "-m", "sartor_devcluster.approver", str(layout.folder), *extra.get(APPROVER, ()))
    specs.append(ComponentSpec(APPROVER, approver, (), API_SERVER))
    return (*specs, *_gateway_specs(layout, binaries, extra))


def _gateway_specs(
    layout: Layout, binaries: Mapping[str, str], extra: Mapping[str, tuple[str, ...]]
) -> list[ComponentSpec]:
    """Those of `GATEWAY` for which there is a program."""
    commands = {
        CONTOUR: ("serve", *gateway.CONTOUR_SWITCHES, *flags(gateway.contour_arguments(layout))),
        ENVOY: gateway.envoy_arguments(layout),
        PROMETHEUS: tuple(flags(prometheus.arguments(layout))),
    }
    probes = {
        CONTOUR: Probe("http", at.HOST, at.CONTOUR_HEALTH_PORT, "/healthz"),
        ENVOY: Probe("http", at.ENVOY_ADDRESS, at.ENVOY_STATS_PORT, "/ready"),  # served as Contour told it to
        PROMETHEUS: Probe("http", at.PROMETHEUS_ADDRESS, at.PROMETHEUS_PORT, "/-/ready"),
    }
    after = {CONTOUR: API_SERVER, ENVOY: CONTOUR, PROMETHEUS: API_SERVER}
    return [
        ComponentSpec(name, (binaries[name], *command, *extra.get(name, ())), (probes[name],), after[name])
        for name, command in commands.items()
        if name in binaries
    ]


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
        # Aggregated API servers behind Services are reached by their endpoints, so that they are without kube-proxy too.
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


def _kube_proxy(layout: Layout) -> dict[str, object]:
    """Without the name of its Node, which is known only when it starts (`proxy_node`)."""
    return {
        "kubeconfig": layout.component_kubeconfig(KUBE_PROXY),
        "proxy-mode": "nftables",
        "bind-address": at.API_ADDRESS,
        "cluster-cidr": at.PODS,
        # Nodes' addresses are routed to `lo` and not set on it, where kube-proxy would look for the node's own one.
        "nodeport-addresses": "0.0.0.0/0",
        "healthz-bind-address": f"{at.HOST}:{at.PROXY_HEALTH_PORT}",
        "metrics-bind-address": f"{at.HOST}:{at.PROXY_METRICS_PORT}",
        # Connection tracking is the machine's: its limits are not ours to change, and in a namespace may not be changed.
        "conntrack-max-per-core": 0,
        "conntrack-tcp-timeout-established": "0s",
        "conntrack-tcp-timeout-close-wait": "0s",
        "oom-score-adj": 0,
    }


def corefile(layout: Layout) -> str:
    """CoreDNS' configuration: the cluster's names, and NXDOMAIN for all others, as nothing outside can be reached.

    There is no cache: every answer comes from memory, and one that is kept would be older than what it says.
    """
    own = layout.component_kubeconfig(COREDNS)
    return f"""\
{at.CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
    bind {at.DNS_ADDRESS}
    errors
    health {at.DNS_ADDRESS}:{at.DNS_HEALTH_PORT}
    ready {at.DNS_ADDRESS}:{at.DNS_READY_PORT}
    kubernetes {at.CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig "{own}"
        pods insecure
    }}
    loadbalance
}}
. {{
    bind {at.DNS_ADDRESS}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""
