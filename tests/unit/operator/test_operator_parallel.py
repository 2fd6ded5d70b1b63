"""Candidates in work side by side in a cluster: what runs beside what, one order of records, and nothing lost by kills."""

from itertools import combinations

import pytest
from operator_world import Ends, World, live, measured, synthesis, target

from sartor_api.search.lanes import MEASURING
from sartor_api.search.records import FailureClass, Plan, StepKind, StepRecord, Verdict
from sartor_operator import names
from sartor_operator.kinds import CANDIDATE, JOB, POD, RUN, SYNTHESIS
from sartor_operator.run.observe import RECORD_KEY
from sartor_operator.wire import StepBegin, StoredRecord

ROUNDS = 4
GPU = {"platform": "cuda", "accelerator": {"resource": "nvidia.com/gpu", "count": 1}}


def slow(begin: StepBegin, _execution: int) -> Ends | None:
    """Implementing takes ten times as long as anything else."""
    return Ends(seconds=200.0) if begin.step is StepKind.IMPLEMENT else None


def begun(parallelism: int = 2, hardware: dict | None = None, **changes: object) -> World:
    world = World(**{"script": slow, **changes})  # type: ignore[arg-type]
    world.add(target(**(hardware or {})))
    search = {"plateauRounds": 9, "onPlateau": [], "parallelism": parallelism}
    world.add(synthesis(search=search, budget={"rounds": ROUNDS, "wallClock": "8h"}))
    return world


def records(world: World) -> list[StepRecord]:
    stored = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]).record for m in world.maps(names.RECORD)]
    return sorted(stored, key=lambda record: record.sequence)


def whole(world: World) -> None:
    """Every round once, numbers without a gap, and a winner that serves."""
    done = records(world)
    assert [record.sequence for record in done] == list(range(1, len(done) + 1))
    each = [(r.round, r.step.value, r.attempt) for r in done if r.failure is None]
    steps = ("evaluate", "implement", "judge", "plan")
    wanted = [(0, "baseline", 1), (0, "confirm", 1), *((n, s, 1) for n in range(1, ROUNDS + 1) for s in steps)]
    assert sorted(each) == sorted(wanted)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    won = world.one(CANDIDATE, world.one(RUN)["status"]["best"]["name"])
    assert won["spec"]["round"] == ROUNDS


def beside(world: World) -> set[frozenset[StepKind]]:
    """Kinds of steps of which two ran at the same time."""
    return {
        frozenset({a.step, b.step})
        for a, b in combinations(records(world), 2)
        if a.started < b.finished and b.started < a.finished
    }


def test_on_hardware_of_their_own_implementers_go_on_beside_a_measurement() -> None:
    world = begun(hardware=GPU)
    live(world)
    whole(world)
    seen = beside(world)
    assert frozenset({StepKind.IMPLEMENT}) in seen
    assert any(MEASURING & kinds and StepKind.IMPLEMENT in kinds for kinds in seen)
    assert not any(kinds <= MEASURING for kinds in seen), "two measurements would disturb each other"
    assert frozenset({StepKind.PLAN}) not in seen


def test_where_the_cpu_is_what_is_measured_nothing_runs_beside_a_measurement() -> None:
    world = begun()
    live(world)
    whole(world)
    seen = beside(world)
    assert frozenset({StepKind.IMPLEMENT}) in seen
    assert not any(MEASURING & kinds for kinds in seen)


def test_side_by_side_is_sooner() -> None:
    took = {}
    for parallelism in (1, 2, 4):
        world = begun(parallelism, GPU)
        start = world.now
        live(world)
        took[parallelism] = records(world)[-1].finished - start
    assert took[4] < took[2] - 100 and took[2] < took[1] - 300


def test_a_planner_gets_the_records_that_are_there_and_knows_which_are_to_come() -> None:
    world = begun()
    live(world)
    second = world.begin_of(names.step_label("002/plan/1/1"))
    assert second is not None and (second.sequence, second.pending) == (4, (3,))
    first = world.begin_of(names.step_label("001/implement/1/1"))
    assert first is not None and first.sequence == 3


def test_the_status_tells_every_step_in_flight_and_the_sum_of_what_is_reserved() -> None:
    world = begun()
    live(world, until=lambda: "002/implement/1/1" in world.started)
    process = live(world, until=lambda: bool(world.one(RUN)["status"].get("beside")))
    status = world.one(RUN)["status"]
    told = [status["step"]["id"], *(step["id"] for step in status["beside"])]
    assert told == ["001/implement/1/1", "002/implement/1/1"]
    assert "round 1: implement" in status["message"] and "round 2: implement" in status["message"]
    process.stop()
    live(world)
    assert not world.one(RUN)["status"].get("beside")


