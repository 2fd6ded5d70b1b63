"""A pod's place on the machine: its folder, address, user and volumes."""

import asyncio
from contextlib import suppress
from pathlib import Path

from sartor_runner.api.errors import ApiError
from sartor_runner.core import dns, payload
from sartor_runner.core.files import pod_files
from sartor_runner.core.observed import Setup
from sartor_runner.core.payload import API_VOLUMES, TokenKey, volume_kind
from sartor_runner.core.pod import Json, Pod
from sartor_runner.core.quantity import parse as parse_quantity
from sartor_runner.core.refusals import written
from sartor_runner.errors import VolumeError
from sartor_runner.host import volumes
from sartor_runner.host.assemble import Place
from sartor_runner.host.directories import PodDirectory, remove_tree
from sartor_runner.node.events import Subject
from sartor_runner.node.machine import Machine

RETRY_SECONDS = 15.0
HOSTS_FILE = Path("/etc/hosts")


class PodSetup:
    """`state` is what the core sees; whoever calls `set_up` sets it to pending before."""

    def __init__(self, machine: Machine, directory: PodDirectory) -> None:
        self.directory = directory
        self.state: Setup = "absent"
        self.address = ""
        self.refresh_at: float | None = None
        self._machine = machine
        self._user: int | None = None
        self._plain: dict[str, Path] = {}

    def place(self) -> Place:
        return Place(self.directory, self._user, self.address, dict(self._plain))

    async def set_up(self, pod: Pod) -> None:
        """Harmless to repeat. Raises `RunnerError` and `OSError` for what is missing; what was done so far stays."""
        self._take_place(pod)
        for folder in (self.directory.volumes, self.directory.files):
            folder.mkdir(parents=True, exist_ok=True)
        for volume in pod.volumes:
            self._make_plain(volume, pod)
        await self._write(pod)
        self._write_etc(pod)
        self.directory.write({**self._record(pod), "ready": True})
        self.state = "ready"

    async def refresh(self, pod: Pod) -> None:
        """Brings volumes from the API up to date. Raises as `set_up` does."""
        await self._write(pod)

    def refresh_later(self) -> None:
        self.refresh_at = self._machine.clock() + RETRY_SECONDS

    def adopt(self, pod: Pod) -> None:
        """Takes over what an earlier runner made."""
        known = self.directory.read()
        self.address, self._user = known.get("address") or "", known.get("user")
        if known.get("ready") and self.address:
            self.state = "ready"
            for volume in pod.volumes:
                with suppress(VolumeError):  # a host path that went away: the containers that run still have it
                    self._make_plain(volume, pod)
            if any(volume_kind(volume) in API_VOLUMES for volume in pod.volumes):
                self.refresh_at = self._machine.clock()
        elif known.get("removed"):
            self.state = "removed"

    def tear_down(self) -> None:
        """Volumes, address and user are given back; logs stay."""
        volumes.remove(self.directory.uid, self.directory.volumes)
        self._give_back()
        self.refresh_at = None
        self.state = "removed"
        self.directory.write({"removed": True})

    def discard(self) -> None:
        """Nothing of the pod stays."""
        volumes.remove(self.directory.uid, self.directory.volumes)
        self._give_back()
        remove_tree(self.directory.path)

    async def delete_object(self, pod: Pod) -> None:
        """Lets the API object go, if it is still this pod's. Raises the API's errors, but for it being gone already."""
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod.uid},
        }
        try:
            await self._machine.client.delete(path, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def exceeded(self, pod: Pod) -> str | None:
        """The sentence for an emptyDir that is larger than its limit."""
        for volume in pod.volumes:
            limit = (volume.get("emptyDir") or {}).get("sizeLimit")
            folder = self._plain.get(volume["name"])
            if limit is None or folder is None or volume_kind(volume) != "emptyDir" or parse_quantity(limit) == 0:
                continue
            if await asyncio.to_thread(volumes.used_bytes, folder) > parse_quantity(limit):
                return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
        return None

    def _take_place(self, pod: Pod) -> None:
        if not self.address:
            self.address = self._machine.address if pod.host_network else self._machine.take_address()
        if self._user is None:
            self._user = self._machine.users.take()
        self.directory.write(self._record(pod))

    def _record(self, pod: Pod) -> dict[str, object]:
        return {"namespace": pod.namespace, "name": pod.name, "address": self.address, "user": self._user}

    def _give_back(self) -> None:
        if self.address and self.address != self._machine.address:
            self._machine.give_back_address(self.address)
        self._machine.users.give_back(self._user)
        self.address, self._user = "", None

    def _make_plain(self, volume: Json, pod: Pod) -> None:
        kind, name = volume_kind(volume), volume["name"]
        if kind == "emptyDir":
            folder = self.directory.volumes / name
            self._plain[name] = volumes.make_plain(folder, volume, self.directory.uid, self._user)
        elif kind == "hostPath":
            allowed, writable = self._machine.allowed, name in written(pod)
            self._plain[name] = volumes.host_path(volume, lambda path: allowed.host_path(path, writable=writable))

    async def _write(self, pod: Pod) -> None:
        wanted = [volume for volume in pod.volumes if volume_kind(volume) in API_VOLUMES]
        if not wanted:
            self.refresh_at = None
            return
        sources = await self._machine.sources.objects(pod.namespace, payload.references(pod))
        tokens: dict[TokenKey, str] = {}
        refresh_at = self._machine.clock() + self._machine.config.node.sync_seconds
        for key in payload.token_keys(pod):
            token = await self._machine.sources.token(pod, key)
            tokens[key] = token.value
            refresh_at = min(refresh_at, token.renew_at)
        placement = self._machine.placement((self.address,))
        for volume in wanted:
            files = payload.files(pod, volume, sources, tokens, placement)
            volumes.write_files(self.directory.volumes / volume["name"], files, self._user)
        self.refresh_at = refresh_at

    def _write_etc(self, pod: Pod) -> None:
        host_hosts = _text(HOSTS_FILE) if pod.host_network else ""
        domain = self._machine.config.node.cluster_domain
        users = dict(self._identities(pod))
        for name, text in pod_files(pod, users, self.address, self._resolver(pod), host_hosts, domain).items():
            (self.directory.files / name).write_text(text, encoding="utf-8")

    def _identities(self, pod: Pod) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for container in pod.all_containers():
            environment = self._machine.images.find(container.image)
            if environment is None:
                continue
            user = environment.table.user if container.run_as_user is None else container.run_as_user
            group = environment.table.group if container.run_as_group is None else container.run_as_group
            found.append((user, group))
        return found

    def _resolver(self, pod: Pod) -> dns.Resolver:
        """The pod's resolv.conf; what had to be cut off is told as an event."""
        node = self._machine.config.node
        cluster = dns.ClusterDns(node.cluster_dns, node.cluster_domain) if node.cluster_dns else None
        found, sentences = dns.resolver(pod, dns.parse(_text(Path(node.resolv_conf))), cluster)
        about = Subject("Pod", pod.namespace, pod.name, pod.uid)
        for sentence in sentences:
            self._machine.events.emit(about, "Warning", "DNSConfigForming", sentence)
        return found


def _text(path: Path) -> str:
    """Of a file of the machine; a machine without it says nothing by it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
