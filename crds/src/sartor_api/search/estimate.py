"""How long things take: for the budget, for deadlines, and for the person who waits."""

from statistics import fmean

from sartor_api.search.records import Cost, StepKind
from sartor_api.search.state import RunState

ROUND_STEPS = (StepKind.PLAN, StepKind.IMPLEMENT, StepKind.JUDGE, StepKind.EVALUATE)
"""The steps of one round without a repair, in order."""

ACCELERATED = frozenset({StepKind.BASELINE, StepKind.JUDGE, StepKind.EVALUATE, StepKind.CONFIRM})
"""Steps that hold the accelerator."""


def step_seconds(run: RunState, step: StepKind) -> float:
    """What one step of this kind takes: the mean of those that succeeded so far, else the policy's expectation."""
    seen = [r.finished - r.started for r in run.records if r.step is step and r.failure is None]
    return fmean(seen) if seen else run.spec.policy.steps[step].expected_seconds


def step_reserve(run: RunState, step: StepKind) -> Cost:
    """What a step may cost: the policy's reservation and the accelerator time that it is expected to hold."""
    cost = run.spec.policy.steps[step].reserve
    if step not in ACCELERATED or not run.spec.accelerators:
        return cost
    return cost + Cost(accelerator_seconds=run.spec.accelerators * step_seconds(run, step))


def remaining_steps(run: RunState) -> tuple[StepKind, ...]:
    """The steps that the open round (or the next one) still needs, as if nothing failed."""
    current = run.open_round
    if current is None or current.plan is None:
        return ROUND_STEPS
    attempt = current.attempts[-1] if current.attempts else None
    if attempt is None or attempt.failure is not None or attempt.implementation is None:
        return ROUND_STEPS[1:]
    return ROUND_STEPS[2:] if attempt.judgement is None else ROUND_STEPS[3:]


def eta_seconds(run: RunState, now: float) -> float:
    """Seconds until the run ends if it uses all its rounds without repairs, within what is left of the wall clock.

    An upper estimate: a target that is met or a plateau ends it sooner. A finished run has 0.
    """
    if run.finished is not None:
        return 0.0
    seconds = step_seconds(run, StepKind.CONFIRM)
    if run.baseline is None:
        seconds += step_seconds(run, StepKind.BASELINE)
    one_round = sum(step_seconds(run, step) for step in ROUND_STEPS)
    rounds_left = max(0, run.spec.budget.rounds - len(run.closed_rounds))
    if run.open_round is not None and rounds_left:
        seconds += sum(step_seconds(run, step) for step in remaining_steps(run)) - one_round
    seconds += rounds_left * one_round
    return max(0.0, min(seconds, run.spec.budget.wall_clock_seconds - run.elapsed(now)))
