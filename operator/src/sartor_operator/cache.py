"""What the operator knows of the cluster: the last seen version of every object that it watches, with two indexes.

Filled by watches and by the operator's own writes, so that a decision always sees what the decisions before it did. An
older version never replaces a newer one (`resourceVersion` is compared as the number that it is, see KEP-5504), and what
the operator deleted does not come back through a watch that lags behind.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from sartor_operator import names
from sartor_operator.kinds import Kind, Manifest

INDEXED = (names.RUN_LABEL, names.SYNTHESIS_LABEL)
Key = tuple[Kind, str, str]
"""Kind, namespace (empty for what is cluster-scoped) and name."""
Listener = Callable[[Kind, Manifest], None]

_REMEMBERED_DELETIONS = 10_000


def version(manifest: Manifest) -> int:
    """The resource version as a number; 0 for an object that was never stored."""
    text = str(manifest["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0


def key_of(kind: Kind, manifest: Manifest) -> Key:
    meta = manifest["metadata"]
    return kind, str(meta.get("namespace") or ""), str(meta["name"])


def trimmed(manifest: Manifest) -> Manifest:
    """The object without what no decision looks at: managed fields, and binary data but for its keys."""
    slim = {k: v for k, v in manifest.items() if k != "binaryData"}
    slim["metadata"] = {k: v for k, v in manifest["metadata"].items() if k not in ("managedFields", "selfLink")}
    return slim


class Cache:
    """Last seen objects by key, and by namespace and label. Not for several threads."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[tuple[str, str], Manifest]] = {}
        self._labelled: dict[tuple[Kind, str, str, str], dict[str, None]] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every object that was added, changed or removed."""
        self._listeners.append(listener)

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        return self._objects.get(kind, {}).get((namespace or "", name))

    def labelled(self, kind: Kind, namespace: str, label: str, value: str) -> Iterator[Manifest]:
        """Objects of a kind in a namespace that have a label of `INDEXED` with this value, by name."""
        for name in sorted(self._labelled.get((kind, namespace, label, value), ())):
            yield self._objects[kind][namespace, name]

    def all(self, kind: Kind) -> list[Manifest]:
        return list(self._objects.get(kind, {}).values())

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, manifest: Manifest) -> bool:
        """Take a version of an object; False when it is older than, or the same as, what is known."""
        manifest = trimmed(manifest)
        key = key_of(kind, manifest)
        if names.uid(manifest) in self._deleted:
            return False
        known = self.get(*key)
        if known is not None and names.uid(known) == names.uid(manifest) and version(manifest) <= version(known):
            return False
        if known is not None and names.uid(known) != names.uid(manifest) and version(manifest) < version(known):
            return False
        if known is not None:
            self._unindex(key, known)
        self._objects.setdefault(kind, {})[key[1:]] = manifest
        for label in INDEXED:
            if value := names.label(manifest, label):
                self._labelled.setdefault((kind, key[1], label, value), {})[key[2]] = None
        self._tell(kind, manifest)
        return True

    def mark(self, kind: Kind, manifest: Manifest) -> None:
        """Replace a known object by the same version of it with something more known about it (its deletion)."""
        key = key_of(kind, manifest)
        if key[1:] in self._objects.get(kind, {}):
            self._objects[kind][key[1:]] = manifest
            self._tell(kind, manifest)

    def remove(self, kind: Kind, namespace: str | None, name: str, uid: str | None = None) -> bool:
        """Forget an object that is gone; with `uid` only if it is that very one."""
        key = (kind, namespace or "", name)
        known = self.get(*key)
        if uid is not None:
            self._deleted[uid] = None
            while len(self._deleted) > _REMEMBERED_DELETIONS:
                self._deleted.popitem(last=False)
        if known is None or (uid is not None and names.uid(known) != uid):
            return False
        del self._objects[kind][key[1:]]
        self._unindex(key, known)
        self._tell(kind, known)
        return True

    def replace(self, kind: Kind, listed: Iterable[Manifest], at_version: int) -> None:
        """Take a whole list that was read at `at_version`: what is known, not in it, and older than it is gone."""
        seen = set[tuple[str, str]]()
        for manifest in listed:
            seen.add(key_of(kind, manifest)[1:])
            self.put(kind, manifest)
        gone = [
            (place, manifest)
            for place, manifest in self._objects.get(kind, {}).items()
            if place not in seen and version(manifest) <= at_version
        ]
        for (namespace, name), manifest in gone:
            self.remove(kind, namespace, name, names.uid(manifest))

    def _unindex(self, key: Key, manifest: Manifest) -> None:
        for label in INDEXED:
            if value := names.label(manifest, label):
                index = (key[0], key[1], label, value)
                bucket = self._labelled.get(index, {})
                bucket.pop(key[2], None)
                if not bucket:
                    self._labelled.pop(index, None)

    def _tell(self, kind: Kind, manifest: Manifest) -> None:
        for listener in self._listeners:
            listener(kind, manifest)
