"""Which rollouts have to be looked at when something else changes. Bounded by what refers to it: an index leads to them."""

from collections.abc import Iterable, Iterator

from sartor_api.serving_rollout import RolloutPhase
from sartor_operator import names
from sartor_operator.cache import EVERYWHERE, Cache, Key, key_of
from sartor_operator.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    POD,
    ROLLOUT,
    SERVICE,
    Kind,
    Manifest,
)
from sartor_operator.rollout.index import CONTENT_INDEX, DEPLOYMENT_INDEX, GATEWAY_INDEX, SERVICE_INDEX, SERVICE_NAME
from sartor_operator.rollout.route import ROLLOUT_ANNOTATION

_STANDS = ("phase", "finishedAt")


def rollout_keys(cache: Cache, kind: Kind, before: Manifest | None, now: Manifest | None) -> list[Key]:
    """Keys of rollouts that this change concerns; `before` None: it is new, `now` None: it is gone."""
    manifest = now or before
    assert manifest is not None, "an object was there, or is there"
    meta = manifest["metadata"]
    namespace, name = str(meta.get("namespace") or ""), str(meta["name"])
    if kind is ROLLOUT:
        return [(ROLLOUT, namespace, name), *(_siblings(cache, namespace, name, before, now))]
    if kind is ENDPOINT_SLICE:
        return _keys(cache.labelled(ROLLOUT, namespace, SERVICE_INDEX, names.label(manifest, SERVICE_NAME)))
    if kind is SERVICE and (before is None or now is None):
        return _keys(cache.labelled(ROLLOUT, namespace, SERVICE_INDEX, name))
    if kind in (SERVICE, DEPLOYMENT, POD) and (probe := names.label(manifest, names.PROBE_LABEL)):
        return _keys(cache.labelled(ROLLOUT, namespace, SERVICE_INDEX, probe))
    if kind is DEPLOYMENT:
        return _keys(cache.labelled(ROLLOUT, namespace, DEPLOYMENT_INDEX, name))
    if kind is HTTP_ROUTE:
        return list(dict.fromkeys((ROLLOUT, namespace, by) for one in (before, now) if (by := _writer(one))))
    if kind is GATEWAY:
        return _keys(cache.labelled(ROLLOUT, EVERYWHERE, GATEWAY_INDEX, f"{namespace}/{name}"))
    if kind is GATEWAY_CLASS:
        return _keys(cache.all(ROLLOUT))
    return []


def urgent(key: Key, kind: Kind, before: Manifest | None, now: Manifest | None) -> bool:
    """Whether a rollout that this change concerns comes before others: a human wants something of it, it has just turned
    back, or its arms, or endpoints of them, come and go (those of a probe can wait: no traffic hangs on them)."""
    if kind is ROLLOUT and before is not None and now is not None:
        return key == key_of(ROLLOUT, now) and (_asked(before) != _asked(now) or _turned(before, now))
    of_arms = kind is ENDPOINT_SLICE or (kind is SERVICE and (before is None or now is None))
    return of_arms and not names.label(now or before or {"metadata": {}}, names.PROBE_LABEL)


def _asked(rollout: Manifest) -> tuple[object, object]:
    meta = rollout["metadata"]
    return meta.get("generation"), meta.get("deletionTimestamp")


def _turned(before: Manifest, now: Manifest) -> bool:
    """The status holds the way back, and the route has yet to follow."""
    phases = [str((one.get("status") or {}).get("phase")) for one in (before, now)]
    return phases[0] != phases[1] == RolloutPhase.ROLLING_BACK.value


def _keys(rollouts: Iterable[Manifest]) -> list[Key]:
    return [(ROLLOUT, str(r["metadata"]["namespace"]), names.name_of(r)) for r in rollouts]


def _writer(route: Manifest | None) -> str:
    return str(((route or {}).get("metadata", {}).get("annotations") or {}).get(ROLLOUT_ANNOTATION, ""))


def _siblings(cache: Cache, namespace: str, name: str, before: Manifest | None, now: Manifest | None) -> Iterator[Key]:
    """Others for the same gateway or of the same content, when this one came, went, was changed or got on."""
    if before is not None and now is not None and _standing(before) == _standing(now):
        return
    manifest = now or before or {}
    spec = manifest.get("spec") or {}
    content = str((spec.get("candidate") or {}).get("contentHash", ""))
    found = dict.fromkeys(_keys(cache.labelled(ROLLOUT, namespace, CONTENT_INDEX, content))) if content else {}
    for parent in (spec.get("policy") or {}).get("parentRefs") or ():
        gateway = f"{parent.get('namespace') or namespace}/{parent.get('name')}"
        found |= dict.fromkeys(_keys(cache.labelled(ROLLOUT, EVERYWHERE, GATEWAY_INDEX, gateway)))
    yield from (key for key in found if key != (ROLLOUT, namespace, name))


def _standing(manifest: Manifest) -> tuple[object, ...]:
    status = manifest.get("status") or {}
    return *_asked(manifest), *(status.get(field) for field in _STANDS)
