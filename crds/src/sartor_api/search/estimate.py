"""How long things take: for the budget, for deadlines, and for the person who waits."""

from collections.abc import Sequence
from statistics import fmean

from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import Cost, RunSpec, StepKind
from sartor_api.search.state import Round, RunState

ROUND_STEPS = (StepKind.PLAN, StepKind.IMPLEMENT, StepKind.JUDGE, StepKind.EVALUATE)
"""The steps of one round without a repair, in order."""

ACCELERATED = MEASURING
"""Steps that hold the accelerator."""


def step_seconds(run: RunState, step: StepKind) -> float:
    """What one step of this kind takes: the mean of those that succeeded so far, else the policy's expectation."""
    seen = [r.finished - r.started for r in run.records if r.step is step and r.failure is None]
    return fmean(seen) if seen else run.spec.policy.steps[step].expected_seconds


def held_cost(spec: RunSpec, step: StepKind, seconds: float) -> Cost:
    """What the hardware costs that a step of this kind holds for so long; money only where it has a price."""
    if step not in ACCELERATED:
        return Cost()
    return Cost(
        accelerator_seconds=spec.accelerators * seconds,
        money=0.0 if spec.price_per_hour is None else round(spec.price_per_hour * seconds / 3600, 6),
    )


def step_reserve(run: RunState, step: StepKind) -> Cost:
    """What a step may cost: the policy's reservation (tokens, their price) and the hardware that it is expected to hold."""
    return run.spec.policy.steps[step].reserve + held_cost(run.spec, step, step_seconds(run, step))


def confirmation_reserve(run: RunState) -> Cost:
    """What is kept back of each budget so that what the search finds can be confirmed: the larger of what a confirmation is
    expected to cost and the share that the user set aside, of those budgets that a confirmation draws on at all."""
    needs, budget = step_reserve(run, StepKind.CONFIRM), run.spec.budget

    def kept(need: float, limit: float | None) -> float:
        return max(need, (limit or 0.0) * budget.confirmation_share) if need > 0 else 0.0

    return Cost(
        accelerator_seconds=kept(needs.accelerator_seconds, budget.accelerator_seconds),
        tokens=round(kept(needs.tokens, budget.tokens)),
        money=kept(needs.money, budget.money),
    )


def remaining_steps(current: Round | None) -> tuple[StepKind, ...]:
    """The steps that a round still needs as if nothing failed; all of them for one that was not begun."""
    if current is None or current.plan is None:
        return ROUND_STEPS
    attempt = current.attempts[-1] if current.attempts else None
    if attempt is None or attempt.failure is not None or attempt.implementation is None:
        return ROUND_STEPS[1:]
    return ROUND_STEPS[2:] if attempt.judgement is None else ROUND_STEPS[3:]


def rounds_seconds(run: RunState, rounds: Sequence[Round | None]) -> float:
    """What it takes to end these rounds, worked on side by side and measured one after the other."""
    aside, measured = [0.0], 0.0
    for current in rounds:
        steps = remaining_steps(current)
        aside.append(sum(step_seconds(run, step) for step in steps if step not in ACCELERATED))
        measured += sum(step_seconds(run, step) for step in steps if step in ACCELERATED)
    return max(aside) + measured


def eta_seconds(run: RunState, now: float) -> float:
    """Seconds until the run ends if it uses all its rounds without repairs, within what is left of the wall clock.

    An upper estimate: a target that is met or a plateau ends it sooner. A finished run has 0.
    """
    if run.finished is not None:
        return 0.0
    seconds = step_seconds(run, StepKind.CONFIRM)
    if run.baseline is None:
        seconds += step_seconds(run, StepKind.BASELINE)
    batches, rest = divmod(max(0, run.spec.budget.rounds - run.rounds_used), run.spec.policy.parallelism)
    seconds += rounds_seconds(run, run.open_rounds) + rounds_seconds(run, [None] * rest)
    seconds += batches * rounds_seconds(run, [None] * run.spec.policy.parallelism)
    return max(0.0, min(seconds, run.spec.budget.wall_clock_seconds - run.elapsed(now)))
