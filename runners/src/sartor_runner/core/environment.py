"""The variables of a container.

Order, later wins: the environment's own (the image), service variables, `envFrom`, `env`. A value may refer to what came
before it by `$(NAME)`. Specification: kubelet `makeEnvironmentVariables`.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sartor_runner.core import downward
from sartor_runner.core.downward import Placement
from sartor_runner.core.expand import expand
from sartor_runner.core.pod import Container, Json, Pod
from sartor_runner.errors import ContainerError

CONFIG_ERROR = "CreateContainerConfigError"

Named = tuple[Literal["configMap", "secret"], str]


@dataclass(frozen=True)
class Sources:
    """Config maps and secrets by (kind, name): the object, or None when the cluster has none of that name."""

    objects: Mapping[Named, Json | None] = field(default_factory=dict[Named, Json | None])

    def data(self, kind: Literal["configMap", "secret"], name: str) -> Mapping[str, bytes] | None:
        """The object's entries as bytes; None when it is not there."""
        found = self.objects.get((kind, name))
        if found is None:
            return None
        plain = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in plain.items()}
        binary = found.get("binaryData") or {}
        return {key: value.encode() for key, value in plain.items()} | {
            key: base64.b64decode(value) for key, value in binary.items()
        }


def references(container: Container) -> frozenset[Named]:
    """The config maps and secrets that the container's variables come from."""
    found: set[Named] = set()
    for source in container.raw.get("envFrom") or ():
        for key, kind in (("configMapRef", "configMap"), ("secretRef", "secret")):
            if key in source:
                found.add((kind, source[key].get("name", "")))  # type: ignore[arg-type]
    for variable in container.raw.get("env") or ():
        value_from = variable.get("valueFrom") or {}
        for key, kind in (("configMapKeyRef", "configMap"), ("secretKeyRef", "secret")):
            if key in value_from:
                found.add((kind, value_from[key].get("name", "")))  # type: ignore[arg-type]
    return frozenset(found)


def variables(
    pod: Pod,
    container: Container,
    *,
    image: Mapping[str, str],
    services: Mapping[str, str],
    sources: Sources,
    placement: Placement,
) -> dict[str, str]:
    """Raises `ContainerError` (`CreateContainerConfigError`) when something that is not optional is missing."""
    given: dict[str, str] = {}
    for source in container.raw.get("envFrom") or ():
        given.update(_env_from(source, sources))
    known = {**services, **given}
    for variable in container.raw.get("env") or ():
        name = variable["name"]
        if variable.get("valueFrom"):
            value = _value_from(pod, container, variable["valueFrom"], sources, placement)
            if value is None:
                continue
        else:
            value = expand(str(variable.get("value") or ""), known)
        known[name] = given[name] = value
    return {**image, **services, **given}


def service_variables(services: Iterable[Json], pod: Pod, api_server: tuple[str, int] | None) -> dict[str, str]:
    """`NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the Docker-link variables of the services that the pod may see.

    With `api_server` the variables of the `kubernetes` service name that host and port instead of the cluster address,
    which leads nowhere on a node without a service proxy. Specification: kubelet `envvars.FromServices`.
    """
    chosen: dict[str, Json] = {}
    links = pod.spec.get("enableServiceLinks")
    for service in services:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        spec = service.get("spec") or {}
        if not spec.get("clusterIP") or spec["clusterIP"] == "None" or not spec.get("ports"):
            continue
        if namespace == pod.namespace and links is not False:
            chosen[name] = service  # also one named kubernetes, before the cluster's
        elif (name, namespace) == ("kubernetes", "default"):
            chosen.setdefault(name, service)
    found: dict[str, str] = {}
    for name, service in chosen.items():
        address, ports = service["spec"]["clusterIP"], service["spec"]["ports"]
        if service["metadata"]["namespace"] == "default" and name == "kubernetes" and api_server is not None:
            address, ports = api_server[0], ({**ports[0], "port": api_server[1]},)
        found.update(_service(name, address, ports))
    if api_server is not None and "KUBERNETES_SERVICE_HOST" not in found:
        found.update(_service("kubernetes", api_server[0], ({"name": "https", "port": api_server[1]},)))
    return found


def _service(name: str, address: str, ports: Sequence[Json]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    found = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for index, port in enumerate(ports):
        number, protocol = port["port"], port.get("protocol") or "TCP"
        if port.get("name"):
            found[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(number)
        url = f"{protocol.lower()}://{host}:{number}"
        if index == 0:
            found[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found |= {link: url, f"{link}_PROTO": protocol.lower(), f"{link}_PORT": str(number), f"{link}_ADDR": address}
    return found


def _env_from(source: Json, sources: Sources) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    for key, kind, word in (("configMapRef", "configMap", "configmap"), ("secretRef", "secret", "secret")):
        if key not in source:
            continue
        name = source[key].get("name", "")
        data = sources.data(kind, name)  # type: ignore[arg-type]
        if data is None:
            if source[key].get("optional"):
                return {}
            raise ContainerError(CONFIG_ERROR, f'{word} "{name}" not found')
        return {prefix + key: value.decode("utf-8", "replace") for key, value in data.items()}
    return {}


def _value_from(pod: Pod, container: Container, raw: Json, sources: Sources, placement: Placement) -> str | None:
    try:
        if "fieldRef" in raw:
            return downward.field(pod, raw["fieldRef"]["fieldPath"], placement)
        if "resourceFieldRef" in raw:
            reference = raw["resourceFieldRef"]
            owner = pod.container(reference.get("containerName") or container.name)
            if owner is None:
                raise ValueError(f"container {reference['containerName']} not found")
            return downward.resource(owner, reference, placement)
    except ValueError as error:
        raise ContainerError(CONFIG_ERROR, str(error)) from error
    for key, kind, word in (("configMapKeyRef", "configMap", "configmap"), ("secretKeyRef", "secret", "secret")):
        if key not in raw:
            continue
        reference = raw[key]
        name, entry = reference.get("name", ""), reference["key"]
        data = sources.data(kind, name)  # type: ignore[arg-type]
        if data is None:
            if reference.get("optional"):
                return None
            raise ContainerError(CONFIG_ERROR, f'{word} "{name}" not found')
        if entry not in data:
            if reference.get("optional"):
                return None
            shown = "ConfigMap" if kind == "configMap" else "Secret"
            raise ContainerError(CONFIG_ERROR, f"couldn't find key {entry} in {shown} {pod.namespace}/{name}")
        return data[entry].decode("utf-8", "replace")
    kind = next(iter(raw), "")
    raise ContainerError(
        CONFIG_ERROR, f"valueFrom.{kind}: this node knows fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef"
    )
