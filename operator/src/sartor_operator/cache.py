"""What the operator knows of the cluster: the last seen version of every object that it watches, with indexes.

Filled by watches and by the operator's own writes, so that a decision always sees what the decisions before it did. An
older version never replaces a newer one (`resourceVersion` is compared as the number that it is, see KEP-5504), and what
is gone does not come back through a watch that lags behind. What has lost Sartor's label is gone for a watch by label, too,
and comes back when a newer version has it again.

Only what some decision looks at is kept, and a version in which nothing of that changed (a node's heartbeat, say) is news to
nobody.
"""

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from sartor_operator import names
from sartor_operator.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    JOB,
    NODE,
    POD,
    RUN,
    SERVICE,
    SYNTHESIS,
    Kind,
    Manifest,
)
from sartor_operator.pods.jobs import RECORDS_KEY
from sartor_operator.rollout.index import rollout_indexes, slim_service, slim_slice

INDEXED = (names.RUN_LABEL, names.SYNTHESIS_LABEL, names.PROFILE_LABEL)
TARGET_INDEX, PROFILE_INDEX = "target", "profile"
"""Syntheses by the HardwareTarget and by the AgentProfile that they name; runs by the AgentProfile of their snapshot."""
EVERYWHERE = ""
"""Instead of a namespace: the index covers all of them."""

Key = tuple[Kind, str, str]
"""Kind, namespace (empty for what is cluster-scoped) and name."""
Listener = Callable[[Kind, Manifest | None, Manifest | None], None]
"""Called with the kind, the object as it was known before (None: it is new) and as it is (None: it is gone)."""

_REMEMBERED_DELETIONS = 10_000


