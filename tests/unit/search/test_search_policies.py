"""Search policies: what they ask of plans, and that each finds a planted optimum sooner than random search."""

import statistics

import pytest
from benchmarks.support.landscape import KINDS, Kind, Planner, landscape
from benchmarks.support.simulated import optimum_found, random_search, search
from benchmarks.support.simulated import spec as simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import World, measured, plan, spec, verdict

from sartor_api.search import plans
from sartor_api.search.decide import Begin, Reason, decide
from sartor_api.search.directive import Directive, IssueDraft, IssueKind, Mode
from sartor_api.search.issues import IssueState, issues, queue
from sartor_api.search.policies import POLICIES, next_directive
from sartor_api.search.policies.evolutionary import FOUNDERS, members
from sartor_api.search.records import FailureClass, Implementation, Plan, StepKind, StepResult

CANDIDATE = FailureClass.CANDIDATE
WAY_OUT = ("explore", "return")


def commit(number: int) -> str:
    return f"{number:03d}1".ljust(40, "0")


def asked(world: World) -> dict[int, Directive]:
    """Run the world; what every plan was asked for, by round."""
    seen: dict[int, Directive] = {}
    scripted = world.results

    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.PLAN:
            assert begin.directive is not None
            seen[begin.round] = begin.directive
            if (said := scripted(begin, failures)) is not None:
                return said
            parents = begin.directive.parents
            return plan(begin.round, parent=parents[0] if parents else None).model_copy(
                update={"issue": begin.directive.issue, "partner": begin.directive.partner}
            )
        assert begin.directive is None, "only plans are directed"
        return scripted(begin, failures)

    world.results = results
    world.run()
    return seen


def speeds(by_round: dict[int, float], otherwise: float = 2.0):
    return lambda b, _: measured(by_round.get(b.round, otherwise), 1.002) if b.step is StepKind.EVALUATE else None


# --- detectors change what is asked for ------------------------------------------------------------------------------


def test_a_trajectory_leaves_the_planner_free_until_a_plateau_then_explores_then_returns_then_stops() -> None:
    world = World(
        spec(rounds=30, plateau_rounds=2, escalation=WAY_OUT),
        speeds({1: 1.5, 2: 2.0, 3: 1.9, 4: 2.0, 5: 1.8, 6: 2.0, 7: 1.7, 8: 1.6}),
    )
    seen = asked(world)
    assert [seen[r].mode for r in range(1, 9)] == [*[Mode.EXPLOIT] * 4, *[Mode.EXPLORE] * 2, *[Mode.RETURN] * 2]
    assert seen[4].parents == () and seen[5].parents == (commit(2),)
    # Off the incumbent's line: fastest side branches first, never the incumbent, at last the empty stack.
    assert seen[7].parents[0] in {commit(4), commit(6)} and commit(2) not in seen[7].parents
    assert seen[7].parents[-1] is None
    assert len(world.state().rounds) == 8
    assert world.run().reason is Reason.PLATEAU


def test_a_gain_ends_the_escalation() -> None:
    world = World(
        spec(rounds=9, plateau_rounds=2, escalation=WAY_OUT), speeds({1: 1.5, 2: 1.5, 3: 1.5, 4: 1.9}, otherwise=1.9)
    )
    seen = asked(world)
    assert seen[4].mode is Mode.EXPLORE and seen[5].mode is Mode.EXPLOIT


def test_without_a_way_out_a_plateau_ends_the_search_at_once() -> None:
    world = World(spec(rounds=20, plateau_rounds=3), speeds({}))
    assert world.run().reason is Reason.PLATEAU
    assert len(world.state().rounds) == 4


def test_rounds_that_a_gate_rejects_are_thrashing_and_no_plateau() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        return verdict(CANDIDATE) if begin.step is StepKind.JUDGE and begin.round > 1 else None

    changing = World(spec(rounds=30, thrash_rounds=3, escalation=WAY_OUT), results)
    seen = asked(changing)
    assert [r for r, d in seen.items() if d.mode is Mode.EXPLORE] == [5, 6, 7]
    assert [r for r, d in seen.items() if d.mode is Mode.RETURN] == [8, 9, 10]
    assert changing.run().reason is Reason.THRASHING
    never = World(spec(rounds=8), results)
    assert never.run().reason is Reason.ROUNDS_SPENT


def test_the_same_content_again_is_thrashing_though_it_measures_well() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT:
            return Implementation(commit=commit(begin.round), content_hash="a" * 64)
        # Wide intervals: nothing is shown to be flat, so only the content tells.
        return measured(2.0, 1.2) if begin.step is StepKind.EVALUATE else None

    assert World(spec(rounds=30, thrash_rounds=4), results).run().reason is Reason.THRASHING


def test_going_back_and_forth_is_thrashing() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round > 2:
            return plan(begin.round, "return", commit(1 + begin.round % 2))
        return None

    assert World(spec(rounds=40, thrash_rounds=3), results).run().reason is Reason.THRASHING


