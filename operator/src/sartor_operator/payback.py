"""Payback as the status shows it. What a search takes and can bring is computed in `sartor_api.search.payback` alone."""

from datetime import timedelta

from sartor_api.fields import Money
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.payback import DAY, Prospect, baseline_score, daily_price, prospect, required
from sartor_api.search.records import RunSpec, Speedup
from sartor_api.search.state import RunState
from sartor_api.serving_synthesis import PaybackSummary, ServingSynthesisSpec
from sartor_operator.shown import decimal
from sartor_operator.times import at

__all__ = ["Prospect", "payback", "prospect", "required"]

_ENDLESS_DAYS = 36500.0


def payback(
    wanted: ServingSynthesisSpec,
    hardware: HardwareTargetSpec,
    spec: RunSpec | None,
    run: RunState | None,
    *,
    cost: Money | None,
    speedup: Speedup | None,
    ended: bool = False,
    score: float | None = None,
) -> PaybackSummary | None:
    """What is known of it; None while no price is known. `cost` is what was spent so far (None: nothing has begun)."""
    price = hardware.price_per_hour
    if price is None:
        return None
    traffic = wanted.payback.output_tokens_per_day
    if traffic is None:
        return PaybackSummary(cost=cost, message="unknown: set spec.payback.outputTokensPerDay to say what is served")
    if ended and speedup is None:
        return PaybackSummary(cost=cost, pays=False, message="the search ended without a stack that saves anything")
    measured = baseline_score(run.baseline) if run is not None and run.baseline is not None else None
    if not measured or speedup is None or run is None or cost is None:
        return _forecast(prospect(wanted, hardware, spec, run, score=score) if spec is not None else None, cost)
    per_day = daily_price(float(traffic.number), measured, float(price.amount.number), 1) * max(
        0.0, 1 - 1 / speedup.low
    )
    saved = Money(amount=decimal(per_day, 2), currency=cost.currency)
    if per_day <= 0:
        return PaybackSummary(cost=cost, saved_per_day=saved, pays=False, message="the stack saves nothing")
    days = float(cost.amount.number) / per_day
    limit = wanted.payback.within.timedelta
    pays = timedelta(days=min(days, _ENDLESS_DAYS)) <= limit
    last = max((record.finished for record in run.records), default=0.0)
    text = f"earned back after {days:.1f} days, asked were {limit.total_seconds() / DAY:.0f}"
    return PaybackSummary(
        cost=cost,
        saved_per_day=saved,
        earned_back_at=at(last + min(days, _ENDLESS_DAYS) * DAY),
        pays=pays,
        message=text,
    )


def _forecast(ahead: Prospect | None, cost: Money | None) -> PaybackSummary:
    """Before anything was measured: whether it can pay is known only where it cannot."""
    if ahead is None:
        return PaybackSummary(cost=cost, message="unknown until a candidate was measured")
    planned = Money(amount=decimal(ahead.most, 2), currency=ahead.currency)
    pays = False if ahead.hopeless else None
    return PaybackSummary(cost=planned, pays=pays, message=f"expected: {ahead}"[:4096])
