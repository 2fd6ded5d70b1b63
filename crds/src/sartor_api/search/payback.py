"""Whether a search earns back what it costs, at the traffic that is to be served. The only place that computes it.

A replica of the baseline that serves T output tokens per second at P per hour costs P/(3600·T) a token. A stack that is s
times as fast needs 1/s of the hardware, so each token saves the share 1 - 1/s of that. The lower end of the interval
counts, not the value.

Before a candidate was measured nobody knows s, but what can be saved at most is known: the whole price of the traffic
(the share 1 - 1/`targetSpeedup` of it, where the search stops at a target). Before the baseline was measured T is unknown,
too; then the price of the baseline's replicas bounds it. A search cannot pay when the least that it takes to go on
(baseline, one round, confirmation) costs more than that in the time set.
"""

from dataclasses import dataclass

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.estimate import ACCELERATED, ROUND_STEPS, step_seconds
from sartor_api.search.records import BaselineRecord, RunSpec, Speedup, StepKind
from sartor_api.search.state import RunState
from sartor_api.serving_synthesis import ServingSynthesisSpec

DAY = 86400.0
"""Seconds."""
_HELD_ROUND = tuple(step for step in ROUND_STEPS if step in ACCELERATED)


def baseline_score(record: BaselineRecord) -> float | None:
    """The objective's metric of the chosen setting."""
    return next((point.metric for point in record.grid if point.name == record.chosen), None)


@dataclass(frozen=True)
class Prospect:
    """What a search takes and what it can bring, in the currency of the hardware's price.

    `least` is what must be spent until one candidate is confirmed, `most` what the search comes to with all its rounds
    (both with what is spent already), `daily` what can be saved in a day at most.
    """

    least: float
    most: float
    daily: float
    days: float
    currency: str

    @property
    def hopeless(self) -> bool:
        """Whether it cannot pay, however fast a stack it finds."""
        return self.least > self.daily * self.days

    def __str__(self) -> str:
        """The comparison in a sentence."""
        able = "cannot" if self.hopeless else "can"
        return (
            f"at most {self.daily:.2f} {self.currency} a day can be saved, {self.daily * self.days:.2f} within "
            f"{self.days:.0f} days; the search takes {self.least:.2f} at least, {self.most:.2f} with all its rounds: "
            f"it {able} pay"
        )


def prospect(
    wanted: ServingSynthesisSpec,
    hardware: HardwareTargetSpec,
    spec: RunSpec,
    run: RunState | None,
    *,
    score: float | None = None,
) -> Prospect | None:
    """What a search can come to; None while price or traffic are not known.

    `run` None: it has not begun. `score` is the baseline's throughput where an earlier run of the same intent measured it.
    Seconds of steps are those of the run so far, before it those that the preset expects.
    """
    price, traffic = hardware.price_per_hour, wanted.payback.output_tokens_per_day
    if price is None or traffic is None:
        return None
    hourly = float(price.amount.number)

    def cost(*steps: StepKind) -> float:
        seconds = (step_seconds(run, s) if run is not None else spec.policy.steps[s].expected_seconds for s in steps)
        return sum(seconds) / 3600 * hourly

    spent = sum(record.cost.money for record in run.records) if run is not None else 0.0
    measured = run is not None and run.baseline is not None
    begun = len(run.rounds) if run is not None else 0
    first = 0.0 if measured else cost(StepKind.BASELINE)
    one, confirmation = cost(*_HELD_ROUND), cost(StepKind.CONFIRM)
    left = max(0, spec.budget.rounds - begun)
    most = spent + first + left * one + confirmation
    if spec.budget.money is not None and spec.budget.currency == price.currency:
        most = min(most, max(spent, spec.budget.money))
    found = baseline_score(run.baseline) if run is not None and run.baseline is not None else None
    full = daily_price(float(traffic.number), found or score, hourly, wanted.baseline.replicas)
    target = wanted.objective.target_speedup
    return Prospect(
        least=spent + first + one + confirmation,
        most=max(most, spent),
        daily=full * (1.0 if target is None else 1 - 1 / float(target.number)),
        days=wanted.payback.within.seconds / DAY,
        currency=price.currency,
    )


def daily_price(traffic: float, score: float | None, hourly: float, replicas: int) -> float:
    """Price of a day's traffic on the baseline. Without its throughput: of the replicas that serve it."""
    return traffic / score / 3600 * hourly if score else replicas * 24 * hourly


def earned_back(
    wanted: ServingSynthesisSpec, hardware: HardwareTargetSpec, run: RunState, speedup: Speedup
) -> str | None:
    """When a stack that is so much faster has earned back what was spent, in a sentence; None while something is unknown."""
    price, traffic = hardware.price_per_hour, wanted.payback.output_tokens_per_day
    score = baseline_score(run.baseline) if run.baseline is not None else None
    if price is None or traffic is None or not score:
        return None
    share = max(0.0, 1 - 1 / speedup.low)
    saved = daily_price(float(traffic.number), score, float(price.amount.number), 1) * share
    spent = sum(record.cost.money for record in run.records)
    if saved <= 0:
        return f"{spent:.2f} {price.currency} spent; the stack saves nothing"
    return (
        f"{spent:.2f} {price.currency} spent, {saved:.2f} a day saved: earned back after {spent / saved:.1f} days, "
        f"asked were {wanted.payback.within.seconds / DAY:.0f}"
    )


def required(
    wanted: ServingSynthesisSpec,
    hardware: HardwareTargetSpec,
    spec: RunSpec,
    run: RunState | None,
    *,
    score: float | None = None,
) -> str | None:
    """Why `payback.policy: require` forbids to begin the search, or its next round; None when it does not."""
    if wanted.payback.policy != "require":
        return None
    ahead = prospect(wanted, hardware, spec, run, score=score)
    return str(ahead) if ahead is not None and ahead.hopeless else None
