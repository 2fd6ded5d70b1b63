"""The Node object: what it says, and how it is made and kept true."""

import asyncio
import logging
import os
import platform
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from sartor_runner import __version__
from sartor_runner.api.client import STRATEGIC_PATCH, ApiClient, Object
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.config import Config, NodeTable
from sartor_runner.core.quantity import parse, whole
from sartor_runner.core.times import rfc3339
from sartor_runner.errors import ConfigurationError

logger = logging.getLogger(__name__)

PLATFORM_LABEL = "sartor.dev/platform"
CHECK_SECONDS = 10.0
REPORT_SECONDS = 300.0
"""A node's status is written when it changed, and this often at least (the kubelet's `nodeStatusReportFrequency`)."""
MEMORY_LOW = 100 << 20
DISK_LOW = 0.05
PROCESSES_LOW = 200
POD_RANGE_SECONDS = 30.0


def node_object(config: Config, facts: Mapping[str, Any]) -> Object:
    """The Node as it is registered. `facts`: see `machine_facts`."""
    table = config.node
    labels = {
        "kubernetes.io/hostname": table.name,
        "kubernetes.io/os": facts["os"],
        "kubernetes.io/arch": facts["arch"],
        PLATFORM_LABEL: table.platform,
        **table.labels,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": table.name, "labels": labels},
        "spec": {"taints": table.taint_objects()} if table.taints else {},
    }


def capacity(table: NodeTable, cores: int, memory: int, disk: int) -> tuple[dict[str, str], dict[str, str]]:
    """(capacity, allocatable): what the machine has and what the configuration adds, less what it keeps back."""
    whole_machine = {
        "cpu": str(cores),
        "memory": f"{memory >> 10}Ki",
        "ephemeral-storage": f"{disk >> 10}Ki",
        "pods": str(table.max_pods),
        **table.capacity,
    }
    allocatable = dict(whole_machine)
    for name, kept in table.reserved.items():
        left = max(parse(whole_machine.get(name, "0")) - parse(kept), Decimal(0))
        allocatable[name] = f"{whole(str(left), '1m')}m" if name == "cpu" else f"{int(left) >> 10}Ki"
        if name not in ("cpu", "memory", "ephemeral-storage"):
            allocatable[name] = str(int(left))
    return whole_machine, allocatable


def conditions(
    *, ready: tuple[bool, str, str], pressures: Mapping[str, bool], old: Mapping[str, Any], now: float
) -> list[Object]:
    """Ready (value, reason, message) and the pressures; a transition time moves only with the status."""
    texts = {
        "MemoryPressure": ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "memory"),
        "DiskPressure": ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "disk space"),
        "PIDPressure": ("KubeletHasInsufficientPID", "KubeletHasSufficientPID", "process ids"),
    }
    found: list[Object] = []
    for kind, (bad, good, what) in texts.items():
        pressed = pressures.get(kind, False)
        message = f"the node is short of {what}" if pressed else f"the node has enough {what}"
        found.append(_condition(kind, pressed, bad if pressed else good, message, old, now))
    found.append(_condition("Ready", *ready, old, now))
    return found


def _condition(kind: str, value: bool, reason: str, message: str, old: Mapping[str, Any], now: float) -> Object:
    status = "True" if value else "False"
    before = old.get(kind) or {}
    moved = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": rfc3339(now),
        "lastTransitionTime": moved or rfc3339(now),
    }