@pytest.mark.parametrize("hardware", [None, GPU], ids=["cpu", "cuda"])
def test_no_process_lives_for_more_than_one_write(hardware: dict | None) -> None:
    world = begun(hardware=hardware, kill_every=True)
    live(world)
    whole(world)
    jobs = [write for write in world.writes if write.startswith("create Job")]
    assert len(jobs) == len(set(jobs)) == 2 + 4 * ROUNDS


@pytest.mark.exhaustive
@pytest.mark.parametrize("hardware", [None, GPU], ids=["cpu", "cuda"])
def test_killed_after_every_single_write(hardware: dict | None) -> None:
    calm = begun(hardware=hardware)
    live(calm)
    for point in range(1, len(calm.writes) + 1):
        world = begun(hardware=hardware, kill_after=point)
        live(world)
        whole(world)


@pytest.mark.parametrize("kind", [JOB, POD, CANDIDATE], ids=lambda kind: kind.kind)
def test_what_is_deleted_with_two_at_work_is_done_again(kind) -> None:
    world = begun(hardware=GPU)
    live(world, until=lambda: "002/implement/1/1" in world.started)
    for key in [key for key in world.store if key[0] is kind]:
        world.remove(key)
    live(world)
    done = [r for r in records(world) if r.failure is None]
    assert len(done) == 2 + 4 * ROUNDS and world.one(SYNTHESIS)["status"]["phase"] == "Serving"


@pytest.mark.parametrize("step", ["001/implement/1/1", "002/plan/1/1", "001/evaluate/1/1"])
def test_a_record_that_somebody_deleted_stops_nothing(step: str) -> None:
    world = begun()
    live(world, until=lambda: "002/evaluate/1/1" in world.started)
    gone = next(m for m in world.maps(names.RECORD) if names.label(m, names.STEP_LABEL) == names.step_label(step))
    world.remove(next(key for key, manifest in world.store.items() if manifest is gone))
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    done = records(world)
    assert [record.sequence for record in done] == list(range(1, len(done) + 1))
    assert step in [record.id for record in done], "what is known of it is written down again"


def test_paused_with_two_at_work_both_end_and_nothing_begins() -> None:
    world = begun(hardware=GPU)
    live(world, until=lambda: "002/implement/1/1" in world.started)
    run = names.name_of(world.one(RUN))
    world.edit(RUN, run, lambda m: m["spec"].update(control={"pause": True}))
    live(world)
    assert world.started[-1] == "002/implement/1/1" and len(records(world)) == 5
    assert world.one(RUN)["status"]["phase"] == "Paused"
    world.edit(RUN, run, lambda m: m["spec"].update(control={"pause": False}))
    live(world)
    whole(world)


def test_cancelled_with_two_at_work_ends_both() -> None:
    world = begun(hardware=GPU)
    live(world, until=lambda: "002/implement/1/1" in world.started)
    world.edit(RUN, names.name_of(world.one(RUN)), lambda m: m["spec"].update(control={"cancel": True}))
    live(world)
    assert world.one(RUN)["status"]["phase"] == "Cancelled"
    assert not [p for p in world.all(POD) if p["status"]["phase"] == "Running"]


def test_one_that_is_late_is_given_up_and_the_other_goes_on() -> None:
    def script(begin: StepBegin, execution: int) -> Ends | None:
        hangs = begin.id.startswith("001/implement/1/") and execution == 1
        return Ends(never=True) if hangs else slow(begin, execution)

    world = begun(hardware=GPU, script=script)
    live(world)
    late = next(r for r in records(world) if r.id == "001/implement/1/1")
    assert late.failure is not None and late.failure.reason == "StepOverdue"
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    while_it_hung = [r for r in records(world) if r.round == 2 and r.finished < late.finished]
    assert {r.step for r in while_it_hung} >= {StepKind.JUDGE, StepKind.EVALUATE}


def test_a_round_that_closes_late_has_to_beat_the_incumbent_of_then() -> None:
    def script(begin: StepBegin, execution: int) -> Ends | None:
        if begin.step is StepKind.IMPLEMENT and begin.round == 1 and begin.attempt == 1:
            bad = Verdict(gate="build", passed=False, reason="No", failure_class=FailureClass.CANDIDATE)
            return Ends(result=bad, seconds=200.0)
        if begin.step is StepKind.EVALUATE and begin.round < 3:
            return Ends(result=measured({1: 1.3, 2: 1.5}[begin.round]))
        if begin.step is StepKind.PLAN and begin.round == 3:
            return Ends(result=Plan(round=3, action="stop", hypothesis="nothing is left"))
        return slow(begin, execution)

    world = begun(hardware=GPU, script=script)
    live(world)
    phases = {c["spec"]["round"]: c["status"]["phase"] for c in world.all(CANDIDATE)}
    assert phases[2] == "Kept" and phases[1] != "Kept"
