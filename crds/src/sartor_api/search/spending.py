"""What was spent of each budget, what steps in flight may still spend, and the limit: for people who watch."""

from dataclasses import dataclass

from sartor_api.search.base import Cost
from sartor_api.search.state import RunState


@dataclass(frozen=True)
class Standing:
    """One budget. `reserved` is what the steps in flight may use at most; `limit` None is none."""

    name: str
    spent: float
    reserved: float
    limit: float | None
    unit: str


def standing(run: RunState) -> tuple[Standing, ...]:
    """The budgets that have a limit or of which something was used. Wall clock and rounds are told beside them."""
    spent, reserved = Cost(), Cost()
    for entry in run.ledger.entries:
        if entry.settled is None:
            reserved = reserved + entry.reserved
        else:
            spent = spent + entry.settled
    budget = run.spec.budget
    every = (
        Standing(
            "accelerator", spent.accelerator_seconds, reserved.accelerator_seconds, budget.accelerator_seconds, "s"
        ),
        Standing("tokens", spent.tokens, reserved.tokens, budget.tokens, ""),
        Standing("money", spent.money, reserved.money, budget.money, budget.currency),
    )
    return tuple(one for one in every if one.limit is not None or one.spent or one.reserved)
