"""Pages whose keys and values outlive their sequence, for the next one that begins with the same tokens.

A full page is known by a digest of everything up to its end (as in vLLM's automatic prefix caching), so it can
stand only where all tokens before it are the same. It is never written again, hence may be read by several
sequences at once. A page that nobody reads stays until its place is needed: the one that was given back first goes
first, the end of a sequence before its beginning.
"""

import hashlib
from array import array
from collections import OrderedDict

from . import spec
from .kv_pages import PagePool, PageTable


class PrefixPool(PagePool):
    """A `PagePool` that remembers what full pages hold. A page belongs to whoever holds it, and is counted once."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._holders = [0] * total
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered, and held by nobody

    @property
    def free(self) -> int:
        return len(self._free) + len(self._idle)

    def attach(self, table: PageTable, tokens: list[int]) -> int:
        """Give the empty `table` the pages that hold the beginning of `tokens`; how many tokens that is.

        At least one token is left over: the next one follows from its row.
        """
        found: list[int] = []
        key = b""
        for first in range(0, len(tokens) - spec.PAGE_TOKENS, spec.PAGE_TOKENS):
            key = _key(key, tokens[first : first + spec.PAGE_TOKENS])
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
            table.keys.append(key)
        for page in found:
            self._idle.pop(page, None)
            self._holders[page] += 1
        table.append(found)
        return len(found) * spec.PAGE_TOKENS

    def remember(self, table: PageTable, tokens: list[int], computed: int) -> None:
        """Keys and values of `tokens[:computed]` are in the pages of `table`: full ones may be found from now on."""
        while len(table.keys) < computed // spec.PAGE_TOKENS:
            first = len(table.keys) * spec.PAGE_TOKENS
            key = _key(table.keys[-1] if table.keys else b"", tokens[first : first + spec.PAGE_TOKENS])
            page = int(table.view[len(table.keys)])
            table.keys.append(key)
            if key not in self._page_of:
                self._page_of[key] = page
                self._key_of[page] = key

    def forget(self, table: PageTable) -> None:
        """Nobody shall find what `table` holds: it is damaged."""
        for page in table.view.tolist():
            key = self._key_of.pop(page, None)
            if key is not None:
                del self._page_of[key]

    def release(self, table: PageTable) -> None:
        """Give back everything that `table` holds; idempotent."""
        for page in reversed(table.take_all()):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._key_of:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._holders[page] = 1
        return page


def _key(before: bytes, tokens: list[int]) -> bytes:
    return hashlib.blake2b(before + array("i", tokens).tobytes(), digest_size=16).digest()
