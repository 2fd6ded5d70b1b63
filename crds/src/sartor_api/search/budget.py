"""The budget ledger: what was reserved before a step began, and what it turned out to cost.

A step that can cost something is begun only after its worst case was reserved, so a budget cannot be overdrawn by
steps in flight, and a crash between spending and recording loses no money from the books: a reservation that was never
settled is charged in full when the run goes on (`abandon_open`). Every operation is idempotent by the step's id, so
replaying a log, or retrying a write whose answer was lost, changes nothing.
"""

from pydantic import model_validator

from sartor_api.search.records import Budget, Cost, Record

ZERO = Cost()


class Entry(Record):
    """One execution of one step. `settled` is None while it is in flight."""

    id: str
    begun: float
    deadline: float
    reserved: Cost
    settled: Cost | None = None
    abandoned: bool = False

    @property
    def open(self) -> bool:
        return self.settled is None

    @property
    def charged(self) -> Cost:
        """What counts against the budget now."""
        return self.reserved if self.settled is None else self.settled


class Ledger(Record):
    """All executions of a run, in the order in which they began."""

    entries: tuple[Entry, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "Ledger":
        ids = [entry.id for entry in self.entries]
        if len(set(ids)) != len(ids):
            raise ValueError("one step stands in the ledger twice")
        return self

    def find(self, step: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.id == step), None)

    @property
    def in_flight(self) -> tuple[Entry, ...]:
        """The steps that were begun and not settled, in the order in which they began."""
        return tuple(entry for entry in self.entries if entry.open)

    def reserve(self, step: str, cost: Cost, *, now: float, deadline: float) -> "Ledger":
        """Book `cost` for the step before it begins; a second time for the same step changes nothing."""
        if self.find(step) is not None:
            return self
        return Ledger(entries=(*self.entries, Entry(id=step, begun=now, deadline=deadline, reserved=cost)))

    def settle(self, step: str, cost: Cost) -> "Ledger":
        """Replace the reservation by what the step cost; the first settlement stands.

        Raises `KeyError` for a step that was never reserved: something was done outside the books.
        """
        if self.find(step) is None:
            raise KeyError(f"step {step} was never reserved")
        return Ledger(
            entries=tuple(
                entry.model_copy(update={"settled": cost}) if entry.id == step and entry.open else entry
                for entry in self.entries
            )
        )

    def abandon_open(self, only: str | None = None) -> "Ledger":
        """Charge reservations in flight in full, all of them or that of one step: the step was lost, and what it spent is
        unknown."""
        return Ledger(
            entries=tuple(
                entry.model_copy(update={"settled": entry.reserved, "abandoned": True})
                if entry.open and only in (None, entry.id)
                else entry
                for entry in self.entries
            )
        )

    @property
    def spent(self) -> Cost:
        """Settled and reserved together."""
        total = ZERO
        for entry in self.entries:
            total = total + entry.charged
        return total


def shortage(budget: Budget, spent: Cost, wanted: Cost) -> str | None:
    """The first budget that `wanted` would overdraw: `accelerator time`, `tokens`, `money`, or None.

    A budget that is used up exactly is not overdrawn; a step that wants nothing of a budget is never stopped by it.
    """
    limits: tuple[tuple[str, float | None, float, float], ...] = (
        ("accelerator time", budget.accelerator_seconds, spent.accelerator_seconds, wanted.accelerator_seconds),
        ("tokens", budget.tokens, spent.tokens, wanted.tokens),
        ("money", budget.money, spent.money, wanted.money),
    )
    for name, limit, used, more in limits:
        if limit is not None and more > 0 and used + more > limit * (1 + 1e-9):
            return name
    return None
