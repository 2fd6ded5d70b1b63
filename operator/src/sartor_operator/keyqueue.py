"""The queue of keys: what has to be looked at, each key by one worker at a time, with times to wake and back-off.

A key that is added while a worker has it is looked at again afterwards; one that waits already is not added twice. So a
storm of events is one look, and no two looks at one object ever run at the same time. Nothing here has to survive: after a
restart every key is added anew.

What cannot wait (a human's abort, an arm that is lost) is added as `first`, and overtakes whatever waits. A worker may take
nothing else, so that it is free for that; and other queues' workers can let it pass (`calm`).
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 60.0
_SLACK = 100


class KeyQueue(Generic[K]):
    """`clock` gives monotonic seconds; it is also what wake times are in."""

    def __init__(self, clock: Callable[[], float], *, longest_backoff: float = LONGEST_BACKOFF) -> None:
        self._clock = clock
        self._longest = longest_backoff
        self._urgent: OrderedDict[K, None] = OrderedDict()
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._at_work: set[K] = set()
        self._again: dict[K, bool] = {}
        """Keys that were added while a worker had them, and whether they come first."""
        self._wakes: list[tuple[float, int, K]] = []
        self._wake_of: dict[K, float] = {}
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._added: dict[K, float] = {}
        self._change = asyncio.Event()
        self._pressing: set[K] = set()
        """Keys that were added as first, and have not been looked at yet."""
        self._calm = asyncio.Event()
        self._calm.set()

    def __len__(self) -> int:
        """Keys that are ready and wait for a worker."""
        return len(self._urgent) + len(self._ready)

    def add(self, key: K, *, first: bool = False) -> None:
        """Look at this key as soon as a worker is free; with `first` before all keys that were added without."""
        if first:
            self._pressing.add(key)
            self._calm.clear()
        if key in self._at_work:
            self._again[key] = first or self._again.get(key, False)
            return
        if key in self._urgent or (key in self._ready and not first):
            return
        self._ready.pop(key, None)
        (self._urgent if first else self._ready)[key] = None
        self._added.setdefault(key, self._clock())
        self._change.set()

    def add_at(self, key: K, moment: float) -> None:
        """Look at this key at `moment`, or before; an earlier wake time stays."""
        known = self._wake_of.get(key)
        if known is not None and known <= moment:
            return
        self._wake_of[key] = moment
        heapq.heappush(self._wakes, (moment, next(self._order), key))
        if len(self._wakes) > 2 * len(self._wake_of) + _SLACK:
            self._compact()
        self._change.set()

    async def calm(self) -> None:
        """Wait until nothing is left of what was added as first."""
        await self._calm.wait()

    async def take(self, *, only_first: bool = False) -> K:
        """The next key; it is this worker's until `done`. `only_first`: nothing but what was added as first."""
        while True:
            self._wake()
            if queue := self._urgent or (None if only_first else self._ready):
                key, _ = queue.popitem(last=False)
                self._at_work.add(key)
                self._wake_of.pop(key, None)
                return key
            self._change.clear()
            delay = max(0.0, self._wakes[0][0] - self._clock()) if self._wakes else None
            try:
                await asyncio.wait_for(self._change.wait(), delay)
            except TimeoutError:
                continue  # a wake time has come

    def _wake(self) -> None:
        now = self._clock()
        while self._wakes and self._wakes[0][0] <= now:
            moment, _, key = heapq.heappop(self._wakes)
            if self._wake_of.get(key) == moment:
                del self._wake_of[key]
                self.add(key)

    def _compact(self) -> None:
        """Drop wake times that an earlier look made void; most lie hours ahead (deadlines), and would pile up until then."""
        self._wakes = [wake for wake in self._wakes if self._wake_of.get(wake[2]) == wake[0]]
        heapq.heapify(self._wakes)

    def waited(self, key: K) -> float:
        """Seconds from when the key became ready until now; asked once, by its worker."""
        return self._clock() - self._added.pop(key, self._clock())

    def done(self, key: K, *, wake_at: float | None = None) -> None:
        """The look succeeded."""
        self._failures.pop(key, None)
        self._finish(key)
        if wake_at is not None:
            self.add_at(key, wake_at)

    def failed(self, key: K) -> float:
        """The look failed: it is repeated after a back-off that doubles. Returns the seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        # The exponent is bounded, too: after a day of failures the power would not fit into a float.
        delay = min(self._longest, FIRST_BACKOFF * 2 ** min(count, 16))
        if not self._again.get(key, False):
            self._again.pop(key, None)  # news do not shorten a back-off, unless they are urgent: that would be a storm
        self._finish(key)
        self.add_at(key, self._clock() + delay)
        return delay

    def _finish(self, key: K) -> None:
        self._at_work.discard(key)
        first = self._again.pop(key, None)
        if not first:
            self._pressing.discard(key)
        if first is not None:
            self.add(key, first=first)
        if not self._pressing:
            self._calm.set()
