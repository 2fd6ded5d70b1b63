"""Who owns which page of the key/value cache.

Pages are handed out lowest first and the last one freed is reused first, so that a lightly loaded server keeps
touching the same few pages: a sparse cache costs a page fault per first touch, and cold lines afterwards.
"""

import numpy as np
from numpy.typing import NDArray

from . import spec


class PageTable:
    """The pages of one sequence; `view` is what the decoder reads. Grown and emptied only by a `PagePool`."""

    __slots__ = ("_array", "count", "keys", "view")

    def __init__(self, capacity: int) -> None:
        self._array: NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        self.count = 0
        self.view: NDArray[np.int32] = self._array[:0]
        self.keys: list[bytes] = []  # what the full pages at its beginning hold; kept by pools that reuse prefixes

    def append(self, pages: list[int]) -> None:
        end = self.count + len(pages)
        self._array[self.count : end] = pages
        self.count = end
        self.view = self._array[:end]

    def take_all(self) -> list[int]:
        pages: list[int] = self.view.tolist()
        self.count = 0
        self.view = self._array[:0]
        self.keys = []
        return pages


class PagePool:
    """All-or-nothing allocation out of `total` pages of `spec.PAGE_TOKENS` positions each."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """The share of pages in use, 0 to 1."""
        return (self.total - self.free) / self.total

    def grow(self, table: PageTable, tokens: int) -> bool:
        """Make `table` hold `tokens` positions. False, and nothing changed, when there are too few free pages."""
        missing = pages_for(tokens) - table.count
        if missing <= 0:
            return True
        if missing > self.free:
            return False
        table.append([self._take() for _ in range(missing)])
        return True

    def _take(self) -> int:
        return self._free.pop()

    def release(self, table: PageTable) -> None:
        """Take back everything that `table` holds; idempotent."""
        self._free.extend(reversed(table.take_all()))


def pages_for(tokens: int) -> int:
    """How many pages `tokens` positions need."""
    return -(-tokens // spec.PAGE_TOKENS)