def test_faults_of_others_are_neither() -> None:
    def results(begin: Begin, failures: int) -> StepResult | None:
        return verdict(FailureClass.INFRASTRUCTURE) if begin.step is StepKind.JUDGE and failures < 2 else None

    world = World(spec(rounds=5, thrash_rounds=1, escalation=WAY_OUT), results)
    assert {d.mode for d in asked(world).values()} == {Mode.EXPLOIT}


# --- population ------------------------------------------------------------------------------------------------------


def test_a_population_breeds_from_measured_members_whether_they_were_kept_or_not() -> None:
    world = World(
        spec(rounds=40, kind="evolutionary", population=4, plateau_rounds=100),
        speeds({1: 2.0, 2: 1.2, 3: 1.6, 4: 1.9}, otherwise=1.1),
    )
    seen = asked(world)
    assert all(seen[r].mode is Mode.EXPLORE and not seen[r].parents for r in range(1, FOUNDERS + 1))
    parents = {d.parents[0] for r, d in seen.items() if r > 8}
    assert parents <= {one.commit for one in members(world.state())}
    assert commit(1) in parents and len(parents) > 1, "the fittest breeds, and not alone"
    crossed = [d for d in seen.values() if d.mode is Mode.RECOMBINE]
    assert crossed and all(d.partner is not None and d.partner != d.parents[0] for d in crossed)
    assert {Mode.EXPLOIT, Mode.EXPLORE} <= {d.mode for r, d in seen.items() if r > FOUNDERS}


def test_a_member_with_nothing_left_to_try_leaves_the_population() -> None:
    world = World(spec(rounds=6, kind="evolutionary"), speeds({1: 2.0}, otherwise=1.2))

    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 4:
            return Plan(round=4, action="stop", parent=commit(1), hypothesis="nothing is left on it")
        return speeds({1: 2.0}, otherwise=1.2)(begin, failures)

    world.results = results
    asked(world)
    assert len(world.state().rounds) == 6, "a stop on one commit does not end the search"
    assert commit(1) not in {one.commit for one in members(world.state())}


