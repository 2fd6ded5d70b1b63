"""One container's sandbox, put together from the pod, the environment its image stands for, and the pod's folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_runner.core.expand import expand
from sartor_runner.core.payload import volume_kind
from sartor_runner.core.pod import Container, Pod
from sartor_runner.errors import ContainerError
from sartor_runner.host import volumes
from sartor_runner.host.containers import ROOT
from sartor_runner.host.directories import PodDirectory
from sartor_runner.host.images import Environment
from sartor_runner.host.sandbox import Bind, Identity, Sandbox

CONFIG_ERROR = "CreateContainerConfigError"
CREATE_ERROR = "CreateContainerError"
FILES = ("hosts", "resolv.conf", "passwd", "group", "hostname")


@dataclass(frozen=True)
class Place:
    """Where the pod is on this machine. `host_user`: see `Identity`."""

    directory: PodDirectory
    host_user: int | None
    address: str
    plain_volumes: Mapping[str, Path]


def identity(container: Container, environment: Environment, host_user: int | None) -> Identity:
    """Raises `ContainerError` when the container must not run as root and would."""
    user = environment.table.user if container.run_as_user is None else container.run_as_user
    group = environment.table.group if container.run_as_group is None else container.run_as_group
    if container.run_as_non_root and user == 0:
        whom = (
            "image will run as root"
            if container.run_as_user is None
            else "container's runAsUser breaks non-root policy"
        )
        raise ContainerError(CONFIG_ERROR, f"container has runAsNonRoot and {whom} (container: {container.name})")
    return Identity(user, group, host_user)


def command(container: Container, environment: Environment, variables: Mapping[str, str]) -> tuple[str, ...]:
    """`command` replaces the image's entrypoint and command, `args` its command. Raises `ContainerError` for none at all."""
    entrypoint = container.command or environment.table.entrypoint
    arguments = container.args or (() if container.command else environment.table.command)
    words = tuple(expand(word, variables) for word in (*entrypoint, *arguments))
    if not words:
        raise ContainerError(CREATE_ERROR, "no command specified: neither the container nor its environment has one")
    return words


def sandbox(
    pod: Pod, container: Container, environment: Environment, place: Place, attempt: Path, variables: Mapping[str, str]
) -> Sandbox:
    """Raises `ContainerError` for mounts that cannot be made."""
    table = environment.table
    binds = [*environment.binds]
    if not container.read_only_root:
        binds += [Bind(f"{attempt}/{ROOT}{target}", target, writable=True) for target in ("/tmp", "/var/tmp")]
    files = place.directory.files
    binds += [Bind(str(files / name), f"/etc/{name}") for name in FILES if (files / name).exists()]
    binds += _mounts(pod, container, place, variables)
    binds.append(Bind(str(attempt / "termination-log"), container.termination_path, writable=True))
    ordered = sorted(binds, key=lambda bind: bind.target.rstrip("/").count("/"))
    return Sandbox(
        root=str(attempt / ROOT),
        command=command(container, environment, variables),
        variables={"HOME": "/root" if table.user == 0 else "/tmp", "HOSTNAME": pod.hostname, **variables},
        directory=container.raw.get("workingDir") or table.working_directory,
        binds=tuple(_unique(ordered)),
        links=environment.links,
        hostname=pod.hostname,
        identity=identity(container, environment, place.host_user),
        read_only_root=container.read_only_root,
        private_network=table.unshare_net,
    )


def _mounts(pod: Pod, container: Container, place: Place, variables: Mapping[str, str]) -> list[Bind]:
    by_name = {volume["name"]: volume for volume in pod.volumes}
    found: list[Bind] = []
    for mount in container.raw.get("volumeMounts") or ():
        volume = by_name.get(mount["name"])
        if volume is None:
            raise ContainerError(CONFIG_ERROR, f"volume {mount['name']!r} of a mount is not in the pod")
        source = place.plain_volumes.get(mount["name"], place.directory.volumes / mount["name"])
        sub = mount.get("subPath") or expand(mount.get("subPathExpr") or "", variables)
        if sub:
            source = _sub_path(source, sub)
        writable = volumes.writable(volume) and not mount.get("readOnly")
        if volume_kind(volume) == "hostPath":
            writable = writable and not mount.get("readOnly")
        found.append(Bind(str(source), os.path.normpath(mount["mountPath"]), writable=writable))
    return found


def _sub_path(folder: Path, sub: str) -> Path:
    """A file of a volume from the API (others are refused before). It stays what it is now, as with the kubelet."""
    target = (folder / sub).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ContainerError(CONFIG_ERROR, f"subPath {sub!r} leads out of the volume")
    if not target.exists():
        raise ContainerError(CONFIG_ERROR, f"subPath {sub!r} is not in the volume")
    return target


def _unique(binds: list[Bind]) -> list[Bind]:
    """The last bind of a target wins: what the pod mounts replaces what the environment has there."""
    return list({bind.target: bind for bind in binds}.values())
