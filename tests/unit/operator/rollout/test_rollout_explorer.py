"""Everything that can happen to a rollout, to a stated depth, and at random beyond: no write breaks an invariant.

From each seed (a place worth starting from) every interleaving of `DEPTH` happenings is tried: the operator's looks, each of
its writes, its being killed, and 38 kinds of events. `test-exhaustive` goes on to `DEEP`, and once more with looks whose
writes are not parted, so that more events fit into a trace. The faults below show that the search finds what it is to find.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import rollout_explorer as explorer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_explorer import EVENTS, SIZE, ViolationError, World, explore, land, look, rest, seeds, words

from sartor_api.serving_rollout import RolloutControl, RolloutPhase
from sartor_operator.actions import Decision
from sartor_operator.rollout import control, decide, doubt, position, progress, scaling, weights
from sartor_operator.rollout.observed import RolloutObserved
from sartor_operator.rollout.position import Position
from sartor_operator.rollout.samples import Outage

DEPTH = 3
DEEP = 4
SEEDS = seeds()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_interleaving_breaks_an_invariant(seed: str) -> None:
    found = explore(SEEDS[seed], DEPTH)
    assert found.states > 100, found


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", SEEDS)
def test_no_deep_interleaving_breaks_an_invariant(seed: str) -> None:
    for whole in (False, True):
        found = explore(SEEDS[seed], DEEP, whole=whole)
        print(seed, "looks with their writes" if whole else "every write", found)


# --- random schedules -----------------------------------------------------------------------------------------------

_NAMES = tuple(EVENTS)


def happens(world: World, number: int, way: list[str]) -> World:
    """One thing, chosen by a number: two of three times the operator gets on."""
    if world.queue and number % 3:
        what = f"write: {words(world.queue[0])}"
        after, broken = land(world)
        way.append(what)
        if broken:
            raise ViolationError("\n".join([*way, *broken]))
        return after
    if world.queue and number % 30 == 0:
        way.append("the operator is killed")
        return replace(world, queue=(), seen=None)
    if not world.queue and number % 3:
        way.append("the operator looks")
        return look(world)
    what = _NAMES[number // 3 % len(_NAMES)]
    changed = EVENTS[what](world)
    if changed is None:
        return world
    way.append(what)
    return replace(changed, disturbed=True) if world.queue else changed


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(sorted(SEEDS)),
    numbers=st.lists(st.integers(min_value=0, max_value=3 * len(EVENTS) - 1), min_size=20, max_size=120),
)
def test_no_random_schedule_breaks_an_invariant_and_each_comes_to_rest(seed: str, numbers: list[int]) -> None:
    world, way = SEEDS[seed], list[str]()
    for number in numbers:
        if world.gone:
            return
        world = happens(world, number, way)
    if world.gone:
        return
    calm = replace(world, queue=(), seen=None, baseline=world.replicas, candidate=SIZE, outage="", edits=0)
    for _ in range(4):  # a baseline that is brought back gets ready
        calm = rest(replace(calm, now=calm.now + 61, baseline=calm.replicas))
        if calm.gone:
            return
    if calm.control.abort:
        assert calm.status.phase is RolloutPhase.ROLLED_BACK or calm.rejected or calm.status.finished_at is not None


# --- planted faults -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A decider with one thing wrong: attributes that are replaced, and where it shows. `depth`: of the shortest trace."""

    seed: str
    depth: int
    replaced: tuple[tuple[Any, str, Any], ...]
    says: str


def _believes_too_early(observed: RolloutObserved, shape: Any) -> bool:
    route = observed.route
    return shape is not None and route is not None and route.shape == shape


def _any_verdict(observed: RolloutObserved, _position: Position) -> Any:
    return observed.reading.verdict


def _error_is_a_pass(observed: RolloutObserved, at: Position) -> Any:
    verdict = doubt.about_this_step(observed, at)
    good = verdict is not None and verdict.outcome == "error"
    return verdict.model_copy(update={"outcome": "pass"}) if verdict is not None and good else verdict


