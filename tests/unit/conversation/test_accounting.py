"""Tokens and money, whatever providers report."""

from decimal import Decimal

import pytest

from sartor_agents.backends.conversation.accounting import Price, TokenUse


@pytest.mark.parametrize(
    ("reported", "use"),
    [
        ({"input": 100, "output": 7, "cached": 64, "reasoning": 3}, TokenUse(100, 64, 7, 3)),
        ({"input": None, "output": "many"}, TokenUse()),
        ({"input": -5, "output": float("nan"), "cached": 9}, TokenUse()),
        ({"input": 10, "output": 2, "cached": 1e30, "reasoning": 50}, TokenUse(10, 0, 2, 2)),
        ({"input": float("inf"), "output": 1}, TokenUse(0, 0, 1, 0)),
    ],
)
def test_nonsense_counts_nothing_and_parts_never_exceed_the_whole(reported: dict[str, object], use: TokenUse) -> None:
    assert TokenUse.reported(**reported) == use  # type: ignore[arg-type]


def test_money_is_exact_and_cached_tokens_have_their_own_price() -> None:
    use = TokenUse(input=1_000_000, cached_input=900_000, output=10_000) + TokenUse(output=90_000)
    assert Price(input=Decimal("1.25"), output=Decimal(10), cached_input=Decimal("0.125")).of(use) == Decimal("1.2375")
    assert Price(input=Decimal("1.25"), output=Decimal(10)).of(use) == Decimal("2.25")
