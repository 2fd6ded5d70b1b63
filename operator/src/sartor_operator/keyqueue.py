"""The queue of keys: what has to be looked at, each key by one worker at a time, with times to wake and back-off.

A key that is added while a worker has it is looked at again afterwards; one that waits already is not added twice. So a
storm of events is one look, and no two looks at one object ever run at the same time. Nothing here has to survive: after a
restart every key is added anew.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF, LONGEST_BACKOFF = 0.25, 60.0
_SLACK = 100


class KeyQueue(Generic[K]):
    """`clock` gives monotonic seconds; it is also what wake times are in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._at_work: set[K] = set()
        self._again: set[K] = set()
        self._wakes: list[tuple[float, int, K]] = []
        self._wake_of: dict[K, float] = {}
        self._order = itertools.count()
        self._failures: dict[K, int] = {}
        self._added: dict[K, float] = {}
        self._change = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are ready and wait for a worker."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Look at this key as soon as a worker is free."""
        if key in self._at_work:
            self._again.add(key)
            return
        if key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
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

    async def take(self) -> K:
        """The next key; it is this worker's until `done`."""
        while True:
            self._wake()
            if self._ready:
                key = self._ready.popleft()
                self._waiting.discard(key)
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
        delay = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(count, 16))
        self._again.discard(key)  # news do not shorten a back-off: they would turn a failure into a storm
        self._finish(key)
        self.add_at(key, self._clock() + delay)
        return delay

    def _finish(self, key: K) -> None:
        self._at_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