def _pause_first(wishes: RolloutControl, at: Position) -> Any:
    return "pause" if wishes.pause else control.command_of(wishes, at)


def _whatever_is_wanted(observed: RolloutObserved, at: Position, _now: float, *, still: bool) -> int:
    return doubt.wanted_share(observed, at)


def _goes_at_once(observed: RolloutObserved, _since: float, _now: float) -> Decision:
    return Decision((decide._finalizer(observed, present=False),))


def _too_much(observed: RolloutObserved, at: Position, share: int, *, still: bool) -> Any:
    return replace(_SHAPED(observed, at, share, still=still), baseline=100)


def _begins_with_the_copies(observed: RolloutObserved, at: Position, step: Any, shape: Any, now: float) -> Position:
    return (
        _BEGUN(observed, at, step, shape, now) if progress.settled(observed, shape) else replace(at, step_started=None)
    )


def _copies_for_ever(observed: RolloutObserved, at: Position, share: int, *, still: bool) -> Any:
    return replace(_SHAPED(observed, at, share, still=still), probe=observed.copies_to)


def _whatever_they_say(observed: RolloutObserved, outage: Outage | None) -> RolloutObserved:
    if outage is None:
        return observed
    seen = replace(getattr(observed, outage.arm), unreachable=outage.message)
    return replace(observed, outage=outage, **{outage.arm: seen})


def _only_told(observed: RolloutObserved, outage: Outage | None) -> RolloutObserved:
    return replace(observed, outage=outage)


_SHAPED, _BEGUN = weights.shaped, progress._begun
_NOTHING: Callable[..., None] = lambda *_a, **_k: None  # noqa: E731
_YES: Callable[..., bool] = lambda *_a, **_k: True  # noqa: E731

FAULTS: dict[str, Fault] = {
    "a lost arm keeps its weight": Fault(
        "weight 20", 3, ((weights, "living", lambda _o, share: share),), "nothing ready"
    ),
    "an arm that cannot be reached keeps its weight": Fault(
        "weight 20", 2, ((explorer, "with_outage", _only_told),), "cannot connect to the candidate"
    ),
    "a suspicion takes the place of knowledge": Fault(
        "candidate lost, baseline suspected",
        2,
        ((explorer, "with_outage", _whatever_they_say),),
        "the candidate is lost and keeps",
    ),
    "a suspicion overloads the candidate": Fault(
        "weight 20, one replica", 3, ((explorer, "with_outage", _whatever_they_say),), "not to be believed"
    ),
    "a suspicion gives the candidate all before its turn": Fault(
        "mirror", 3, ((explorer, "with_outage", _whatever_they_say),), "not to be believed"
    ),
    "a suspicion holds an abort up": Fault(
        "weight 20, aborted", 3, ((explorer, "with_outage", _whatever_they_say),), "not to be believed"
    ),
    "weight rises in a freeze": Fault("candidate lost", 3, ((weights, "may_rise", _YES),), "freeze"),
    "weight rises without capacity": Fault(
        "promotion recorded", 3, ((weights, "capable", _whatever_is_wanted),), "capacity for 50 %"
    ),
    "the way back may be closed": Fault(
        "step 2 recorded",
        3,
        ((weights, "baseline_doubt", _NOTHING), (doubt, "baseline_doubt", _NOTHING)),
        "baseline could not take everything",
    ),
    "scaled down before the promotion is durable": Fault(
        "weight 20", 2, ((scaling, "may_shrink", lambda _o, at, _n: at.stage != "pending"),), "not durable"
    ),
    "a weight is believed before the gateway accepts it": Fault(
        "promotion written", 2, ((progress, "settled", _believes_too_early),), "has not accepted"
    ),
    "a verdict on an earlier step counts": Fault(
        "old verdict",
        2,
        ((progress, "about_this_step", _any_verdict), (doubt, "about_this_step", _any_verdict)),
        "no pass on it",
    ),
    "a step is left before its time": Fault("half over", 2, ((progress, "is_over", _YES),), "before its time"),
    "an error is a pass": Fault(
        "nearly over",
        3,
        ((progress, "about_this_step", _error_is_a_pass), (doubt, "samples_doubt", _NOTHING)),
        "no pass on it",
    ),
    "a failing verdict is not heard": Fault(
        "nearly over", 3, ((progress, "_failed", _NOTHING),), "the rollout goes on"
    ),
    "a way back is not for good": Fault(
        "failed", 2, ((position, "_STAGES", {**position._STAGES, RolloutPhase.ROLLING_BACK: "steps"}),), "leads to"
    ),
    "a pause is stronger than an abort": Fault(
        "paused", 2, ((progress, "command_of", _pause_first), (decide, "command_of", _pause_first)), "back is wanted"
    ),
    "the rollout goes before its traffic is back": Fault(
        "deleted", 2, ((decide, "_farewell", _goes_at_once),), "not back"
    ),
    "others are fought without bound": Fault("put back", 3, ((decide, "_quiet_until", _NOTHING),), "put back twice"),
    "weights do not sum": Fault("step 2 recorded", 2, ((weights, "shaped", _too_much),), "sum to"),
    "copies go to a probe that is away": Fault(
        "mirror, the probe away", 2, ((RolloutObserved, "copies_to", property(lambda o: o.probe.name)),), "takes none"
    ),
    "a probe that comes and goes begins the step again": Fault(
        "weight 20, the probe away", 3, ((progress, "_begun", _begins_with_the_copies),), "begins again"
    ),
    "copies go on after the steps": Fault(
        "promotion recorded", 2, ((weights, "shaped", _copies_for_ever),), "outside of the steps"
    ),
    "rolled-back bytes are tried again": Fault(
        "rejected, else ready", 2, ((progress, "blocked", _NOTHING), (decide, "blocked", _NOTHING)), "tried again"
    ),
}


