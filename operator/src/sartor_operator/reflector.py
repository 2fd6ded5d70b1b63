"""Keeps the cache like the cluster for one kind: list, then watch, then list again when the watch cannot go on.

Of children (Jobs, pods, ConfigMaps, Secrets, …) only Sartor's own are listed and watched, by label. A list replaces what is
known, so that objects that vanished while nobody watched are noticed. (kopf's watches do neither: see `shell`.)
"""

import asyncio
import logging
from collections.abc import Callable

from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.client import Client
from sartor_operator.errors import ApiError, ExpiredError
from sartor_operator.kinds import Kind

LOG = logging.getLogger(__name__)
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0

Seen = Callable[[Kind], None]
"""Called when a list or an event of a kind came."""


class Reflector:
    """One kind in one namespace (None: all)."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        kind: Kind,
        namespace: str | None,
        *,
        selector: str | None = names.SELECTOR,
        seen: Seen = lambda _kind: None,
    ) -> None:
        self._client = client
        self._cache = cache
        self._kind = kind
        self._namespace = namespace
        self._selector = selector
        self._seen = seen
        self._version: str | None = None

    @property
    def kind(self) -> Kind:
        """What it watches."""
        return self._kind

    async def list(self) -> None:
        """Take the whole list. Raises `ApiError`."""
        found, self._version = await self._client.list(self._kind, self._namespace, self._selector)
        self._cache.replace(self._kind, found, int(self._version))
        self._seen(self._kind)

    async def run(self) -> None:
        """For ever; `list` first, if it was not called."""
        wait = FIRST_WAIT
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            try:
                if self._version is None:
                    await self.list()
                await self._watch()
            except ExpiredError:
                self._version = None
            except ApiError as error:
                if clock() - begun > FIRST_WAIT:
                    wait = FIRST_WAIT  # it worked before it broke
                LOG.warning("watching %s: %s; again in %.1f s", self._kind.plural, error, wait)
                await asyncio.sleep(wait)
                wait = min(LONGEST_WAIT, 2 * wait)
                continue
            if clock() - begun < FIRST_WAIT:
                await asyncio.sleep(FIRST_WAIT)  # a server that ends every watch at once is not run down
            wait = FIRST_WAIT

    async def _watch(self) -> None:
        assert self._version is not None, "a watch goes on from a list"
        async for event, found in self._client.watch(self._kind, self._namespace, self._version, self._selector):
            self._version = str(found["metadata"]["resourceVersion"])
            self._seen(self._kind)
            if event == "DELETED":
                meta = found["metadata"]
                self._cache.remove(
                    self._kind, meta.get("namespace"), meta["name"], meta["uid"], as_of=int(self._version)
                )
            elif event != "BOOKMARK":
                self._cache.put(self._kind, found)
