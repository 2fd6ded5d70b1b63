"""What a cluster's components read when they start: certificates, kubeconfigs, the audit policy, the
configurations of the DNS server, the Gateway and Prometheus. Idempotent."""

from datetime import datetime

from sartor_devcluster import addresses as at
from sartor_devcluster import components, gateway, kubeconfig, prometheus
from sartor_devcluster.layout import Layout
from sartor_devcluster.pki import ADMIN, CLIENTS, Identity, Pki


def prepare(layout: Layout, *, port: int, bootstrap_token: str, now: datetime) -> None:
    """Write everything below the cluster's folder. `port` is the forwarder's on 127.0.0.1."""
    layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout.logs.mkdir(exist_ok=True)
    layout.data.mkdir(mode=0o700, exist_ok=True)
    pki = Pki(layout.pki)
    pki.make(now)
    layout.audit_policy.write_text(components.AUDIT_POLICY, encoding="utf-8")
    layout.corefile.write_text(components.corefile(layout), encoding="utf-8")
    layout.contour_configuration.write_text(gateway.contour_configuration(), encoding="utf-8")
    layout.prometheus_configuration.write_text(prometheus.configuration(layout), encoding="utf-8")
    layout.prometheus_data.mkdir(exist_ok=True)
    layout.access_log.parent.mkdir(exist_ok=True)
    layout.access_log.touch()
    for path, mode in ((layout.access_log.parent, 0o755), (layout.access_log, 0o644)):
        path.chmod(mode)  # for pods of any user; on the host nobody else gets through the folder above
    inside, outside = f"https://{at.API_ADDRESS}:{at.API_PORT}", f"https://{at.HOST}:{port}"
    authority = pki.certificate("ca").read_bytes()

    def config(server: str, user: str, credentials: Identity | str) -> dict[str, object]:
        return kubeconfig.content(
            cluster=context_name(layout), server=server, authority=authority, user=user, credentials=credentials
        )

    for component in (
        components.CONTROLLER_MANAGER,
        components.SCHEDULER,
        components.KUBE_PROXY,
        components.COREDNS,
        components.CONTOUR,
    ):
        user, _ = CLIENTS[component]
        kubeconfig.write(layout.component_kubeconfig(component), config(inside, user, pki.identity(component)))
    admin = pki.identity("admin")
    kubeconfig.write(layout.inner_kubeconfig, config(inside, ADMIN[0], admin))
    kubeconfig.write(layout.bootstrap_kubeconfig, config(outside, "bootstrap", bootstrap_token))
    kubeconfig.write(layout.kubeconfig, config(outside, ADMIN[0], admin))


def context_name(layout: Layout) -> str:
    """Of the cluster in kubeconfigs."""
    return f"sartor-devcluster-{layout.name}"
