"""Who gets how much, in this instant: what the position asks for, within what has ready capacity.

| in this order | the candidate's share |
|---|---|
| the position | that of the step, all once promoting, none on the way back |
| it would rise | only without doubt or pause, to what the candidate has steady capacity for, while the way back is open |
| the candidate has not the capacity for it | what it has capacity for, if the baseline can take the rest |
| it would fall after a promotion | as far as the baseline, scaled down, can take over |
| an arm has nothing ready | none of the traffic, at once; with both so nothing is written |
"""

from sartor_operator.rollout.doubt import baseline_doubt, steady, wanted_share
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position, step_of
from sartor_operator.rollout.route import Shape


def target(observed: RolloutObserved, position: Position, now: float, *, still: bool) -> Shape | None:
    """The route as it should be now; None where it is best left alone. `still`: in doubt, or paused by a human."""
    baseline, candidate = observed.baseline, observed.candidate
    if not (baseline.alive or candidate.alive):
        return None
    if position.stage == "pending" and not (baseline.can_take(100) or (baseline.alive and current_share(observed))):
        return None  # nothing of it has begun; only what somebody else gave to the candidate is taken back
    share = living(observed, capable(observed, position, now, still=still))
    return shaped(observed, position, share, still=still)


def current_share(observed: RolloutObserved) -> int | None:
    """The candidate's per cent in the route as it is; None where there is no route, or it does something else."""
    route = observed.route
    return None if route is None or route.weights is None else route.weights.candidate


def capable(observed: RolloutObserved, position: Position, now: float, *, still: bool) -> int:
    """The candidate's share, moved from where it is only as far as there is capacity."""
    wanted, is_at = wanted_share(observed, position), current_share(observed)
    short = not observed.candidate.can_take(wanted)
    share = min(wanted, observed.candidate.share) if short else wanted
    if share > (is_at or 0) and not may_rise(observed, position, share, now, still=still):
        share = kept(observed, is_at or 0, share)
    had = observed.before.candidate.wanted_weight if is_at is None else is_at
    if share < had and (short or position.promoted is not None):
        # Nobody asked for it, or the baseline may be at its floor: it takes over what it has capacity for.
        share = max(share, min(had, 100 - observed.baseline.share))
    return share


def may_rise(observed: RolloutObserved, position: Position, share: int, now: float, *, still: bool) -> bool:
    """Whether the candidate may get more than it has."""
    if still or not observed.candidate.can_take(share) or not steady(observed, now):
        return False
    return position.promoted is not None or baseline_doubt(observed) is None


def kept(observed: RolloutObserved, is_at: int, share: int) -> int:
    """What stands still: the share that there is, or, where somebody else took it away, the one that was meant. `share` is
    the most that there is capacity for."""
    route = observed.route
    if route is None or not route.touched or not observed.candidate.alive:
        return min(is_at, share)
    return min(max(is_at, observed.before.candidate.wanted_weight), share)


def living(observed: RolloutObserved, share: int) -> int:
    """No weight for an arm with nothing ready, as long as the other one has something."""
    if not observed.candidate.alive:
        return 0
    return share if observed.baseline.alive else 100


def shaped(observed: RolloutObserved, position: Position, share: int, *, still: bool) -> Shape:
    """The whole route around the candidate's share."""
    before = observed.route.shape if observed.route is not None else None
    step = step_of(observed.policy, position.step)
    moving = position.stage in ("steps", "promoting", "promoted")
    both = observed.baseline.alive and observed.candidate.alive
    copied = position.stage == "steps" and both
    mirror = observed.mirror_of(step) if step is not None and copied else 0
    asked = moving and observed.candidate.alive and (position.stage != "steps" or (step is not None and step.asked))
    if still:  # nothing that is new for the candidate
        mirror = min(mirror, before.mirror if before is not None else 0)
        asked = asked and before is not None and before.ask_candidate
    return Shape(
        baseline=100 - share,
        candidate=share,
        mirror=mirror,
        ask_baseline=moving and observed.baseline.alive,
        ask_candidate=asked,
        baseline_there=observed.baseline.there,
        candidate_there=observed.candidate.there,
        timeouts=observed.timeouts,
        retry=observed.retries,
        sticky=observed.policy.sticky_sessions is not None,
        # Also where all stands still: its samples are what may end that, and it bounds what it asks of the arms.
        probe=observed.copies_to if copied else "",
    )