def machine_facts() -> dict[str, Any]:
    """What this machine is, in the words of the API."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "os": {"darwin": "darwin"}.get(sys.platform, "linux"),
        "arch": arch,
        "kernel": platform.release(),
        "image": _os_name(),
        "machine_id": _text("/etc/machine-id"),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "cores": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def pressures(folder: Path) -> dict[str, bool]:
    """Which resources are short now. Where the system does not say (macOS: memory and processes), nothing is claimed."""
    disk = os.statvfs(folder)
    found = {"DiskPressure": disk.f_bavail < disk.f_blocks * DISK_LOW}
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        found["MemoryPressure"] = int(fields["MemAvailable"].split()[0]) * 1024 < MEMORY_LOW
        running = int(_text("/proc/loadavg").split()[3].partition("/")[2])
        found["PIDPressure"] = int(_text("/proc/sys/kernel/pid_max") or "32768") - running < PROCESSES_LOW
    return found


def own_address(server: tuple[str, int]) -> str:
    """The address that this machine has towards the API server (nothing is sent). Raises `ConfigurationError`."""
    try:
        family, _, _, _, target = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigurationError(f"no way to the API server at {server[0]}: {error}; set node.address") from error


class Registration:
    """Makes the Node, and keeps its status true."""

    def __init__(self, client: ApiClient, config: Config, address: str, clock: Callable[[], float]) -> None:
        self.facts = machine_facts()
        disk = os.statvfs(config.directory)
        self.capacity, self.allocatable = capacity(
            config.node, self.facts["cores"], self.facts["memory"], disk.f_frsize * disk.f_blocks
        )
        self.kubelet_port = config.kubelet_api.port if config.kubelet_api.enabled else 0
        self.images: list[str] = []
        self.renumber: Callable[[], Awaitable[None]] = _nothing
        """Called when the Node was made anew: the cluster may have given its range of pod addresses to another one."""
        self.uid = ""
        self.ready: tuple[bool, str, str] = (True, "KubeletReady", "sartor-runner is posting ready status")
        self._client, self._config, self._address, self._clock = client, config, address, clock
        self._version = f"v1.0.0+sartor-runner.{__version__}"
        self._known: Object = {}
        self._written_at = 0.0

    @property
    def path(self) -> str:
        return f"/api/v1/nodes/{self._config.node.name}"

    async def register(self) -> None:
        """Makes the Node, or takes over the one of this name with our labels. Raises the API's errors."""
        version = await self._client.get("/version")
        self._version = f"{version['gitVersion'].partition('+')[0]}+sartor-runner.{__version__}"
        wanted = node_object(self._config, self.facts)
        try:
            self._known = await self._client.create("/api/v1/nodes", {**wanted, "status": self._status()})
        except ApiError as error:
            if error.status != 409:
                raise
            self._known = await self._client.get(self.path)
            labels = self._known["metadata"].get("labels") or {}
            if wanted["metadata"]["labels"].items() - labels.items():
                body = {"metadata": {"labels": wanted["metadata"]["labels"]}}
                self._known = await self._client.patch(self.path, body)
        self.uid = self._known["metadata"]["uid"]
        await self.write()

    async def pod_range(self) -> str:
        """`spec.podCIDR`, waited for. Raises `ConfigurationError` when the cluster hands out none."""
        for _ in range(int(POD_RANGE_SECONDS / 0.5)):
            found = self._known.get("spec", {}).get("podCIDR")
            if found:
                return found
            await asyncio.sleep(0.5)
            self._known = await self._client.get(self.path)
        raise ConfigurationError(
            f"the cluster has given node {self._config.node.name} no podCIDR; set node.pod_addresses to a range that "
            'this machine may use, or to "node"'
        )

    async def write(self) -> None:
        """The status, if it says something new or was not written for long. Raises the API's errors."""
        status, old = self._status(), self._known.get("status") or {}
        now = self._clock()
        if _essence(status) == _essence(old) and now - self._written_at < REPORT_SECONDS:
            return
        self._known = await self._client.patch(f"{self.path}/status", {"status": status}, STRATEGIC_PATCH)
        self._written_at = now

    async def run(self) -> None:
        """For ever; ends by cancellation only. A Node that somebody deleted is made again."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                # From the cache: what others wrote. The node controller says Unknown of a node whose lease was late.
                self._known = await self._client.get(self.path, resourceVersion="0")
                await self.write()
            except ApiError as error:
                if error.status != 404:
                    logger.warning("the node's status was not taken: %s", error)
                    continue
                logger.warning("the node was deleted; it is registered again")
                try:
                    await self.register()
                    await self.renumber()
                except (ApiError, UnreachableError, ConfigurationError) as again:
                    logger.warning("the node was not registered: %s", again)
            except UnreachableError as error:
                logger.warning("the node's status waits: %s", error)

    def _status(self) -> Object:
        old = {c["type"]: c for c in (self._known.get("status") or {}).get("conditions") or ()}
        facts = self.facts
        now = self._clock()
        return {
            "capacity": self.capacity,
            "allocatable": self.allocatable,
            "addresses": [
                {"type": "InternalIP", "address": self._address},
                {"type": "Hostname", "address": self._config.node.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
            "conditions": conditions(
                ready=self.ready, pressures=pressures(Path(self._config.directory)), old=old, now=now
            ),
            "images": [{"names": [name], "sizeBytes": 0} for name in self.images[:50]],
            "nodeInfo": {
                "architecture": facts["arch"],
                "operatingSystem": facts["os"],
                "kernelVersion": facts["kernel"],
                "osImage": facts["image"],
                "machineID": facts["machine_id"],
                "systemUUID": facts["machine_id"],
                "bootID": facts["boot_id"],
                "kubeletVersion": self._version,
                "kubeProxyVersion": "",
                "containerRuntimeVersion": f"sartor-runner://{__version__}",
            },
        }


async def _nothing() -> None:
    pass


def _essence(status: Mapping[str, Any]) -> object:
    """A status without its heartbeats."""
    conditions = {
        c["type"]: (c["status"], c.get("reason"), c.get("message"))
        for c in status.get("conditions") or ()
        if c["type"] in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
    }
    keys = ("capacity", "allocatable", "addresses", "daemonEndpoints", "nodeInfo")
    return conditions, [status.get(key) for key in keys]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _os_name() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
