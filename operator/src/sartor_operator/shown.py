"""Numbers of the search as the API shows them."""

from sartor_api.fields import Money
from sartor_api.quantities import DecimalString, Duration
from sartor_api.search.payback import baseline_score
from sartor_api.search.records import BaselineRecord, Cost
from sartor_api.search.records import Speedup as Measured
from sartor_api.search.state import Candidate, RunState
from sartor_api.serving_synthesis import BaselineSummary, BestCandidate, Speedup, Spent


def decimal(value: float, digits: int = 3) -> DecimalString:
    """A number without sign as the API writes it."""
    return DecimalString(f"{max(0.0, value):.{digits}f}")


def shown_speedup(speedup: Measured, *, confirmed: bool = False) -> Speedup:
    """A ratio with its interval, and the three in one for people."""
    text = f"{speedup.value:.2f}× ({speedup.low:.2f}–{speedup.high:.2f}, n={speedup.n})"
    return Speedup(
        value=decimal(speedup.value, 4),
        low=decimal(speedup.low, 4),
        high=decimal(speedup.high, 4),
        replicates=speedup.n,
        text=text,
        confirmed=confirmed,
    )


def shown_best(name: str, candidate: Candidate, confirmed: Measured | None) -> BestCandidate:
    """The best candidate: its confirmed speed-up once there is one, else that of its round."""
    speedup = confirmed or candidate.speedup
    return BestCandidate(
        name=name,
        commit=candidate.commit,
        content_hash=f"sha256:{candidate.content_hash}",
        speedup=shown_speedup(speedup, confirmed=confirmed is not None),
    )


def shown_baseline(record: BaselineRecord, image: str) -> BaselineSummary:
    """The tuned baseline."""
    score = baseline_score(record)
    return BaselineSummary(
        engine=record.engine,
        version=record.version[:256],
        image=image,
        arguments=tuple(argument[:256] for argument in record.arguments[:64]),
        score=None if score is None else decimal(score, 1),
    )


def shown_cost(cost: Cost, *, rounds: int, seconds: float, currency: str | None) -> Spent:
    """A cost with the rounds and the time that go with it; money only where prices are known."""
    return Spent(
        rounds=rounds,
        wall_clock=Duration.of(round(seconds)),
        accelerator_hours=decimal(cost.accelerator_seconds / 3600),
        tokens=cost.tokens,
        money=None if currency is None else Money(amount=decimal(cost.money, 2), currency=currency),
    )


def work_seconds(run: RunState) -> float:
    """Seconds in which steps ran: what counts as wall clock. Waiting for quota or for a human does not."""
    return sum(record.finished - record.started for record in run.records)
