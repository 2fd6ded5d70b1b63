"""The state machine: every reason is reached, every run ends, and being killed changes nothing."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import PASSED, KilledError, World, invalid, measured, plan, spec, verdict

from sartor_api.search.budget import Ledger
from sartor_api.search.decide import TRANSITIONS, Begin, Cancel, Finish, Phase, Reason, Wait, decide, phase
from sartor_api.search.records import Cost, FailureClass, Finished, Outcome, StepKind, StepResult
from sartor_api.search.states import render

CANDIDATE, INFRASTRUCTURE = FailureClass.CANDIDATE, FailureClass.INFRASTRUCTURE


def failing(step: StepKind, failure: FailureClass, times: int = 1000, round_number: int | None = None):
    """Results in which a step fails `times` times."""

    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is step and failures < times and round_number in (None, begin.round):
            return verdict(failure)
        return None

    return results


def test_a_run_in_which_all_goes_well_ends_confirmed() -> None:
    world = World(spec(rounds=3))
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.ROUNDS_SPENT)
    assert finish.best is not None and finish.best.round == 3
    assert [r.step.value for r in world.records] == [
        "baseline",
        *["plan", "implement", "judge", "evaluate"] * 3,
        "confirm",
    ]


def test_zero_rounds_measure_the_baseline_only() -> None:
    world = World(spec(rounds=0))
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.NO_SPEEDUP, Reason.ROUNDS_SPENT)
    assert [r.step for r in world.records] == [StepKind.BASELINE]


@pytest.mark.parametrize("failure", [FailureClass.INFRASTRUCTURE, FailureClass.PROVIDER, FailureClass.MEASUREMENT])
@pytest.mark.parametrize("step", list(StepKind))
def test_faults_of_others_are_retried_with_growing_back_off_and_cost_no_attempt(
    step: StepKind, failure: FailureClass
) -> None:
    tries = spec().policy.retries[failure].tries
    world = World(spec(rounds=1), failing(step, failure, times=tries - 1))
    finish = world.run()
    assert finish.outcome is Outcome.CONFIRMED
    failed = [r for r in world.records if r.failure]
    assert len(failed) == tries - 1 and {r.step for r in failed} == {step}
    assert all(r.attempt == 1 for r in world.records)
    same = [r for r in world.records if r.step is step]
    waits = [b.started - a.finished for a, b in pairwise(same) if a.failure]
    assert waits == sorted(waits) and all(wait > 0 for wait in waits)


@pytest.mark.parametrize(
    ("step", "outcome", "reason"),
    [
        (StepKind.BASELINE, Outcome.FAILED, Reason.BASELINE_UNAVAILABLE),
        (StepKind.PLAN, Outcome.FAILED, Reason.INFRASTRUCTURE_UNAVAILABLE),
        (StepKind.JUDGE, Outcome.FAILED, Reason.INFRASTRUCTURE_UNAVAILABLE),
        (StepKind.CONFIRM, Outcome.FAILED, Reason.CONFIRMATION_UNAVAILABLE),
    ],
)
def test_faults_that_stay_end_the_run(step: StepKind, outcome: Outcome, reason: Reason) -> None:
    finish = World(spec(rounds=1), failing(step, INFRASTRUCTURE)).run()
    assert (finish.outcome, finish.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailureClass.INFRASTRUCTURE, Reason.INFRASTRUCTURE_UNAVAILABLE),
        (FailureClass.PROVIDER, Reason.PROVIDER_UNAVAILABLE),
        (FailureClass.MEASUREMENT, Reason.MEASUREMENT_IMPOSSIBLE),
    ],
)
def test_faults_that_stay_after_a_gain_keep_and_confirm_the_best(failure: FailureClass, reason: Reason) -> None:
    finish = World(spec(rounds=5), failing(StepKind.EVALUATE, failure, round_number=2)).run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, reason)
    assert finish.best is not None and finish.best.round == 1


def test_a_candidate_failure_gives_one_repair_with_feedback_and_then_ends_the_round() -> None:
    seen: list[tuple[int, int, tuple[str, ...]]] = []

    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT:
            seen.append((begin.round, begin.attempt, tuple(v.reason for v in begin.feedback)))
        if begin.step is StepKind.JUDGE and begin.round == 1:
            return PASSED.model_copy(update={"verdicts": (verdict(CANDIDATE, "OutputDiverged"),)})
        return None

    finish = World(spec(rounds=2), results).run()
    assert seen == [(1, 1, ()), (1, 2, ("OutputDiverged",)), (2, 1, ())]
    assert finish.outcome is Outcome.CONFIRMED and finish.best is not None and finish.best.round == 2


def test_a_repair_that_works_is_measured() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        return verdict(CANDIDATE) if begin.step is StepKind.EVALUATE and begin.attempt == 1 else None

    world = World(spec(rounds=1), results)
    assert world.run().outcome is Outcome.CONFIRMED
    assert [(r.step.value, r.attempt) for r in world.records if r.round == 1] == [
        ("plan", 1),
        ("implement", 1),
        ("judge", 1),
        ("evaluate", 1),
        ("implement", 2),
        ("judge", 2),
        ("evaluate", 2),
    ]


def test_no_gain_is_a_normal_end() -> None:
    finish = World(spec(rounds=2), lambda b, _: measured(1.01) if b.step is StepKind.EVALUATE else None).run()
    assert (finish.outcome, finish.reason, finish.best) == (Outcome.NO_SPEEDUP, Reason.ROUNDS_SPENT, None)


def test_the_target_stops_the_search() -> None:
    finish = World(spec(rounds=9, target_speedup=1.7)).run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.TARGET_MET)
    assert finish.best is not None and finish.best.round == 2


def test_a_plateau_needs_rounds_that_show_no_gain_not_merely_noisy_ones() -> None:
    def results(spread: float):
        return lambda b, _: measured(2.0, 1.01 if b.round == 1 else spread) if b.step is StepKind.EVALUATE else None

    flat = World(spec(rounds=20, plateau_rounds=3), results(1.005)).run()
    assert flat.reason is Reason.PLATEAU
    noisy = World(spec(rounds=8, plateau_rounds=3), results(1.3)).run()
    assert noisy.reason is Reason.ROUNDS_SPENT


def test_the_planner_can_say_that_nothing_is_left() -> None:
    results = lambda b, _: plan(b.round, "stop") if b.step is StepKind.PLAN and b.round == 2 else None  # noqa: E731
    finish = World(spec(rounds=9), results).run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.NOTHING_LEFT)


def test_a_return_is_a_round_of_its_own_and_sets_the_head() -> None:
    world = World(spec(rounds=3))

    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 2:
            first = world.state().rounds[0].implementation
            assert first is not None
            return plan(2, "return", first.commit)
        if begin.step is StepKind.PLAN and begin.round == 3:
            assert world.state().head == world.state().rounds[0].attempts[0].implementation.commit  # type: ignore[union-attr]
        return None

    world.results = results
    assert world.run().outcome is Outcome.CONFIRMED
    assert [r.step for r in world.records if r.round == 2] == [StepKind.PLAN]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": 100}, Reason.TOKENS_SPENT),
        ({"money": 10.0}, Reason.MONEY_SPENT),
        ({"accelerator_seconds": 260.0}, Reason.ACCELERATOR_TIME_SPENT),
        ({"wall_clock_seconds": 260.0}, Reason.WALL_CLOCK_SPENT),
    ],
)
def test_running_out_is_a_normal_end_that_keeps_and_confirms_the_best(
    changes: dict[str, float], reason: Reason
) -> None:
    cost = Cost(tokens=5, money=0.5)
    world = World(spec(rounds=99, reserve=cost, accelerators=1, **changes), cost=cost)
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, reason)
    spent = world.ledger.spent
    assert spent.tokens <= changes.get("tokens", 1e9) and spent.money <= changes.get("money", 1e9)
    assert world.now <= changes.get("wall_clock_seconds", 1e9)


def test_the_wall_clock_reserve_leaves_time_for_the_confirmation() -> None:
    # baseline 100, rounds of 33, confirmation 30: after two rounds 166 are used, a third would end at 199 + 30.
    world = World(spec(rounds=99, wall_clock_seconds=228.0))
    assert world.run().reason is Reason.WALL_CLOCK_SPENT
    assert len([r for r in world.records if r.step is StepKind.EVALUATE]) == 2
    world = World(spec(rounds=99, wall_clock_seconds=229.0))
    world.run()
    assert len([r for r in world.records if r.step is StepKind.EVALUATE]) == 3


def test_the_wall_clock_spent_before_there_is_a_baseline() -> None:
    finish = World(spec(wall_clock_seconds=90.0), failing(StepKind.BASELINE, INFRASTRUCTURE, 1)).run()
    assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.WALL_CLOCK_SPENT)


def test_time_between_sessions_is_not_charged() -> None:
    world = World(spec(rounds=2, wall_clock_seconds=300.0), kill=lambda _, count: count == 6, pause=1e5)
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.ROUNDS_SPENT)


def test_a_refuted_winner_gives_way_to_the_incumbent_before_it() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        return measured(1.0) if begin.step is StepKind.CONFIRM and begin.attempt == 1 else None

    world = World(spec(rounds=2), results)
    finish = world.run()
    assert finish.outcome is Outcome.CONFIRMED and finish.best is not None and finish.best.round == 1
    assert Reason.RUNNER_UP_DUE.value in world.reasons


def test_when_no_confirmation_holds_nothing_is_delivered() -> None:
    results = lambda b, _: measured(1.001) if b.step is StepKind.CONFIRM else None  # noqa: E731
    finish = World(spec(rounds=3), results).run()
    assert (finish.outcome, finish.reason) == (Outcome.NOT_CONFIRMED, Reason.CONFIRMATION_REFUTED)
    assert finish.best is None and "1.00x" in finish.message


def test_a_confirmation_below_the_minimum_speedup_does_not_hold() -> None:
    finish = World(spec(rounds=1, minimum_speedup=1.65)).run()
    assert finish.outcome is Outcome.NOT_CONFIRMED


def test_invalid_measurements_are_repeated() -> None:
    results = lambda b, failures: (  # noqa: E731
        invalid(FailureClass.MEASUREMENT) if b.step is StepKind.EVALUATE and failures < 2 else None
    )
    world = World(spec(rounds=1), results)
    assert world.run().outcome is Outcome.CONFIRMED
    assert [r.id.split("/")[-1] for r in world.records if r.step is StepKind.EVALUATE] == ["1", "2", "3"]


def _in_flight(now: float) -> object:
    world = World(spec())
    begin = decide(world.state(), 0.0)
    assert isinstance(begin, Begin)
    world.ledger = Ledger().reserve(begin.id, begin.reserve, now=0.0, deadline=50.0)
    return decide(world.state(), now)


def test_a_step_in_flight_is_waited_for_until_its_deadline_and_then_cancelled() -> None:
    assert _in_flight(10.0) == Wait(50.0, Reason.STEP_IN_FLIGHT)
    assert _in_flight(50.0) == Cancel("000/baseline/1/1", Reason.STEP_OVERDUE)


def test_a_finished_run_is_told_to_finish_again_with_what_was_recorded() -> None:
    world = World(spec(rounds=1))
    finish = world.run()
    assert finish.best is not None
    ended = Finished(
        outcome=finish.outcome, reason=finish.reason.value, message="m", best_round=finish.best.round, at=world.now
    )
    state = world.state().__class__(**{**world.state().__dict__, "finished": ended})
    again = decide(state, world.now + 1e9)
    assert isinstance(again, Finish) and again.best == finish.best and again.reason is finish.reason
    assert phase(state, world.now) is Phase.FINISHED


def test_every_reason_is_reached() -> None:
    cost = Cost(tokens=5, money=0.5)
    worlds = [
        World(spec()),
        World(spec(), failing(StepKind.BASELINE, INFRASTRUCTURE)),
        World(spec(), failing(StepKind.EVALUATE, CANDIDATE)),
        World(spec(thrash_rounds=2), failing(StepKind.JUDGE, CANDIDATE)),
        World(spec(), failing(StepKind.CONFIRM, CANDIDATE)),
        World(spec(), failing(StepKind.CONFIRM, INFRASTRUCTURE)),
        World(spec(target_speedup=1.1)),
        World(
            spec(rounds=30, plateau_rounds=1),
            lambda b, _: measured(2.0, 1.001) if b.step is StepKind.EVALUATE else None,
        ),
        World(spec(), lambda b, _: plan(b.round, "stop") if b.step is StepKind.PLAN else None),
        World(spec(rounds=99, wall_clock_seconds=250.0)),
        World(spec(rounds=99, tokens=50, reserve=cost), cost=cost),
        World(spec(rounds=99, money=5.0, reserve=cost), cost=cost),
        World(spec(rounds=99, accelerator_seconds=250.0, accelerators=1)),
        *(World(spec(), failing(StepKind.PLAN, failure)) for failure in FailureClass if failure is not CANDIDATE),
    ]
    reached: set[str] = set()
    for world in worlds:
        world.run()
        reached |= set(world.reasons)
    reached |= {getattr(_in_flight(now), "reason").value for now in (10.0, 60.0)}  # noqa: B009
    assert reached == {reason.value for reason in Reason}


def test_every_phase_with_a_step_has_a_last_row_that_always_holds_and_every_step_has_a_deadline() -> None:
    for where in Phase:
        rows = [row for row in TRANSITIONS if row.phase is where]
        if where is Phase.FINISHED:
            assert rows == []
            continue
        assert rows[-1].when(None)  # type: ignore[arg-type] - the last predicate looks at nothing
        assert rows[0].reasons == (Reason.STEP_OVERDUE,)


def test_the_reference_page_names_every_reason_and_is_up_to_date() -> None:
    page = render()
    assert all(f"`{reason.value}`" in page for reason in Reason)
    stored = Path(__file__).parents[3] / "docs" / "reference" / "run-states.md"
    assert stored.read_text(encoding="utf-8") == page


@st.composite
def scripts(draw: st.DrawFn) -> dict[tuple[str, int, int], StepResult]:
    """Faults and results for the steps of a run, by step, round and attempt."""
    script: dict[tuple[str, int, int], object] = {}
    for number in range(1, 5):
        if draw(st.booleans()):
            script[("plan", number, 1)] = plan(number, draw(st.sampled_from(["build", "build", "stop"])))
        for attempt in (1, 2):
            if draw(st.integers(0, 3)) == 0:
                script[("judge", number, attempt)] = verdict(CANDIDATE)
            script[("evaluate", number, attempt)] = measured(draw(st.floats(0.7, 3.0)), draw(st.floats(1.001, 1.3)))
    for attempt in (1, 2):
        script[("confirm", 0, attempt)] = measured(draw(st.floats(0.8, 2.0)))
    return script  # type: ignore[return-value]


@settings(max_examples=50, deadline=None)
@given(
    script=scripts(),
    flaky=st.dictionaries(
        st.tuples(st.sampled_from(list(StepKind)), st.integers(0, 4)),
        st.tuples(st.sampled_from([f for f in FailureClass if f is not CANDIDATE]), st.integers(1, 3)),
        max_size=4,
    ),
    kills=st.lists(st.integers(1, 25), max_size=6),
)
def test_a_run_killed_anywhere_any_number_of_times_ends_the_same(
    script: dict[tuple[str, int, int], StepResult],
    flaky: dict[tuple[StepKind, int], tuple[FailureClass, int]],
    kills: list[int],
) -> None:
    def results(begin: Begin, failures: int) -> StepResult | None:
        failure, times = flaky.get((begin.step, begin.round), (None, 0))
        if failure is not None and failures < times:
            return verdict(failure)
        return script.get((begin.step.value, begin.round, begin.attempt))

    calm = World(spec(rounds=4, plateau_rounds=2), results)
    left = list(kills)

    def kill(_: str, count: int) -> bool:
        if left and count >= left[0]:
            left.pop(0)
            world.points = 0
            return True
        return False

    world = World(spec(rounds=4, plateau_rounds=2), results, kill=kill, pause=1000.0)
    assert world.run() == calm.run()
    told = [(r.step, r.round, r.attempt, r.result) for r in world.records]
    assert told == [(r.step, r.round, r.attempt, r.result) for r in calm.records]
    ids = [entry.id for entry in world.ledger.entries]
    assert len(set(ids)) == len(ids) and not any(entry.open for entry in world.ledger.entries)


def test_a_kill_at_each_single_point_of_a_run_ends_the_same() -> None:
    calm = World(spec(rounds=2))
    expected = calm.run()
    for point in range(1, calm.points + 1):
        world = World(spec(rounds=2), kill=lambda _, count, at=point: count == at)
        assert world.run() == expected
        assert len(world.records) == len(calm.records)


def test_the_world_can_be_killed() -> None:
    with pytest.raises(KilledError):
        World(spec(), kill=lambda *_: True).session_once()
