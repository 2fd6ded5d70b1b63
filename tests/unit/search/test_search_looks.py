"""A round whose measurement leaves a gain open is looked at again: the incumbent and the candidate in turn."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_world import World, measured, plan, spec, speedup, verdict

from sartor_api.search.comparison import pooled
from sartor_api.search.decide import Begin, Reason
from sartor_api.search.directive import Mode
from sartor_api.search.records import FailureClass, StepKind, StepResult
from sartor_api.search.state import RunState, fold

WIDE = 1.03
"""Of each interval: two of them leave a gain of 3 % open."""


def looked(
    second: Callable[[Begin, int], StepResult | None], looks: int = 5, rounds: int = 2
) -> tuple[RunState, list[int | None]]:
    """A run whose first round gets 1.5; `second` says what the looks of later rounds (from 1 on) show. With it, for each
    look of the second round the round of the candidate that was measured (None: its own)."""
    seen: list[int | None] = []

    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is not StepKind.EVALUATE:
            return None
        if begin.round == 1:
            return measured(1.5, WIDE)
        if begin.round == 2:
            seen.append(begin.candidate.round if begin.candidate is not None else None)
        return second(begin, len(seen))

    world = World(spec(rounds=rounds, looks=looks, plateau_rounds=9), results)
    world.run()
    return world.state(), seen


def test_a_gain_that_one_measurement_leaves_open_is_found_by_more() -> None:
    state, seen = looked(lambda begin, _: measured(1.5 if begin.candidate else 1.55, WIDE))
    assert seen == [None, 1, None], "until it is shown, and no longer"
    assert state.best is not None and state.best.round == 2
    assert [len(r.looks) for r in state.rounds] == [1, 3]
    once, _ = looked(lambda begin, _: measured(1.55, WIDE), looks=1)
    assert once.best is not None and once.best.round == 1, "one measurement does not show it"


def test_what_is_shown_at_once_is_not_looked_at_again() -> None:
    for value, best in ((1.8, 2), (1.2, 1)):
        state, seen = looked(lambda begin, _, value=value: measured(value, WIDE))
        assert seen == [None]
        assert state.best is not None and state.best.round == best


def test_what_stays_open_is_given_up_after_the_last_look() -> None:
    state, seen = looked(lambda begin, _: measured(1.5 if begin.candidate else 1.52, WIDE), looks=3)
    assert seen == [None, 1, None]
    assert state.best is not None and state.best.round == 1
    assert [r.closed for r in state.rounds] == [True, True]


def test_a_lucky_incumbent_is_found_out() -> None:
    """It was measured at 1.5 and is 1.45: seen again, it gives way to what beats it."""
    state, _ = looked(lambda begin, _: measured(1.45 if begin.candidate else 1.53, WIDE))
    assert state.best is not None and state.best.round == 2
    first = state.round(1)
    assert first is not None and first.speedup is not None
    assert first.speedup.value < 1.49, "what later rounds saw of it counts"


def test_an_incumbent_that_fails_when_it_is_seen_again_is_not_the_candidates_fault() -> None:
    state, seen = looked(
        lambda begin, _: verdict(FailureClass.CANDIDATE, "Died") if begin.candidate else measured(1.53, WIDE)
    )
    assert seen == [None, 1]
    second = state.round(2)
    assert second is not None and second.closed and second.failure is None
    assert len(second.attempts) == 1, "nothing is repaired"
    assert second.speedup == speedup(1.53, WIDE)


def test_a_candidate_that_fails_when_it_is_seen_again_is_repaired() -> None:
    def second(begin: Begin, look: int) -> StepResult | None:
        failing = begin.candidate is None and look == 3
        return verdict(FailureClass.CANDIDATE, "Died") if failing else measured(1.5 if begin.candidate else 1.53, WIDE)

    state, seen = looked(second, looks=4)
    again = state.round(2)
    assert again is not None and len(again.attempts) == 2
    assert seen == [None, 1, None, None, 1, None, 1], "the repaired one is looked at from the beginning"
    assert len(again.looks) == 4


def test_a_machines_fault_within_a_look_is_tried_again() -> None:
    def second(begin: Begin, look: int) -> StepResult | None:
        return verdict(FailureClass.INFRASTRUCTURE) if look == 2 else measured(1.5 if begin.candidate else 1.55, WIDE)

    state, seen = looked(second)
    assert seen == [None, 1, 1, None]
    assert state.best is not None and state.best.round == 2


def test_a_later_round_changes_nothing_of_what_was_decided() -> None:
    state, _ = looked(lambda begin, _: measured(1.45 if begin.candidate else 1.53, WIDE), rounds=4)
    for upto in range(1, len(state.records) + 1):
        then = fold(state.spec, state.records[:upto], ledger=state.ledger, session_started=0.0)
        now = {one.round for one in state.kept}
        assert {one.round for one in then.kept} == {r.number for r in then.rounds if r.closed and r.number in now}


def test_a_run_that_was_killed_anywhere_looks_no_more_often() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is not StepKind.EVALUATE:
            return None
        return measured(1.5 if begin.round == 1 or begin.candidate else 1.55, WIDE)

    whole = World(spec(rounds=2, looks=5), results)
    whole.run()
    for at in range(1, whole.points + 1):
        killed = World(spec(rounds=2, looks=5), results, kill=lambda _, count, at=at: count == at)
        killed.run()
        assert killed.state().kept == whole.state().kept
        assert len(killed.records) == len(whole.records)


values = st.floats(0.5, 4.0)
spreads = st.floats(1.001, 1.2)


@given(values, spreads, values, spreads)
def test_two_measurements_together_lie_between_and_know_more(a: float, wa: float, b: float, wb: float) -> None:
    one, other = speedup(a, wa), speedup(b, wb)
    both = pooled(one, other)
    assert min(a, b) * (1 - 1e-9) <= both.value <= max(a, b) * (1 + 1e-9)
    width = math.log(both.high / both.low)
    assert width < min(math.log(one.high / one.low), math.log(other.high / other.low))
    assert both.n == 12
    swapped = pooled(other, one)
    assert (both.low, both.value, both.high) == pytest.approx((swapped.low, swapped.value, swapped.high))


def test_of_two_equal_measurements_the_interval_is_that_of_twice_as_many() -> None:
    both = pooled(speedup(2.0, 1.04), speedup(2.0, 1.04))
    assert math.log(both.high / both.value) == pytest.approx(math.log(1.04) / math.sqrt(2))


# --- a line on which a planner has nothing left -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["trajectory", "issue-queue"])
def test_a_planner_with_nothing_left_on_a_line_is_asked_to_look_wider_and_then_elsewhere(policy: str) -> None:
    """Its word is no plateau, for nothing was measured: else it would be asked the same till the budget is spent."""
    asked: list[tuple[Mode, tuple[str | None, ...]]] = []

    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is not StepKind.PLAN:
            return measured(1.5, 1.001) if begin.step is StepKind.EVALUATE else None
        assert begin.directive is not None
        asked.append((begin.directive.mode, begin.directive.parents))
        if begin.round == 1:
            return plan(1)
        return plan(begin.round, "stop", "0011".ljust(40, "0")) if begin.round < 4 else plan(begin.round, "stop")

    finish = World(spec(rounds=9, kind=policy), results).run()
    first = Mode.EXPLORE if policy == "issue-queue" else Mode.EXPLOIT
    assert [mode for mode, _ in asked] == [first, first, Mode.EXPLORE, Mode.RETURN]
    assert asked[3][1] == (None,), "not where nothing is left"
    assert finish.reason is Reason.NOTHING_LEFT


def test_a_place_that_was_returned_to_in_vain_comes_behind_the_others() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.EVALUATE:
            return measured({1: 1.2, 2: 1.1, 3: 2.0}.get(begin.round, 1.0), 1.001)
        if begin.step is not StepKind.PLAN:
            return None
        assert begin.directive is not None
        parents = begin.directive.parents
        went.append(parents[0] if begin.directive.mode is Mode.RETURN else "")
        return plan(begin.round, parent=parents[0] if parents else third if begin.round > 3 else None)

    first, second, third, fourth, fifth = (f"00{number}1".ljust(40, "0") for number in range(1, 6))
    went: list[str | None] = []
    world = World(spec(rounds=16, plateau_rounds=2, escalation=(Mode.RETURN,) * 9), results)
    world.run()
    parents = world.state().parents

    def root(place: str | None) -> str | None:
        return place if place in (first, second, fourth, fifth, None) else root(parents[place])

    expected = [first, first, second, second, fourth, fourth, fifth, fifth, None, None, first]
    assert [root(place) for place in went[5:]] == expected, (
        "by speed, each as long as a plateau, with what was made from it; a fresh start is one of them"
    )
