"""Tells the API server a pod's status: only when it changed, one request at a time, and again until it is taken.

What the pod should say is compared with what the API has, so that a restarted runner writes nothing, and a condition that
somebody else changed in between (the node controller marks pods of a lost node as not ready) is put right.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sartor_runner.api.client import STRATEGIC_PATCH, ApiClient, Object
from sartor_runner.api.errors import ApiError, UnreachableError

logger = logging.getLogger(__name__)

FIRST_DELAY, MAXIMUM_DELAY = 0.2, 10.0
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
LISTS = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses", "hostIPs", "podIPs")
PLAIN = ("phase", "reason", "message", "startTime", "hostIP", "podIP")


class Reporter:
    """For one pod. `known` is the newest object of the API that was seen."""

    def __init__(self, client: ApiClient, known: Object) -> None:
        self._client = client
        self.known = known
        self._desired: Mapping[str, Any] | None = None
        self._sent: Mapping[str, Any] | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self.gone = False

    def seen(self, item: Object) -> None:
        """An event brought this object; an older one than is known is left aside."""
        if version(item) >= version(self.known):
            self.known = item
            self._wake.set()

    def report(self, status: Mapping[str, Any]) -> None:
        """This is the status from now on."""
        if status != self._desired:
            self._desired = status
            self._settled.clear()
            self._wake.set()

    async def settled(self) -> None:
        """Returns once the API has what was last reported, or has no such pod any more."""
        await self._settled.wait()

    async def run(self) -> None:
        """For ever; ends by cancellation only."""
        delay = FIRST_DELAY
        while True:
            desired = self._desired
            if desired is None or self.gone or not self._differs(desired):
                self._settled.set()
                await self._wake.wait()
                self._wake.clear()
                continue
            try:
                await self._patch(desired)
                if essence(self.known.get("status") or {}) == essence(desired):
                    delay = FIRST_DELAY
                else:  # somebody changes it back; do not race
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, MAXIMUM_DELAY)
            except UnreachableError as error:
                logger.debug("status of %s waits: %s", self.known["metadata"]["name"], error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAXIMUM_DELAY)
            except ApiError as error:
                if error.status == 404 or (error.status == 409 and "uid" in str(error).lower()):
                    self.gone = True
                    continue
                name = self.known["metadata"]["name"]
                logger.warning("status of %s was not taken: %s", name, error)
                await asyncio.sleep(error.retry_after or delay)
                delay = min(delay * 2, MAXIMUM_DELAY)

    async def _patch(self, desired: Mapping[str, Any]) -> None:
        metadata = self.known["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        body = {"metadata": {"uid": metadata["uid"]}, "status": patch(self.known.get("status") or {}, desired)}
        generation = metadata.get("generation")
        if generation is not None:
            body["status"]["observedGeneration"] = generation
        answer = await self._client.patch(path, body, STRATEGIC_PATCH)
        self._sent = desired
        if version(answer) >= version(self.known):
            self.known = answer

    def _differs(self, desired: Mapping[str, Any]) -> bool:
        """A field that the server dropped or changed is not sent again; a condition or phase that is not ours is."""
        current = self.known.get("status") or {}
        if desired == self._sent:
            return essence(current) != essence(desired)
        return patch(current, desired) != {}


def essence(status: Mapping[str, Any]) -> object:
    """Phase and the statuses of our conditions."""
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or () if c["type"] in OWN_CONDITIONS}
    return status.get("phase"), conditions


def patch(current: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any]:
    """The strategic merge patch from one status to the other; empty when nothing is to change."""
    found: dict[str, Any] = {}
    for key in PLAIN:
        if current.get(key) != desired.get(key):
            found[key] = desired.get(key)
    for key in LISTS:
        wanted = desired.get(key)
        if wanted is not None and not _covers(current.get(key), wanted):
            found[key] = wanted
    old = {c["type"]: c for c in current.get("conditions") or ()}
    changed = [c for c in desired.get("conditions", ()) if not _same_condition(old.get(c["type"]), c)]
    if changed:
        found["conditions"] = [{"reason": None, "message": None, **c} for c in changed]
    return found


def version(item: Object) -> int:
    """Resource versions are numbers that grow (KEP-5504)."""
    text = item["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdigit() else 0


def _same_condition(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    fields = ("status", "reason", "message")
    return old is not None and all((old.get(f) or None) == (new.get(f) or None) for f in fields)


def _covers(current: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; the server adds fields of its own, and leaves out what is empty."""
    if isinstance(wanted, Mapping):
        known = current if isinstance(current, Mapping) else {}
        same_state = not (wanted.keys() & {"waiting", "running", "terminated"}) or known.keys() == wanted.keys()
        return same_state and all(_covers(known.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(current, list) and len(current) == len(wanted) and all(map(_covers, current, wanted))
    return current == wanted or (not current and not wanted)
