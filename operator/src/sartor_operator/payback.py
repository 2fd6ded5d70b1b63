"""Whether a search earns back what it costs, at the traffic that is to be served.

A replica of the baseline that serves T output tokens per second at P per hour costs P/(3600·T) a token. A stack that is s
times as fast needs 1/s of the hardware, so each token saves the share 1 - 1/s of that. The lower end of the interval
counts, not the value.
"""

from datetime import timedelta

from sartor_api.fields import Money
from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.records import Speedup
from sartor_api.search.state import RunState
from sartor_api.serving_synthesis import PaybackSummary, ServingSynthesisSpec
from sartor_operator.shown import baseline_score, decimal
from sartor_operator.times import at


def payback(
    spec: ServingSynthesisSpec,
    hardware: HardwareTargetSpec,
    run: RunState | None,
    *,
    cost: Money | None,
    speedup: Speedup | None,
) -> PaybackSummary | None:
    """What is known of it; None while no price is known."""
    if cost is None or hardware.price_per_hour is None:
        return None
    traffic = spec.payback.output_tokens_per_day
    score = baseline_score(run.baseline) if run is not None and run.baseline is not None else None
    if traffic is None:
        return PaybackSummary(cost=cost, message="unknown: set spec.payback.outputTokensPerDay to say what is served")
    if not score or speedup is None or run is None:
        return PaybackSummary(cost=cost, message="unknown until a candidate was measured")
    price = float(hardware.price_per_hour.amount.number)
    per_day = float(traffic.number) / score / 3600 * price * max(0.0, 1 - 1 / speedup.low)
    saved = Money(amount=decimal(per_day, 2), currency=cost.currency)
    if per_day <= 0:
        return PaybackSummary(cost=cost, saved_per_day=saved, pays=False, message="the stack saves nothing")
    days = float(cost.amount.number) / per_day
    limit = spec.payback.within.timedelta
    pays = timedelta(days=min(days, 36500)) <= limit
    ended = max((record.finished for record in run.records), default=0.0)
    text = f"earned back after {days:.1f} days, asked were {limit.total_seconds() / 86400:.0f}"
    return PaybackSummary(
        cost=cost,
        saved_per_day=saved,
        earned_back_at=at(ended + min(days, 36500) * 86400),
        pays=pays,
        message=text,
    )
