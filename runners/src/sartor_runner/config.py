"""The runner's configuration file (TOML). Every key is checked; an unknown one is an error that names it.

    [node]
    name = "mac-studio-1"
    platform = "metal"
    capacity = {"sartor.dev/metal" = "1"}

    [environments.agents]
    images = ["*/sartor-agents:*"]
    python = "/opt/sartor/venv"

`runners/README.md` explains every table.
"""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sartor_runner.core.quantity import parse as parse_quantity
from sartor_runner.errors import ConfigurationError

DEFAULT_DIRECTORY = "/var/lib/sartor-runner"

Absolute = Annotated[str, Field(pattern="^/")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeTable(_Table):
    """What the Node object says.

    `pod_addresses`: a range of which each pod gets an address that a process of this machine can bind; `podCIDR`: the range
    that the cluster gave the node; `node`: pods share the node's own address (macOS). `sync_seconds`: how often volumes from
    the API are brought up to date. `cluster_dns`: the cluster's DNS servers for pods that ask for them (dnsPolicy
    ClusterFirst, the default), with `cluster_domain`; without them those pods resolve names as the host does, by
    `resolv_conf`. `api_server_variables`: what `KUBERNETES_SERVICE_HOST` says in pods.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)
    platform: Literal["cuda", "cpu", "metal"]
    labels: dict[str, str] = {}
    taints: tuple[str, ...] = ("sartor.dev/runner=true:NoSchedule",)
    address: str | None = None
    capacity: dict[str, str] = {}
    reserved: dict[str, str] = {"memory": "512Mi"}
    max_pods: int = Field(default=110, ge=1)
    pod_addresses: str = "podCIDR"
    local_route: bool = False
    sync_seconds: float = Field(default=60.0, gt=0)
    shutdown: Literal["leave", "stop"] = "leave"
    shutdown_grace_seconds: float = Field(default=30.0, ge=0)
    api_server_variables: Literal["kubeconfig", "service"] = "kubeconfig"
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = Field(default="cluster.local", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
    resolv_conf: Absolute = "/etc/resolv.conf"

    @field_validator("capacity", "reserved")
    @classmethod
    def _quantities(cls, values: dict[str, str]) -> dict[str, str]:
        for value in values.values():
            parse_quantity(value)
        return values

    @field_validator("taints")
    @classmethod
    def _taints(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            _, colon, effect = value.rpartition(":")
            if not colon or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
                raise ValueError(f"{value!r}: write a taint as KEY=VALUE:EFFECT or KEY:EFFECT")
        return values

    @field_validator("cluster_dns")
    @classmethod
    def _servers(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            ipaddress.ip_address(value)
        return values

    @field_validator("pod_addresses")
    @classmethod
    def _range(cls, value: str) -> str:
        if value not in ("podCIDR", "node"):
            ipaddress.ip_network(value)
        return value

    def taint_objects(self) -> list[dict[str, str]]:
        """The taints as the API has them."""
        found: list[dict[str, str]] = []
        for text in self.taints:
            head, _, effect = text.rpartition(":")
            key, equals, value = head.partition("=")
            found.append({"key": key, "effect": effect} | ({"value": value} if equals else {}))
        return found


class ApiTable(_Table):
    """Credentials: a kubeconfig; none: the service account that is mounted here. `bootstrap_kubeconfig` holds a bootstrap
    token, from which the node's own certificate is asked for and renewed."""

    kubeconfig: Absolute | None = None
    bootstrap_kubeconfig: Absolute | None = None


class KubeletTable(_Table):
    """The kubelet API, which the API server calls for `kubectl logs`.

    Without a certificate of its own: `self-signed`, which API servers accept unless they were started with
    --kubelet-certificate-authority, or `cluster`, asked for as `kubernetes.io/kubelet-serving` and renewed; somebody must
    approve these. `client_ca` defaults to the cluster's.
    """

    enabled: bool = True
    port: int = Field(default=10250, ge=1, le=65535)
    bind: str | None = None
    serving: Literal["self-signed", "cluster"] = "self-signed"
    certificate: Absolute | None = None
    key: Absolute | None = None
    client_ca: Absolute | None = None


class HostPathsTable(_Table):
    """What `hostPath` volumes may show: these folders and everything below them."""

    readable: tuple[Absolute, ...] = ()
    writable: tuple[Absolute, ...] = ()


class SandboxTable(_Table):
    """`pod_users`: ordinary user ids for pods, used when the runner is the real root: one each, or, where the range is one
    id, the same for all (they can then share a writable hostPath). `mount_points`: folders that the
    runner may put links into for volumes (macOS)."""

    program: Absolute | None = None
    pod_users: str = Field(default="200000-265535", pattern=r"^\d+-\d+$")
    mount_points: tuple[Absolute, ...] = ()
    metal: bool = True

    def first_user(self) -> int:
        return int(self.pod_users.partition("-")[0])

    def users(self) -> int:
        first, _, last = self.pod_users.partition("-")
        return int(last) - int(first) + 1


class LogsTable(_Table):
    bytes: int = Field(default=10 << 20, ge=4096)
    files: int = Field(default=5, ge=1, le=20)


class EnvironmentTable(_Table):
    """What an image name stands for on this machine.

    `images`: patterns with `*` and `?`. `root`: a folder shown as `/`; without it, the host's `/usr` and what belongs to it
    when `system` is true. `binds`: folders and files shown read-only at their own path, or as `SOURCE:TARGET`. `python`: a
    virtual environment or a Python prefix, shown with the interpreter it needs, first in `PATH`. `devices`: device nodes.
    """

    images: tuple[str, ...] = Field(min_length=1)
    root: Absolute | None = None
    system: bool = True
    binds: tuple[str, ...] = ()
    devices: tuple[Absolute, ...] = ()
    python: Absolute | None = None
    path: tuple[Absolute, ...] = ("/usr/local/bin", "/usr/bin", "/bin")
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    working_directory: Absolute = "/"
    user: int = Field(default=0, ge=0)
    group: int = Field(default=0, ge=0)
    unshare_net: bool = False

    @field_validator("binds")
    @classmethod
    def _binds(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not all(part.startswith("/") for part in value.split(":")) or value.count(":") > 1:
                raise ValueError(f"{value!r}: write a bind as /PATH or /SOURCE:/TARGET")
        return values


class Config(_Table):
    node: NodeTable
    api: ApiTable = ApiTable()
    kubelet_api: KubeletTable = KubeletTable()
    directory: Absolute = DEFAULT_DIRECTORY
    host_paths: HostPathsTable = HostPathsTable()
    sandbox: SandboxTable = SandboxTable()
    logs: LogsTable = LogsTable()
    environments: dict[str, EnvironmentTable] = {}


def load(path: Path) -> Config:
    """Raises `ConfigurationError` with the file, the key and what is wrong with it."""
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{path}: {problems}") from error
