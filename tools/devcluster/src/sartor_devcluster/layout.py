"""The folder of one cluster: where each of its files lies. Everything a cluster leaves on disk is in it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_devcluster.errors import StateError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


def state_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Where clusters are kept: `$SARTOR_STATE/devcluster`, else below `$XDG_STATE_HOME` or `~/.local/state`."""
    if named := environment.get("SARTOR_STATE"):
        return Path(named).absolute() / "devcluster"
    base = environment.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "sartor" / "devcluster"


@dataclass(frozen=True)
class Layout:
    """Paths of one cluster."""

    folder: Path

    @staticmethod
    def of(name: str, root: Path) -> "Layout":
        """The layout of cluster `name` below `root`. Raises `StateError` for a name that cannot be a folder's."""
        if not _NAME.fullmatch(name):
            raise StateError(
                f"{name!r} cannot name a cluster; use up to 40 lower-case letters, digits and dashes, no dash at an end"
            )
        return Layout(root / name)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def lock(self) -> Path:
        """Held while a cluster is started or ended; outside the folder, which `down` removes."""
        return self.folder.with_name(f"{self.name}.lock")

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def data(self) -> Path:
        """etcd's."""
        return self.folder / "etcd"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit.log"

    @property
    def audit_policy(self) -> Path:
        return self.folder / "audit-policy.yaml"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's, usable on the host and inside the namespace (both through the forwarder)."""
        return self.folder / "kubeconfig"

    @property
    def inner_kubeconfig(self) -> Path:
        """An administrator's, usable inside the namespace only: straight to the API server."""
        return self.folder / "kubeconfig-inside"

    @property
    def bootstrap_kubeconfig(self) -> Path:
        """A bootstrap token's: what a node agent joins with. Usable on the host and inside."""
        return self.folder / "kubeconfig-bootstrap"

    def component_kubeconfig(self, component: str) -> Path:
        return self.pki / f"{component}.kubeconfig"

    @property
    def corefile(self) -> Path:
        """CoreDNS' configuration."""
        return self.folder / "Corefile"

    @property
    def contour_configuration(self) -> Path:
        return self.folder / "contour.yaml"

    @property
    def envoy_bootstrap(self) -> Path:
        return self.folder / "envoy.json"

    @property
    def envoy_admin(self) -> Path:
        """Envoy's administration socket."""
        return self.folder / "envoy-admin"

    @property
    def access_log(self) -> Path:
        """What Envoy writes of each request. In a folder of its own, which may be shown to a pod: the file is renamed, and
        all else here is nobody's business."""
        return self.folder / "gateway" / "access.log"

    @property
    def prometheus_configuration(self) -> Path:
        return self.folder / "prometheus.yml"

    @property
    def prometheus_data(self) -> Path:
        return self.folder / "prometheus"

    @property
    def prometheus_targets(self) -> Path:
        """The pods that Prometheus asks."""
        return self.folder / "pods.json"

    @property
    def settings(self) -> Path:
        """What the cluster was asked to be; written by `up`, read by the supervisor."""
        return self.folder / "settings.json"

    @property
    def state(self) -> Path:
        """What the cluster is; written by the supervisor."""
        return self.folder / "state.json"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.folder / "control"

    @property
    def supervisor_log(self) -> Path:
        return self.log("supervisor")