def start(name: str) -> World:
    """A seed, or one made from a seed."""
    two = SEEDS["weight 20"]
    match name:
        case "old verdict":
            return replace(two, now=two.now + 31, verdict=("pass", two.now - 5))
        case "half over":
            one = SEEDS["mirror"]
            return replace(one, now=one.now + 16, verdict=("pass", one.now + 16))
        case "promotion written":
            landed, broken = land(look(SEEDS["promotion recorded"]))
            assert not broken and landed.route is not None and landed.gateway == "pending"
            return replace(landed, queue=(), seen=None)
        case "weight 20, the probe away":
            return replace(two, probe=0)
        case "candidate lost, baseline suspected":
            return replace(two, candidate=0, outage="baseline")
        case "weight 20, one replica":
            return replace(two, candidate=1)
        case "weight 20, aborted":
            return replace(two, control=RolloutControl(abort=True))
        case "nearly over":
            return replace(two, now=two.now + 40, verdict=None)
        case "rejected, else ready":
            waits = SEEDS["about to begin"]
            return replace(waits, now=waits.now + 16, rejected=True)
        case _:
            return SEEDS[name]


@pytest.mark.parametrize("name", FAULTS)
def test_the_search_finds_a_planted_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    begin = start(fault.seed)
    explore(begin, min(fault.depth, 2))  # without the fault nothing is found
    for module, attribute, wrong in fault.replaced:
        monkeypatch.setattr(module, attribute, wrong)
    explore(begin, fault.depth - 1)
    with pytest.raises(ViolationError) as found:
        explore(begin, max(DEPTH, fault.depth))
    print(f"{name}:\n{found.value}")
    *trace, broken = str(found.value).splitlines()[: fault.depth + 1]
    assert [line.split(".")[0].strip() for line in trace] == [str(n + 1) for n in range(fault.depth)], found.value
    assert "BROKEN" in broken and fault.says in str(found.value)
