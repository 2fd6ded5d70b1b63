"""A list that is kept up to date by a watch, resumed where it broke off and begun anew when the server has forgotten.

The store holds the newest object that was seen of each name. While the server cannot be reached it keeps what it has: that
a thing was not seen for a while does not mean that it is gone.
"""

import asyncio
import logging
from collections.abc import Callable

from sartor_runner.api.client import ApiClient, Object
from sartor_runner.api.errors import ApiError, ExpiredError, UnreachableError

logger = logging.getLogger(__name__)

FIRST_DELAY, MAXIMUM_DELAY = 0.25, 15.0
PAGE = "500"

Key = tuple[str, str]


def key(item: Object) -> Key:
    """(namespace, name)."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class Informer:
    """`changed(object)` and `removed(object)` are called from the event loop, in the order of the events."""

    def __init__(
        self,
        client: ApiClient,
        path: str,
        *,
        field_selector: str = "",
        changed: Callable[[Object], None] = lambda _: None,
        removed: Callable[[Object], None] = lambda _: None,
    ) -> None:
        self.store: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        self._client, self._path = client, path
        self._selector = {"fieldSelector": field_selector} if field_selector else {}
        self._changed, self._removed = changed, removed
        self._version = ""

    async def run(self) -> None:
        """For ever; ends by cancellation only."""
        delay = FIRST_DELAY
        while True:
            try:
                if not self._version:
                    await self._list()
                before = self._version
                await self._watch()
                delay = FIRST_DELAY
                if self._version == before:
                    await asyncio.sleep(FIRST_DELAY)  # a server that ends streams at once is not asked in a circle
            except ExpiredError:
                self._version = ""
            except (UnreachableError, ApiError) as error:
                logger.warning("%s: %s; trying again in %.1f s", self._path, error, delay)
                if isinstance(error, ApiError) and error.status == 410:
                    self._version = ""
                wait = error.retry_after if isinstance(error, ApiError) and error.retry_after else delay
                await asyncio.sleep(wait)
                delay = min(delay * 2, MAXIMUM_DELAY)

    async def _list(self) -> None:
        found: dict[Key, Object] = {}
        following = ""
        while True:
            more = {"continue": following} if following else {}
            page = await self._client.get(self._path, limit=PAGE, **self._selector, **more)
            found.update((key(item), _slim(item)) for item in page.get("items") or ())
            following = page["metadata"].get("continue") or ""
            if not following:
                break
        for name, item in list(self.store.items()):
            new = found.get(name)
            if new is None or new["metadata"].get("uid") != item["metadata"].get("uid"):
                del self.store[name]
                self._removed(item)
        for name, item in found.items():
            if (
                self.store.get(name, {}).get("metadata", {}).get("resourceVersion")
                != item["metadata"]["resourceVersion"]
            ):
                self.store[name] = item
                self._changed(item)
        self._version = page["metadata"]["resourceVersion"]
        self.synced.set()

    async def _watch(self) -> None:
        async for kind, item in self._client.watch(self._path, self._version, **self._selector):
            self._version = item["metadata"]["resourceVersion"]
            _slim(item)
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                self.store.pop(key(item), None)
                self._removed(item)
            else:
                old = self.store.get(key(item))
                if old is not None and old["metadata"].get("uid") != item["metadata"].get("uid"):
                    self._removed(old)
                self.store[key(item)] = item
                self._changed(item)


def _slim(item: Object) -> Object:
    """Without the record of who set which field, which is as large as the object and of no use here."""
    item["metadata"].pop("managedFields", None)
    return item
