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
