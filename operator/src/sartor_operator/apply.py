"""Carries decisions out: one action after the other, each idempotent, what was written put into the cache at once.

An error ends the list. What comes after it was decided on the ground that it succeeded; the next look decides anew.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from sartor_operator import names
from sartor_operator.actions import Action, Apply, Create, CreateSecret, Decision, Delete, PublishStack, StatusOf, Tell
from sartor_operator.cache import Cache
from sartor_operator.client import Api
from sartor_operator.errors import AlreadyExistsError, ConflictError, NotFoundError, RefusedError, TransientError
from sartor_operator.kinds import EVENT, Kind, Manifest, kind_of
from sartor_operator.pods.archive import index_manifest, index_of, part_manifest, refused
from sartor_operator.stacks import CommitMissingError, StackSource
from sartor_operator.times import format_time

LOG = logging.getLogger(__name__)
CREATOR = "sartor-create"
STATUS = "sartor-status"
COMPONENT = "sartor-operator"


class TakenError(Exception):
    """A name that the operator needs belongs to somebody else."""


class Applier:
    """Writes to the API server, and to the cache what it answered."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        stacks: StackSource,
        *,
        now: Callable[[], float],
        random_hex: Callable[[], str] = lambda: secrets.token_hex(32),
    ) -> None:
        self._api = api
        self._cache = cache
        self._stacks = stacks
        self._now = now
        self._random_hex = random_hex

    async def carry_out(self, decision: Decision) -> bool:
        """All of it, in order. Returns whether anything was written (a status that is so already is not)."""
        for action in decision.actions:
            await self.act(action)
        wrote = bool(decision.actions)
        for status in decision.statuses:
            wrote = await self.status(status) or wrote
        return wrote

    async def act(self, action: Action) -> None:
        """One action. Raises `ApiError` or `TakenError`; done already is success."""
        match action:
            case Create(manifest):
                await self._create(manifest)
            case CreateSecret(manifest, key):
                await self._create({**manifest, "stringData": {key: self._random_hex()}})
            case Apply(manifest, manager):
                await self._apply(manifest, manager)
            case Delete(kind, namespace, name, uid):
                await self._delete(kind, namespace, name, uid)
            case PublishStack():
                await self._publish(action)
            case Tell():
                await self._tell(action)

    async def _create(self, manifest: Manifest) -> None:
        kind, meta = kind_of(manifest), manifest["metadata"]
        try:
            made = await self._api.create(manifest, CREATOR)
        except AlreadyExistsError:
            made = await self._found(kind, meta)
            if names.owner_uid(made) != names.owner_uid(manifest):
                text = f"{kind.kind} {meta['namespace']}/{meta['name']} belongs to somebody else; delete or rename it"
                raise TakenError(text) from None
            if names.deleting(made):
                raise ConflictError(f"{kind.kind} {meta['name']} is still being deleted") from None
        self._cache.put(kind, made)

    async def _found(self, kind: Kind, meta: Manifest) -> Manifest:
        try:
            return await self._api.get(kind, meta.get("namespace"), meta["name"])
        except NotFoundError as error:
            raise ConflictError(f"{kind.kind} {meta['name']} was there and is gone") from error

    async def _apply(self, manifest: Manifest, manager: str) -> None:
        kind, meta = kind_of(manifest), manifest["metadata"]
        try:
            self._cache.put(kind, await self._api.apply(manifest, manager))
        except NotFoundError:
            # With a uid the object had to be there; it is not any more, and that is news.
            if "uid" in meta:
                self._cache.remove(kind, meta.get("namespace"), meta["name"], meta["uid"])
            raise

    async def _delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        try:
            await self._api.delete(kind, namespace, name, uid)
        except (NotFoundError, ConflictError):
            # Gone, or another object has the name: this one is not there any more.
            self._cache.remove(kind, namespace, name, uid)
            return
        known = self._cache.get(kind, namespace, name)
        if known is not None and names.uid(known) == uid:
            # It may linger (finalizers, a grace period): from here on it is seen as being deleted.
            marked = {**known, "metadata": {**known["metadata"], "deletionTimestamp": format_time(self._now())}}
            self._cache.mark(kind, marked)

    async def _publish(self, action: PublishStack) -> None:
        try:
            files = await self._stacks.files(action.repository, action.commit)
        except CommitMissingError as error:
            index, parts = refused(action.commit, action.content_hash, "CommitMissing", str(error)), list[bytes]()
        else:
            index, parts = await asyncio.to_thread(
                index_of, action.commit, action.content_hash, files, action.name, action.secrets
            )
        for part, data in zip(index.parts, parts, strict=True):
            manifest = part_manifest(action.owner, part.name, data)
            try:
                await self._api.create(manifest, CREATOR)
            except AlreadyExistsError:
                continue  # the name follows from the content
        await self._create(index_manifest(action.owner, action.name, action.labels, index))

    async def status(self, wanted: StatusOf) -> bool:
        """Write a status where it differs from the one that is there; checked by resource version."""
        manifest = self._cache.get(
            wanted.kind, wanted.manifest["metadata"].get("namespace"), names.name_of(wanted.manifest)
        )
        if manifest is None or names.uid(manifest) != names.uid(wanted.manifest):
            return False
        said = shown(wanted.status)
        before = manifest.get("status")
        if before is not None and _reads(type(wanted.status), before) == said:
            return False
        try:
            made = await self._api.apply_status(wanted.kind, manifest, said, STATUS)
        except NotFoundError:
            meta = manifest["metadata"]
            self._cache.remove(wanted.kind, meta.get("namespace"), meta["name"], meta["uid"])
            return False
        self._cache.put(wanted.kind, made)
        return True

    async def _tell(self, event: Tell) -> None:
        about, now = event.about, format_time(self._now())
        meta = about["metadata"]
        namespace = meta.get("namespace") or "default"  # where events about what has no namespace are looked for
        # The name makes it one event, however often it is told.
        tail = hashlib.sha256(f"{meta['uid']}/{event.reason}/{event.key}".encode()).hexdigest()[:16]
        manifest = {
            "apiVersion": "v1",
            "kind": EVENT.kind,
            "metadata": {"name": f"{meta['name']}.{tail}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
                "uid": meta["uid"],
            },
            "reason": event.reason,
            "message": event.message[:1024],
            "type": "Warning" if event.warning else "Normal",
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": COMPONENT,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(manifest, CREATOR)
        except (AlreadyExistsError, NotFoundError):
            return  # told already, or nobody is left to be told
        except (RefusedError, TransientError) as error:
            # An Event is a courtesy; work does not wait for it.
            LOG.warning("event %s about %s could not be written: %s", event.reason, meta["name"], error)


def shown(status: BaseModel) -> dict[str, Any]:
    """A status as it is written: everything that has a value."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _reads(model: type[BaseModel], before: dict[str, Any]) -> dict[str, Any] | None:
    """A status as this version would write it; None where it cannot be read, and is to be written anew."""
    try:
        return shown(model.model_validate(before))
    except ValidationError:
        return None
