"""The files of the volumes that come from the API: configMap, secret, downwardAPI, projected.

Specification: kubelet `volume/{configmap,secret,downwardapi,projected}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sartor_runner.core import downward
from sartor_runner.core.downward import Placement
from sartor_runner.core.environment import Named, Sources
from sartor_runner.core.pod import Json, Pod
from sartor_runner.errors import VolumeError

DEFAULT_MODE = 0o644
API_VOLUMES = frozenset({"configMap", "secret", "downwardAPI", "projected"})
TOKEN_SECONDS = 3600

TokenKey = tuple[str, int]
"""Audience (empty: the API server's own) and the lifetime asked for, in seconds."""


@dataclass(frozen=True)
class File:
    data: bytes
    mode: int


def volume_kind(volume: Json) -> str:
    """The kind of volume; a volume that names none is an emptyDir."""
    return next((key for key in volume if key != "name"), "emptyDir")


def references(pod: Pod) -> frozenset[Named]:
    """The config maps and secrets that volumes of the pod show."""
    found: set[Named] = set()
    for volume in pod.volumes:
        for source in _parts(volume):
            if "configMap" in source:
                found.add(("configMap", source["configMap"].get("name", "")))
            if "secret" in source:
                found.add(("secret", _secret_name(source["secret"])))
    return frozenset(found)


def token_keys(pod: Pod) -> frozenset[TokenKey]:
    """The service-account tokens that volumes of the pod show."""
    return frozenset(
        _token_key(source["serviceAccountToken"])
        for volume in pod.volumes
        for source in _parts(volume)
        if "serviceAccountToken" in source
    )


def files(
    pod: Pod, volume: Json, sources: Sources, tokens: Mapping[TokenKey, str], placement: Placement
) -> dict[str, File]:
    """Path in the volume to file. Raises `VolumeError` when something that is not optional is missing."""
    found: dict[str, File] = {}
    kind = volume_kind(volume)
    default = int(volume[kind].get("defaultMode") or DEFAULT_MODE)
    for source in _parts(volume):
        for key, word in (("configMap", "configmap"), ("secret", "secret")):
            if key in source:
                found |= _entries(pod, key, word, source[key], sources, default)
        if "downwardAPI" in source:
            found |= _downward(pod, source["downwardAPI"].get("items") or (), placement, default)
        if "serviceAccountToken" in source:
            token = source["serviceAccountToken"]
            value = tokens.get(_token_key(token))
            if value is None:
                raise VolumeError(f"no token for service account {pod.service_account} yet")
            found[token["path"]] = File(value.encode(), default)
    return found


def _parts(volume: Json) -> list[Json]:
    kind = volume_kind(volume)
    if kind == "projected":
        return list(volume["projected"].get("sources") or ())
    return [volume] if kind in API_VOLUMES else []


def _token_key(token: Json) -> TokenKey:
    return (token.get("audience") or "", int(token.get("expirationSeconds") or TOKEN_SECONDS))


def _secret_name(secret: Json) -> str:
    return secret.get("secretName") or secret.get("name") or ""


def _entries(
    pod: Pod, kind: Literal["configMap", "secret"] | str, word: str, raw: Json, sources: Sources, default: int
) -> dict[str, File]:
    secret = kind == "secret"
    name = _secret_name(raw) if secret else raw.get("name", "")
    data = sources.data("secret" if secret else "configMap", name)
    optional = bool(raw.get("optional"))
    if data is None:
        if optional:
            return {}
        raise VolumeError(f'{word} "{name}" not found in namespace {pod.namespace}')
    if not raw.get("items"):
        return {key: File(value, default) for key, value in data.items()}
    found: dict[str, File] = {}
    for item in raw["items"]:
        if item["key"] not in data:
            if optional:
                continue
            raise VolumeError(f'{word} "{name}" has no key {item["key"]!r}')
        mode = item.get("mode")
        found[item["path"]] = File(data[item["key"]], default if mode is None else int(mode))
    return found


def _downward(pod: Pod, items: list[Json] | tuple[()], placement: Placement, default: int) -> dict[str, File]:
    found: dict[str, File] = {}
    for item in items:
        try:
            if "fieldRef" in item:
                text = downward.field(pod, item["fieldRef"]["fieldPath"], placement)
            else:
                reference = item["resourceFieldRef"]
                container = pod.container(reference.get("containerName") or "")
                if container is None:
                    raise ValueError(f"container {reference.get('containerName')!r} not found")
                text = downward.resource(container, reference, placement)
        except ValueError as error:
            raise VolumeError(str(error)) from error
        mode = item.get("mode")
        found[item["path"]] = File(text.encode(), default if mode is None else int(mode))
    return found
