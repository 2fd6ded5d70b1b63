"""Events about pods and the node, as `kubectl describe` shows them.

The same event again raises the count of the first one, and that only at 2, 4, 8, … times, so that a probe that fails
every second for a day makes 17 writes and not 86,400. An event that the server does not take is dropped: they are for
people, nothing rests on them.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sartor_runner.api.client import ApiClient
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.core.times import rfc3339

logger = logging.getLogger(__name__)

REMEMBERED = 1000
QUEUE = 1000
MESSAGE_LIMIT = 1024


@dataclass(frozen=True)
class Subject:
    """What an event is about. `field`: the container, as `spec.containers{NAME}`."""

    kind: str
    namespace: str
    name: str
    uid: str
    field: str = ""

    def reference(self) -> dict[str, str]:
        found = {"kind": self.kind, "apiVersion": "v1", "name": self.name, "uid": self.uid}
        if self.namespace:
            found["namespace"] = self.namespace
        return found | ({"fieldPath": self.field} if self.field else {})


@dataclass
class _Seen:
    name: str
    namespace: str
    first: float
    count: int = 1


class Events:
    """`emit` returns at once; `run` sends."""

    def __init__(self, client: ApiClient, node: str, clock: Callable[[], float]) -> None:
        self._client, self._node, self._clock = client, node, clock
        self._seen: OrderedDict[tuple[Subject, str, str], _Seen] = OrderedDict()
        self._queue: asyncio.Queue[tuple[str, str, Mapping[str, Any]]] = asyncio.Queue(QUEUE)

    def emit(self, subject: Subject, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Counts the event, and has it sent unless the like of it was sent lately."""
        now, message = self._clock(), message[:MESSAGE_LIMIT]
        key = (subject, reason, message)
        seen = self._seen.get(key)
        if seen is None:
            namespace = subject.namespace or "default"
            seen = _Seen(f"{subject.name}.{int(now * 1e6):x}{len(self._seen) % 256:02x}", namespace, now)
            self._seen[key] = seen
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            self._put("create", seen, self._event(subject, kind, reason, message, seen, now))
            return
        seen.count += 1
        self._seen.move_to_end(key)
        if seen.count & (seen.count - 1) == 0:
            self._put("patch", seen, {"count": seen.count, "lastTimestamp": rfc3339(now)})

    async def run(self) -> None:
        """For ever; ends by cancellation only."""
        while True:
            verb, path, body = await self._queue.get()
            try:
                if verb == "create":
                    await self._client.create(path, body)
                else:
                    await self._client.patch(path, body)
            except (ApiError, UnreachableError) as error:
                logger.debug("an event was not taken: %s", error)

    def _put(self, verb: str, seen: _Seen, body: Mapping[str, Any]) -> None:
        path = f"/api/v1/namespaces/{seen.namespace}/events"
        try:
            self._queue.put_nowait((verb, path if verb == "create" else f"{path}/{seen.name}", body))
        except asyncio.QueueFull:
            logger.debug("an event was dropped: %d wait to be sent", QUEUE)

    def _event(
        self, subject: Subject, kind: str, reason: str, message: str, seen: _Seen, now: float
    ) -> Mapping[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": seen.name, "namespace": seen.namespace},
            "involvedObject": subject.reference(),
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "sartor-runner", "host": self._node},
            "reportingComponent": "sartor-runner",
            "reportingInstance": self._node,
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
            "count": 1,
        }
