"""Budgets are kept before each paid step, rounds never spend what the confirmation needs, and humans can end a search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import KilledError, World, measured, spec, verdict
from test_search_snapshot import synthesis

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.search.agents import agent_settings
from sartor_api.search.control import last_round
from sartor_api.search.decide import Begin, decide
from sartor_api.search.estimate import held_cost
from sartor_api.search.reasons import Reason
from sartor_api.search.records import Budget, Cost, FailureClass, Outcome, RunSpec, StepKind, StepResult
from sartor_api.search.snapshot import ENDING_SECONDS, LOOKS, snapshot
from sartor_api.search.spending import standing

PROFILE = AgentProfileSpec.model_validate(
    {
        "backend": "openai",
        "endpoints": [{"url": "https://models.example.com/v1"}],
        "model": "m",
        "prices": [{"model": "m", "input": "1", "output": "10"}, {"model": "n", "input": "2", "output": "4"}],
        "limits": {"tokensPerStep": "100k", "tokensPerRun": "3M", "stepTimeout": "30m"},
    }
)


def priced(price: float = 3600.0, *, share: float = 0.0, reserve: Cost | None = None, **budget: float) -> World:
    asked = spec(rounds=99, accelerators=1, reserve=reserve)
    limits = asked.budget.model_copy(update={"confirmation_share": share, **budget})
    return World(asked.model_copy(update={"price_per_hour": price, "budget": limits}))


def last_of(asked: RunSpec, rounds: int) -> RunSpec:
    return asked.model_copy(update={"budget": asked.budget.model_copy(update={"rounds": rounds})})


def test_hardware_has_a_price_and_steps_without_it_have_none() -> None:
    asked = priced().spec
    assert held_cost(asked, StepKind.JUDGE, 36.0) == Cost(accelerator_seconds=36.0, money=36.0)
    assert held_cost(asked, StepKind.PLAN, 36.0) == Cost()
    free = asked.model_copy(update={"price_per_hour": None})
    assert held_cost(free, StepKind.JUDGE, 36.0).money == 0.0


@pytest.mark.parametrize("money", [200.0, 231.0, 260.0, 400.0])
def test_money_for_hardware_is_reserved_before_each_step_and_the_confirmation_is_still_paid(money: float) -> None:
    # Baseline 100, a round 30, the confirmation 30, at one a second: nothing may begin that would leave less than 30.
    world = priced(money=money)
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.MONEY_SPENT)
    assert world.ledger.spent.money <= money < world.ledger.spent.money + 30, "as much as fits, and no more"


def test_the_share_that_is_set_aside_is_left_for_the_confirmation() -> None:
    without, with_share = priced(accelerator_seconds=1000.0), priced(accelerator_seconds=1000.0, share=0.5)
    without.run(), with_share.run()
    rounds = [len(w.state().closed_rounds) for w in (without, with_share)]
    # 1000 - 100 - 30 of 30 each; with half kept back 500 - 100.
    assert rounds == [29, 13]
    assert with_share.state().confirmations


def test_the_share_is_kept_of_the_wall_clock_too_and_of_nothing_that_a_confirmation_does_not_use() -> None:
    world = World(spec(rounds=99, wall_clock_seconds=1000.0))
    limits = world.spec.budget.model_copy(update={"confirmation_share": 0.4})
    world.spec = world.spec.model_copy(update={"budget": limits})
    finish = world.run()
    last_round_end = max(r.finished for r in world.records if r.round)
    assert finish.reason is Reason.WALL_CLOCK_SPENT and 600 - 33 < last_round_end <= 600
    tokens = World(spec(rounds=3, tokens=30), cost=Cost())
    tokens.spec = tokens.spec.model_copy(
        update={"budget": tokens.spec.budget.model_copy(update={"confirmation_share": 0.5})}
    )
    assert tokens.run().reason is Reason.ROUNDS_SPENT, "no step wants tokens, so none are kept back"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(200, 3000), st.integers(1, 400), st.floats(0, 0.5), st.integers(1, 50),
)  # fmt: skip
def test_no_budget_is_ever_overdrawn_by_steps_that_keep_to_what_was_reserved(
    money: int, tokens: int, share: float, used: int
) -> None:
    reserve = Cost(tokens=50, money=5.0)
    world = priced(share=share, reserve=reserve, money=float(money), tokens=tokens)
    world.cost = Cost(tokens=used, money=used / 10)
    world.run()
    spent = world.ledger.spent
    assert spent.tokens <= tokens and spent.money <= money + 1e-6


def test_a_baseline_that_no_budget_holds_is_not_begun() -> None:
    world = priced(money=99.0)
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.MONEY_SPENT) and world.records == []


def test_a_confirmation_is_tried_again_only_while_the_budget_holds_another() -> None:
    def results(begin: Begin, _: int) -> StepResult | None:
        return verdict(FailureClass.INFRASTRUCTURE) if begin.step is StepKind.CONFIRM else None

    world = priced(money=1000.0)
    world.spec, world.results = last_of(world.spec, rounds=1), results
    tight = priced(money=165.0)
    tight.spec, tight.results = last_of(tight.spec, rounds=1), results
    for one, tries in ((world, 3), (tight, 1)):
        finish = one.run()
        assert (finish.outcome, finish.reason) == (Outcome.FAILED, Reason.CONFIRMATION_UNAVAILABLE)
        assert sum(r.step is StepKind.CONFIRM for r in one.records) == tries
        assert one.ledger.spent.money <= (one.spec.budget.money or 0)


def test_a_runner_up_is_confirmed_only_while_the_budget_holds_it() -> None:
    refuting = lambda b, _: measured(1.0) if b.step is StepKind.CONFIRM else None  # noqa: E731
    for money, tries in ((1000.0, 2), (200.0, 1)):
        world = priced(money=money)
        world.spec, world.results = last_of(world.spec, rounds=2), refuting
        assert world.run().reason is Reason.CONFIRMATION_REFUTED
        assert sum(r.step is StepKind.CONFIRM for r in world.records) == tries


def test_what_an_agents_step_may_use_is_the_profiles_limit_at_its_dearest_price() -> None:
    assert agent_settings(PROFILE).reserve("planner") == Cost(tokens=100_000, money=1.0)
    assert agent_settings(AgentProfileSpec()).reserve("planner") == Cost(), "the playbook pays nothing"


def test_a_profile_bounds_what_a_synthesis_asks_for() -> None:
    more = '  budget: {tokens: 20M, confirmationReserve: 20, money: {amount: "7"}}\n'
    run = snapshot(synthesis("chat", more), now=0, model_folder="m", profile=PROFILE, price_per_hour=2.5)
    assert run.budget.tokens == 3_000_000 and run.budget.money == 7.0 and run.price_per_hour == 2.5
    assert run.budget.confirmation_share == 0.2
    reserve = Cost(tokens=100_000, money=1.0)
    assert run.policy.steps[StepKind.PLAN].reserve == run.policy.steps[StepKind.IMPLEMENT].reserve == reserve
    assert run.policy.steps[StepKind.PLAN].deadline_seconds == 1800 + ENDING_SECONDS
    assert run.policy.steps[StepKind.JUDGE].reserve == Cost()
    less = snapshot(synthesis("chat", "  budget: {tokens: 1M}\n"), now=0, model_folder="m", profile=PROFILE)
    assert less.budget.tokens == 1_000_000


def test_what_a_model_is_paid_for_is_measured_again_before_it_is_given_up() -> None:
    paid = snapshot(synthesis("chat", ""), now=0, model_folder="m", profile=PROFILE)
    assert paid.policy.looks == LOOKS > 1
    assert snapshot(synthesis("chat", ""), now=0, model_folder="m").policy.looks == 1, "the playbook's next is as cheap"


def test_the_standing_tells_what_steps_in_flight_may_still_use() -> None:
    world = World(spec(reserve=Cost(tokens=70, money=0.5), tokens=1000))
    begin = decide(world.state(), 0.0)
    assert isinstance(begin, Begin)
    world.ledger = world.ledger.reserve(begin.id, begin.reserve, now=0.0, deadline=9.0)
    told = {one.name: one for one in standing(world.state())}
    assert (told["tokens"].spent, told["tokens"].reserved, told["tokens"].limit) == (0, 70, 1000)
    world.ledger = world.ledger.settle(begin.id, Cost(tokens=20))
    told = {one.name: one for one in standing(world.state())}
    assert (told["tokens"].spent, told["tokens"].reserved) == (20, 0)
    assert "accelerator" not in told, "neither used nor limited"


def test_the_last_round_is_the_one_that_was_begun() -> None:
    world = World(spec(rounds=9), kill=lambda _, count: count == 26)
    with pytest.raises(KilledError):
        world.session_once()
    begun = max(r.round for r in world.records)
    assert begun == 2
    world.spec, world.kill = last_round(world.state()).spec, lambda _p, _c: False
    finish = world.run()
    assert (finish.outcome, finish.reason) == (Outcome.CONFIRMED, Reason.ROUNDS_SPENT)
    assert len(world.state().rounds) == 2
    assert last_round(World(spec(rounds=9)).state()).spec.budget == Budget(rounds=0, wall_clock_seconds=1e6)
