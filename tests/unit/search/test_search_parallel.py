"""Rounds that are open at the same time: what may run beside what, in which order things count, and what a kill leaves."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import SECONDS, KilledError, invalid, measured, plan, verdict
from side_by_side import SLOW, SideBySide, wide

from sartor_api.search.decide import Begin, Cancel, Reason, decide
from sartor_api.search.directive import IssueDraft
from sartor_api.search.estimate import eta_seconds
from sartor_api.search.issues import IssueState, issues
from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import Cost, FailureClass, Outcome, StepKind, StepResult
from sartor_api.search.state import fold


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("parallelism", [1, 2, 3, 6])
def test_every_round_is_carried_out_once_and_the_best_is_confirmed(parallelism: int, exclusive: bool) -> None:
    world = SideBySide(wide(parallelism, exclusive=exclusive))
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.ROUNDS_SPENT)
    assert finish.best is not None and finish.best.round == 6
    steps = sorted((r.round, r.step.value) for r in world.records)
    each = [(n, s) for n in range(1, 7) for s in ("evaluate", "implement", "judge", "plan")]
    assert steps == sorted([(0, "baseline"), (0, "confirm"), *each])
    assert world.most_open == parallelism


def test_implementers_at_work_side_by_side_shorten_a_search_and_a_machine_of_ones_own_for_them_does_more() -> None:
    took = {}
    for name, asked in {"one": wide(1), "batch": wide(3), "rolling": wide(3, exclusive=False)}.items():
        world = SideBySide(asked)
        world.run()
        took[name] = world.now
    rounds, measuring = 6, SLOW[StepKind.JUDGE] + SLOW[StepKind.EVALUATE]
    around = SLOW[StepKind.BASELINE] + SLOW[StepKind.CONFIRM]
    assert took["one"] == around + rounds * (1 + 200 + measuring)
    assert took["batch"] == pytest.approx(around + 2 * (3 + 200) + rounds * measuring)
    assert took["rolling"] < took["batch"]


def test_a_plan_comes_beside_an_implementer_but_never_beside_a_plan_or_a_measurement_of_the_same_machine() -> None:
    world = SideBySide(wide(3))
    world.run()
    assert frozenset({StepKind.PLAN, StepKind.IMPLEMENT}) in world.seen
    rolling = SideBySide(wide(3, exclusive=False))
    rolling.run()
    assert any(MEASURING & kinds and StepKind.IMPLEMENT in kinds for kinds in rolling.seen)


def test_a_round_that_backs_off_holds_up_no_other() -> None:
    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT and begin.round == 1 and not failures:
            return verdict(FailureClass.PROVIDER)
        return None

    world = SideBySide(wide(2, exclusive=False, rounds=2), results)
    world.run()
    at = {record.id: record.started for record in world.records}
    ended = next(record.finished for record in world.records if record.id == "002/implement/1/1")
    assert at["002/judge/1/1"] == ended < at["001/implement/1/2"], (
        "what is due now comes before what may be tried later"
    )


def test_a_candidate_has_to_beat_what_was_the_incumbent_when_it_was_measured() -> None:
    """Round 1 takes its time: when it is measured, round 2 is the incumbent, and stays so."""

    def results(begin: Begin, _failures: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT and (begin.round, begin.attempt) == (1, 1):
            return verdict(FailureClass.CANDIDATE)
        return measured({1: 1.3, 2: 1.5}[begin.round]) if begin.step is StepKind.EVALUATE else None

    world = SideBySide(wide(2, exclusive=False, rounds=2), results)
    world.run()
    state = world.state()
    assert [one.round for one in state.kept] == [2]
    first = state.round(1)
    assert first is not None and state.incumbent_before(first) == state.best
    assert [r.number for r in state.closed_in_order] == [2, 1]


def test_the_issue_that_one_round_took_is_not_given_to_another() -> None:
    def results(begin: Begin, _failures: int) -> StepResult | None:
        if begin.step is not StepKind.PLAN:
            return None
        assert begin.directive is not None
        opened = tuple(IssueDraft(title=t, forecast_gain=g) for t, g in (("a", 1.5), ("b", 1.4), ("c", 1.3)))
        update = {"issue": begin.directive.issue, "issues": opened if begin.round == 1 else ()}
        return plan(begin.round).model_copy(update=update)

    world = SideBySide(wide(3, kind="issue-queue", rounds=4), results)
    world.run()
    taken = [r.plan.issue for r in world.state().rounds if r.plan is not None]
    assert taken == [None, "001-1", "001-2", "001-3"]
    assert all(one.state is IssueState.DONE for one in issues(world.state()))


def test_no_round_is_opened_that_would_not_fit_beside_those_that_are_open() -> None:
    """Every step may cost 10 tokens: four for a round, one for the confirmation."""
    limit = 110
    world = SideBySide(wide(3, rounds=9, reserve=Cost(tokens=10), tokens=limit), cost=Cost(tokens=10))
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.TOKENS_SPENT)
    assert world.ledger.spent.tokens == 100, "baseline, two rounds, confirmation"
    assert len(world.state().rounds) == 2


def test_a_planner_with_nothing_to_try_beside_others_ends_no_search_and_costs_no_round() -> None:
    def results(begin: Begin, _failures: int) -> StepResult | None:
        return plan(begin.round, "stop") if begin.step is StepKind.PLAN and begin.round in (2, 4) else None

    world = SideBySide(wide(2, rounds=3), results)
    finish = world.run()
    assert finish.reason is Reason.ROUNDS_SPENT
    assert [one.round for one in world.state().measured] == [1, 3, 5]


def test_a_lane_that_backs_off_holds_up_nobody() -> None:
    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT and begin.round == 1 and failures == 0:
            return verdict(FailureClass.PROVIDER, "RateLimited")
        if begin.step is StepKind.EVALUATE and begin.round == 2 and failures == 0:
            return invalid(FailureClass.MEASUREMENT)
        return None

    world = SideBySide(wide(2, exclusive=False, rounds=4), results)
    finish = world.run()
    assert finish.outcome is Outcome.CONFIRMED and len(world.state().measured) == 4
    retry = next(r for r in world.records if r.id == "001/implement/1/2")
    first = next(r for r in world.records if r.id == "001/implement/1/1")
    between = [r for r in world.records if first.finished < r.finished < retry.started]
    assert any(r.round == 2 for r in between), "the other round went on meanwhile"


@settings(max_examples=60, deadline=None)
@given(
    parallelism=st.integers(2, 4),
    exclusive=st.booleans(),
    cuts=st.lists(st.integers(1, 60), max_size=6),
    pause=st.sampled_from([0.0, 1000.0]),
)
def test_killed_at_any_instant_no_round_is_lost_and_none_is_done_twice(
    parallelism: int, exclusive: bool, cuts: list[int], pause: float
) -> None:
    given_cuts = set(cuts)
    world = SideBySide(
        wide(parallelism, exclusive=exclusive, reserve=Cost(tokens=10)),
        kill=lambda _point, count: count in given_cuts,
        pause=pause,
        cost=Cost(tokens=3),
    )
    finish = world.run()
    assert (finish.outcome, finish.best and finish.best.round) == (Outcome.CONFIRMED, 6)
    done = [(r.round, r.step, r.attempt) for r in world.records]
    assert len(set(done)) == len(done) == 26
    lost = [entry for entry in world.ledger.entries if entry.abandoned]
    assert world.ledger.spent.tokens == 3 * 26 + 10 * len(lost), "what was lost is charged in full, the rest as it cost"
    assert world.state().elapsed(world.now) <= world.now, "time in which steps overlap is charged once"


def test_two_in_flight_are_both_charged_and_both_done_again_when_the_driver_dies() -> None:
    world = SideBySide(wide(2, reserve=Cost(tokens=10)), cost=Cost(tokens=3))

    def two(_point: str, _count: int) -> bool:
        return [one.step for one, _, _ in world.flying.values()] == [StepKind.IMPLEMENT] * 2

    world.kill = two
    with pytest.raises(KilledError):
        world.session_once()
    world.kill = lambda _point, _count: False
    assert [entry.id for entry in world.ledger.in_flight] == ["001/implement/1/1", "002/implement/1/1"]
    world.run()
    again = [r.id for r in world.records if r.step is StepKind.IMPLEMENT and r.round < 3]
    assert again == ["001/implement/1/2", "002/implement/1/2"]
    assert sum(entry.abandoned for entry in world.ledger.entries) == 2


def test_records_whose_steps_are_in_flight_are_no_gap_and_others_are() -> None:
    world = SideBySide(wide(2))
    world.run()
    whole = world.records
    without = [r for r in whole if r.sequence != 4]
    state = fold(world.spec, without, ledger=world.ledger, session_started=0.0, pending=[4])
    assert len(state.records) == len(whole) - 1
    with pytest.raises(ValueError, match="number 4 of the run is missing"):
        fold(world.spec, without, ledger=world.ledger, session_started=0.0)


def test_the_time_to_go_counts_implementers_side_by_side_and_measurements_one_by_one() -> None:
    alone, batch = SideBySide(wide(1)), SideBySide(wide(3))
    around = SECONDS[StepKind.BASELINE] + SECONDS[StepKind.CONFIRM]
    measuring = SECONDS[StepKind.JUDGE] + SECONDS[StepKind.EVALUATE]
    assert eta_seconds(alone.state(), 0.0) == around + 6 * (3 + measuring)
    assert eta_seconds(batch.state(), 0.0) == around + 2 * 3 + 6 * measuring


def test_an_overdue_step_beside_others_is_the_only_one_that_is_cancelled() -> None:
    state = replace(
        SideBySide(wide(2)).state(), records=(),
        ledger=SideBySide(wide(2)).ledger.reserve("001/plan/1/1", Cost(), now=0, deadline=5)
        .reserve("000/baseline/1/1", Cost(), now=0, deadline=50),
    )  # fmt: skip
    assert decide(state, 10) == Cancel("001/plan/1/1", Reason.STEP_OVERDUE)
    left = state.ledger.abandon_open("001/plan/1/1")
    assert [entry.id for entry in left.in_flight] == ["000/baseline/1/1"]
