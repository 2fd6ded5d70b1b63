"""The playbook under each search policy: it finds the best stack that its recipes can make, alone and side by side."""

import math
import sys
from pathlib import Path

import pytest

from sartor_agents.backends.playbook.directed import directed, selection_of
from sartor_agents.backends.protocol import HardwareFacts, PlanContext
from sartor_api.search import plans
from sartor_api.search.decide import Begin
from sartor_api.search.directive import Directive, Mode
from sartor_api.search.issues import issues
from sartor_api.search.policies import POLICIES
from sartor_api.search.records import FailureClass, Plan, StepKind, StepResult, Verdict
from sartor_api.search.state import RunState

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from search_world import World, good, measured, spec  # isort: skip
from side_by_side import SideBySide, wide  # isort: skip

from test_planner import RECIPES  # isort: skip

SPEED = {"fast": math.log(1.5), "plain": math.log(0.8), "draft": math.log(1.6), "lookup": math.log(1.2)}
"""What each recipe multiplies the speed by."""
THREADS = {1: 0.0, 2: 0.2, 4: 0.5}
WIDTH = {8: 0.15, 16: 0.0, 32: -0.1}
BEST = math.exp(SPEED["fast"] + THREADS[2] + SPEED["draft"] + WIDTH[8])
"""On two cores."""


def truth(plan: Plan) -> float:
    uses = {use.name: use.parameters for use in plan.recipes}
    worth = sum(SPEED.get(name, 0.0) for name in uses)
    if "fast" in uses:
        worth += THREADS[int(str(uses["fast"].get("THREADS", 1)))]
    if "draft" in uses:
        worth += WIDTH[int(str(uses["draft"].get("WIDTH", 16)))]
    return math.exp(worth)


def context(run: RunState, begin: Begin) -> PlanContext:
    assert run.baseline is not None
    return PlanContext(
        run=run.spec, round=begin.round, model_dir=Path("/model"), baseline=run.baseline, rounds=run.closed_rounds,
        hardware=HardwareFacts(platform="cpu", cores=2, memory_bytes=1 << 34),
        in_work=tuple(one for one in run.open_rounds if one.number != begin.round),
        incumbent=run.best.round if run.best else None, head=run.head,
        directive=begin.directive or Directive(), issues=issues(run),
    )  # fmt: skip


def playbook(world: World) -> World:
    """The world with the playbook as its planner and the truth as its evaluator."""

    def results(begin: Begin, _failures: int) -> StepResult | None:
        run = world.state()
        if begin.step is StepKind.PLAN:
            made = directed(context(run, begin), RECIPES)
            said = plans.problem(made, round_number=begin.round, directive=begin.directive, known=run.parents)
            assert said is None, said
            return made
        if begin.step is StepKind.EVALUATE:
            current = run.round(begin.round)
            assert current is not None and current.plan is not None
            return measured(truth(current.plan), 1.002)
        return None

    world.results = results
    return world


def keys(run: RunState) -> list[str]:
    return [selection_of(r.plan.recipes).key() for r in run.rounds if r.plan is not None and r.plan.action == "build"]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("parallelism", [1, 3])
def test_each_policy_finds_the_best_stack_and_builds_none_twice(policy: str, parallelism: int) -> None:
    asked = wide(parallelism, kind=policy, rounds=30, escalation=[Mode.EXPLORE, Mode.RETURN], plateau_rounds=4)
    world = playbook(SideBySide(asked))
    finish = world.run()
    run = world.state()
    assert finish.best is not None and finish.best.speedup.value == pytest.approx(BEST)
    assert len(set(keys(run))) == len(keys(run))


def test_the_policies_differ_in_more_than_their_names() -> None:
    order = {}
    for policy in POLICIES:
        world = playbook(World(spec(kind=policy, rounds=12, plateau_rounds=100)))
        world.run()
        order[policy] = tuple(keys(world.state()))
    assert len(set(order.values())) == 3
    taken = playbook(World(spec(kind="issue-queue", rounds=6)))
    taken.run()
    assert [r.plan.issue for r in taken.state().rounds if r.plan and r.plan.issue], "issues are taken from the queue"
    bred = playbook(World(spec(kind="evolutionary", rounds=20, plateau_rounds=100)))
    bred.run()
    assert [r.plan.partner for r in bred.state().rounds if r.plan and r.plan.partner], "two stacks are recombined"


def test_what_is_in_work_is_neither_made_again_nor_taken_for_rejected() -> None:
    world = playbook(SideBySide(wide(2, rounds=4)))
    told = world.results

    def results(begin: Begin, failures: int) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 2:
            made = context(world.state(), begin)
            assert [one.number for one in made.in_work] == [1] and made.rounds == ()
        return told(begin, failures)

    world.results = results
    world.run()
    assert keys(world.state())[:2] == ["core(); fast(THREADS=2)", "core(); plain()"]


def test_a_recipe_that_the_gates_rejected_gives_way_to_its_rival() -> None:
    world = playbook(World(spec(rounds=12, plateau_rounds=100)))
    told = world.results

    def results(begin: Begin, failures: int) -> StepResult | None:
        run = world.state()
        current = run.round(begin.round)
        drafts = current is not None and current.plan is not None and "draft" in {u.name for u in current.plan.recipes}
        if begin.step is StepKind.JUDGE and drafts:
            bad = Verdict(gate="greedy", passed=False, reason="Diverged", failure_class=FailureClass.CANDIDATE)
            return good(begin).model_copy(update={"verdicts": (bad,)})
        return told(begin, failures)

    world.results = results
    finish = world.run()
    assert finish.best is not None
    assert finish.best.speedup.value == pytest.approx(math.exp(SPEED["fast"] + THREADS[2] + SPEED["lookup"]))
