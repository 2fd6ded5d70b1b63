"""Pages: never two owners, never lost, the lowest reused first."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from . import toy

made = toy.stack(KV_PAGES=20, PAGE_TOKENS=4)


class Pages(RuleBasedStateMachine):
    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = made.kv_pages.PagePool(20)
        self.all: list = []
        self.highest = 0

    @rule(target=tables)
    def new(self):
        self.all.append(made.kv_pages.PageTable(20))
        return self.all[-1]

    @rule(table=tables, tokens=st.integers(0, 90))
    def grow(self, table, tokens: int) -> None:
        before, free = table.view.tolist(), self.pool.free
        need = -(-tokens // 4)
        worked = self.pool.grow(table, tokens)
        assert worked == (need - len(before) <= free)
        if worked:
            assert table.view.tolist()[: len(before)] == before
            assert table.count == max(len(before), need)
        else:
            assert (table.view.tolist(), self.pool.free) == (before, free)

    @rule(table=tables)
    def release(self, table) -> None:
        self.pool.release(table)
        self.pool.release(table)
        assert table.count == 0

    @invariant()
    def every_page_has_one_owner(self) -> None:
        owned = [page for table in self.all for page in table.view.tolist()]
        assert len(owned) == len(set(owned))
        assert len(owned) + self.pool.free == 20
        assert self.pool.usage == len(owned) / 20

    @invariant()
    def no_page_is_touched_before_it_is_needed(self) -> None:
        owned = [page for table in self.all for page in table.view.tolist()]
        self.highest = max(self.highest, len(owned))
        assert all(page < self.highest for page in owned)


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class PrefixPages(RuleBasedStateMachine):
    """Sequences over an alphabet of two, so that many begin alike; `content` is what was written into each page."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = made.prefix_pages.PrefixPool(12)
        self.held: list = []  # (table, tokens)
        self.content: dict = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def admit(self, tokens) -> None:
        table = made.kv_pages.PageTable(20)
        found = self.pool.attach(table, tokens)
        assert found % 4 == 0 and found < len(tokens)
        for i, page in enumerate(table.view.tolist()):
            assert self.content[page] == tuple(tokens[: 4 * (i + 1)]), "a page of another beginning"
        if not self.pool.grow(table, len(tokens)):
            self.pool.release(table)
            return
        shared = [page for other, _ in self.held for page in other.view.tolist()]
        for i, page in enumerate(table.view.tolist()):
            if i >= found // 4:
                assert page not in shared, "a page to write that another reads"
                self.content[page] = tuple(tokens[: 4 * (i + 1)])
        self.pool.remember(table, tokens, len(tokens))
        self.held.append((table, tokens))

    @rule(which=st.integers(0, 99), damaged=st.booleans())
    def end(self, which: int, damaged: bool) -> None:
        if self.held:
            table, _ = self.held.pop(which % len(self.held))
            if damaged:
                self.pool.forget(table)
            self.pool.release(table)
            self.pool.release(table)

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        owned = {page for table, _ in self.held for page in table.view.tolist()}
        assert len(owned) + self.pool.free == 12


TestPrefixPages = PrefixPages.TestCase
TestPrefixPages.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_what_was_given_back_first_makes_room_first_and_ends_go_before_beginnings() -> None:
    pool = made.prefix_pages.PrefixPool(4)
    for number in (1, 2):
        table = made.kv_pages.PageTable(4)
        assert pool.grow(table, 8)
        pool.remember(table, [number] * 8, 8)
        pool.release(table)

    def found(number: int) -> int:
        table = made.kv_pages.PageTable(4)
        count = pool.attach(table, [number] * 9)
        pool.release(table)
        return count

    assert pool.free == 4
    other = made.kv_pages.PageTable(4)
    assert pool.grow(other, 4)  # takes the end of the first
    assert (found(1), found(2)) == (4, 8)
    assert pool.grow(other, 8)  # the rest of it: it was looked at before the second
    assert (found(1), found(2)) == (0, 8)