def test_equal_content_is_one_member() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.IMPLEMENT:
            return Implementation(commit=commit(begin.round), content_hash=str(begin.round // 3) * 64)
        return measured(1.5) if begin.step is StepKind.EVALUATE else None

    world = World(spec(rounds=6, kind="evolutionary", plateau_rounds=100), results)
    asked(world)
    assert len(members(world.state())) == 3


# --- issue queue -----------------------------------------------------------------------------------------------------

IDEAS = (
    IssueDraft(title="fuse gate and up", forecast_gain=1.2),
    IssueDraft(title="native decoder", forecast_gain=2.0),
    IssueDraft(kind=IssueKind.BOTTLENECK, title="prefill", forecast_gain=1.3),
)


def queue_world(rounds: int = 6, results=lambda _b, _f: None) -> World:
    def scripted(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 1:
            return plan(1).model_copy(update={"issues": IDEAS})
        return results(begin, failures)

    return World(spec(rounds=rounds, kind="issue-queue"), scripted)


def test_the_queue_takes_what_promises_most_on_top_of_the_incumbent() -> None:
    world = queue_world(rounds=4)
    seen = asked(world)
    assert seen[1].issue is None and seen[1].mode is Mode.EXPLORE, "with no issue open the planner looks around"
    assert [seen[r].issue for r in (2, 3, 4)] == ["001-2", "001-3", "001-1"]
    assert seen[3].parents == (commit(2),)
    assert {i.state for i in issues(world.state())} == {IssueState.DONE}


def test_an_issue_is_abandoned_when_it_is_refuted_or_was_tried_twice() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.EVALUATE and begin.round == 2:
            return measured(1.0, 1.001)  # shown to gain nothing
        if begin.step is StepKind.JUDGE and begin.round in (3, 4):
            return verdict(CANDIDATE)
        return None

    world = queue_world(rounds=4, results=results)
    seen = asked(world)
    state = {i.id: i for i in issues(world.state())}
    assert state["001-2"].state is IssueState.ABANDONED and state["001-2"].tries == (2,)
    # A rejection is no refutation: it waits with half its weight, and the other kind goes first.
    assert state["001-3"].tries == (3,) and seen[4].issue == "001-1"
    assert next(i.state for i in queue(issues(world.state()))) is IssueState.OPEN


def test_a_rejected_candidate_without_an_issue_opens_a_defect() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        return verdict(CANDIDATE, "OutputDiverged") if begin.step is StepKind.JUDGE and begin.round == 1 else None

    world = World(spec(rounds=2, kind="issue-queue"), results)
    seen = asked(world)
    (defect,) = issues(world.state())
    assert (defect.id, defect.kind, seen[2].issue) == ("001-0", IssueKind.DEFECT, "001-0")
    assert "OutputDiverged" in defect.title


def test_a_planner_can_withdraw_an_issue_instead_of_taking_it() -> None:
    world = queue_world(rounds=3)

    def results(begin: Begin, _: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 1:
            return plan(1).model_copy(update={"issues": IDEAS})
        if begin.step is StepKind.PLAN and begin.round == 2:
            return plan(2, parent=commit(1)).model_copy(update={"withdrawn": ("001-2",)})
        return None

    world.results = results
    seen = asked(world)
    assert seen[2].issue == "001-2" and seen[3].issue == "001-3"


# --- plans are held to it --------------------------------------------------------------------------------------------

BOUND = Directive(mode=Mode.RETURN, parents=(commit(1), None), issue="001-1", why="the line has ended")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (plan(3, parent=commit(1)).model_copy(update={"issue": "001-1"}), None),
        (plan(3).model_copy(update={"issue": "001-1"}), None),
        (plan(3, parent=commit(1)).model_copy(update={"withdrawn": ("001-1",)}), None),
        (plan(3, "stop"), None),
        (plan(2, parent=commit(1)), "for round 2"),
        (plan(3, parent=commit(2)).model_copy(update={"issue": "001-1"}), "asks for 001100000000, the empty stack"),
        (plan(3, "return", commit(2)), "asks for"),
        (plan(3, parent="f" * 40), "no candidate"),
        (plan(3, parent=commit(1)).model_copy(update={"partner": "f" * 40}), "partner"),
        (plan(3, parent=commit(1)), "take it or withdraw it"),
    ],
)
def test_a_plan_that_does_not_keep_to_the_directive_is_refused_with_a_sentence(made: Plan, said: str | None) -> None:
    found = plans.problem(made, round_number=3, directive=BOUND, known={commit(1), commit(2)})
    assert (found is None) if said is None else (found is not None and said in found)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(sorted(POLICIES)),
    seed=st.integers(0, 5),
    values=st.lists(st.one_of(st.none(), st.floats(0.5, 3.0)), min_size=1, max_size=12),
)
def test_every_policy_asks_for_something_that_can_be_done_and_for_the_same_after_a_kill(
    kind: str, seed: int, values: list[float | None]
) -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        value = values[begin.round - 1] if 0 < begin.round <= len(values) else 1.0
        if begin.step is StepKind.JUDGE and value is None:
            return verdict(CANDIDATE)
        return measured(value or 1.0, 1.002) if begin.step is StepKind.EVALUATE else None

    def make(**more: object) -> World:
        policy = {"kind": kind, "plateau_rounds": 2, "thrash_rounds": 2, "escalation": WAY_OUT}
        asked_for = spec(rounds=len(values), **policy).model_copy(update={"seed": seed})
        return World(asked_for, results, **more)  # type: ignore[arg-type]

    calm = make()
    seen = asked(calm)
    killed = make(kill=lambda _, count: count in (9, 23, 40), pause=50.0)
    assert asked(killed) == seen
    state = calm.state()
    known = set(state.parents)
    for number, directive in seen.items():
        assert set(directive.parents) - {None} <= known
        obedient = plan(number, parent=directive.parents[0] if directive.parents else None)
        obedient = obedient.model_copy(update={"issue": directive.issue})
        assert plans.problem(obedient, round_number=number, directive=directive, known=known) is None
    assert next_directive(state, 99) == next_directive(state, 99)


# --- the planted optimum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_each_policy_finds_the_planted_optimum_in_fewer_rounds_than_random_search(policy: str, kind: Kind) -> None:
    ours, theirs = list[float](), list[float]()
    for seed in range(3):
        ground = landscape(kind, seed)
        asked_for = simulated(
            seed, 60, kind=policy, plateau_rounds=4, thrash_rounds=5, escalation=["explore", "return"] * 10
        )
        ours.append(search(ground, asked_for, Planner(ground), until=optimum_found(ground)).at or 1000)
        theirs.append(random_search(ground, simulated(seed, len(ground.genomes))).at or 1000)
    assert statistics.median(ours) < statistics.median(theirs)


def test_a_dead_end_is_left_only_by_a_search_that_changes_its_policy() -> None:
    left = 0
    for seed in range(3):
        ground = landscape("dead-end", seed)
        stubborn = search(ground, simulated(seed, 60, plateau_rounds=4), Planner(ground))
        assert stubborn.at is None and stubborn.finish is not None and stubborn.finish.reason is Reason.PLATEAU
        changing = simulated(seed, 60, plateau_rounds=4, escalation=["explore", "return"] * 5)
        left += search(ground, changing, Planner(ground), until=optimum_found(ground)).at is not None
    assert left == 3


def test_the_directive_is_part_of_the_plan_step_alone() -> None:
    world = World(spec())
    begin = decide(world.state(), 0.0)
    assert isinstance(begin, Begin) and begin.step is StepKind.BASELINE and begin.directive is None