def version(manifest: Manifest) -> int:
    """The resource version as a number; 0 for an object that was never stored."""
    text = str(manifest["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0


def key_of(kind: Kind, manifest: Manifest) -> Key:
    meta = manifest["metadata"]
    return kind, str(meta.get("namespace") or ""), str(meta["name"])


def trimmed(kind: Kind, manifest: Manifest) -> Manifest:
    """The object without what no decision looks at: managed fields, binary data, the history that a planner got, the spec
    of a pod and the template of a Job (their names say what they are for), and all of a node but its labels, taints, what
    it can give and whether it is ready. Equal strings are one in all objects, names of fields above all."""
    slim = {k: v for k, v in manifest.items() if k != "binaryData"}
    slim["metadata"] = {k: v for k, v in manifest["metadata"].items() if k not in ("managedFields", "selfLink")}
    if kind is CONFIG_MAP and RECORDS_KEY in (slim.get("data") or {}):
        slim["data"] = {k: v for k, v in slim["data"].items() if k != RECORDS_KEY}
    if kind is POD:
        slim = {k: v for k, v in slim.items() if k != "spec"}
    if kind is JOB:
        slim["spec"] = {k: v for k, v in (slim.get("spec") or {}).items() if k != "template"}
    if kind is NODE:
        slim = _node(slim)
    if kind is ENDPOINT_SLICE:
        slim = slim_slice(slim)
    if kind is SERVICE:
        slim = slim_service(slim)
    return _shared(slim)


_LONGEST_SHARED = 128


def _shared(value: Any) -> Any:
    """A copy in which names of fields, and values that may well be those of other objects, are interned strings."""
    if isinstance(value, dict):
        return {sys.intern(k): _shared(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_shared(v) for v in cast("list[Any]", value)]
    return sys.intern(value) if isinstance(value, str) and len(value) <= _LONGEST_SHARED else value


def _node(manifest: Manifest) -> Manifest:
    """Its annotations and the times of its conditions change all the time, and its list of images is long."""
    meta, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    kept = {k: meta[k] for k in ("name", "uid", "resourceVersion", "labels", "deletionTimestamp") if k in meta}
    ready = [{"type": c["type"], "status": c["status"]} for c in status.get("conditions") or () if c["type"] == "Ready"]
    return {
        "apiVersion": manifest.get("apiVersion", NODE.api_version),
        "kind": NODE.kind,
        "metadata": kept,
        "spec": {k: spec[k] for k in ("taints", "unschedulable") if k in spec},
        "status": {"allocatable": status.get("allocatable") or {}, "conditions": ready},
    }


def indexed(kind: Kind, manifest: Manifest) -> list[tuple[str, str, str]]:
    """(namespace or `EVERYWHERE`, index, value) of an object."""
    namespace = str(manifest["metadata"].get("namespace") or "")
    found = [(namespace, label, value) for label in INDEXED if (value := names.label(manifest, label))]
    found += rollout_indexes(kind, manifest)
    spec: dict[str, Any] = manifest.get("spec") or {}
    if kind is SYNTHESIS:
        if target := _at(spec, "hardware", "targetRef", "name"):
            found.append((EVERYWHERE, TARGET_INDEX, target))
        if profile := _at(spec, "agents", "profileRef", "name"):
            found.append((namespace, PROFILE_INDEX, profile))
    if kind is RUN and (profile := _at(spec, "snapshot", "synthesis", "agents", "profileRef", "name")):
        found.append((namespace, PROFILE_INDEX, profile))
    return found


def _at(value: Any, *path: str) -> str:
    for part in path:
        value = (value or {}).get(part)
    return str(value or "")


def _news(before: Manifest, now: Manifest) -> bool:
    """Whether anything differs but the version."""
    if any(before.get(k) != now.get(k) for k in before.keys() | now.keys() if k != "metadata"):
        return True
    one, other = before["metadata"], now["metadata"]
    return any(one.get(k) != other.get(k) for k in one.keys() | other.keys() if k != "resourceVersion")


class Cache:
    """Last seen objects by key, and by indexes. Not for several threads."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[tuple[str, str], Manifest]] = {}
        self._index: dict[tuple[Kind, str, str, str], dict[tuple[str, str], None]] = {}
        self._deleted: OrderedDict[str, float] = OrderedDict()
        """Uids of what is gone, with the version as of which it is."""
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every object that was added, changed or removed."""
        self._listeners.append(listener)

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        return self._objects.get(kind, {}).get((namespace or "", name))

    def labelled(self, kind: Kind, namespace: str, label: str, value: str) -> Iterator[Manifest]:
        """Objects of a kind in a namespace that have a label of `INDEXED` (or another index) with this value, by name."""
        for place in sorted(self._index.get((kind, namespace, label, value), ())):
            yield self._objects[kind][place]

    def all(self, kind: Kind) -> list[Manifest]:
        return list(self._objects.get(kind, {}).values())

    def first(self, kind: Kind, namespace: str) -> Manifest | None:
        """Any object of a kind in a namespace."""
        return next((m for place, m in self._objects.get(kind, {}).items() if place[0] == namespace), None)

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, manifest: Manifest) -> bool:
        """Take a version of an object; False when it is older than, or the same as, what is known."""
        manifest = trimmed(kind, manifest)
        key = key_of(kind, manifest)
        if version(manifest) <= self._deleted.get(names.uid(manifest), -1):
            return False
        known = self.get(*key)
        if known is not None and names.uid(known) == names.uid(manifest) and version(manifest) <= version(known):
            return False
        if known is not None and names.uid(known) != names.uid(manifest) and version(manifest) < version(known):
            return False
        if known is not None:
            self._unindex(key, known)
        self._objects.setdefault(kind, {})[key[1:]] = manifest
        for entry in indexed(kind, manifest):
            self._index.setdefault((kind, *entry), {})[key[1:]] = None
        if known is None or _news(known, manifest):
            self._tell(kind, known, manifest)
        return True

    def mark(self, kind: Kind, manifest: Manifest) -> None:
        """Replace a known object by the same version of it with something more known about it (its deletion)."""
        key = key_of(kind, manifest)
        known = self.get(*key)
        if known is not None:
            self._objects[kind][key[1:]] = manifest
            self._tell(kind, known, manifest)

    def remove(
        self, kind: Kind, namespace: str | None, name: str, uid: str | None = None, *, as_of: float = math.inf
    ) -> bool:
        """Forget an object that is gone; with `uid` only if it is that very one. `as_of`: the version with which it went,
        where it may come back (it lost the label by which it is watched)."""
        key = (kind, namespace or "", name)
        known = self.get(*key)
        if uid is not None:
            self._deleted[uid] = max(as_of, self._deleted.get(uid, 0.0))
            while len(self._deleted) > _REMEMBERED_DELETIONS:
                self._deleted.popitem(last=False)
        if known is None or (uid is not None and names.uid(known) != uid) or version(known) > as_of:
            return False
        del self._objects[kind][key[1:]]
        self._unindex(key, known)
        self._tell(kind, known, None)
        return True

    def replace(
        self, kind: Kind, listed: Iterable[Manifest], at_version: int, within: tuple[str, str, str] | None = None
    ) -> None:
        """Take a whole list that was read at `at_version`: what is known, not in it, and older than it is gone.

        `within` (namespace, label of `INDEXED`, its value): it is the list of those objects, and says nothing of others.
        """
        seen = set[tuple[str, str]]()
        for manifest in listed:
            seen.add(key_of(kind, manifest)[1:])
            self.put(kind, manifest)
        known = self._objects.get(kind, {})
        places = known if within is None else self._index.get((kind, *within), {})
        gone = [(p, known[p]) for p in places if p not in seen and version(known[p]) <= at_version]
        for (namespace, name), manifest in gone:
            self.remove(kind, namespace, name, names.uid(manifest), as_of=at_version)

    def _unindex(self, key: Key, manifest: Manifest) -> None:
        for entry in indexed(key[0], manifest):
            bucket = self._index.get((key[0], *entry), {})
            bucket.pop(key[1:], None)
            if not bucket:
                self._index.pop((key[0], *entry), None)

    def _tell(self, kind: Kind, before: Manifest | None, now: Manifest | None) -> None:
        for listener in self._listeners:
            listener(kind, before, now)
