"""Records refuse what cannot be, survive a round trip, and fold in any order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from search_world import PASSED, World, measured, spec, speedup, verdict

from sartor_api.search.budget import Ledger, shortage
from sartor_api.search.comparison import flat, gain, improves
from sartor_api.search.records import (
    Budget,
    Cost,
    FailureClass,
    Judgement,
    Measurement,
    Plan,
    RunSpec,
    SeedCommitment,
    Speedup,
    StepRecord,
    Verdict,
)
from sartor_api.search.state import fold


@pytest.mark.parametrize(
    "make",
    [
        lambda: Speedup(value=2.0, low=2.1, high=2.2, n=3),
        lambda: Speedup(value=float("nan"), low=1, high=2, n=3),
        lambda: Verdict(gate="g", passed=False, reason="Broken"),
        lambda: Verdict(gate="g", passed=True, reason="Passed", failure_class=FailureClass.CANDIDATE),
        lambda: Verdict(gate="g", passed=True, reason="not a constant"),
        lambda: Measurement(metric="m", valid=True),
        lambda: Measurement(metric="m", valid=False, speedup=speedup(2.0)),
        lambda: Measurement(metric="m", valid=False, invalid_reason="Contended"),
        lambda: Plan(round=1, action="return", hypothesis="back"),
        lambda: SeedCommitment(digest="0" * 64, value="another"),
        lambda: Judgement(verdicts=()),
        lambda: Plan(round=1, action="build", hypothesis="x", surprise=1),
        lambda: StepRecord(id="a", sequence=1, step="judge", round=1, started=0, finished=1, result=measured(2.0)),
        lambda: StepRecord(id="a", sequence=1, step="judge", round=1, started=2, finished=1, result=PASSED),
        lambda: StepRecord(
            id="a",
            sequence=1,
            step="plan",
            round=1,
            started=0,
            finished=1,
            result=verdict(FailureClass.CANDIDATE),
        ),
    ],
)
def test_what_cannot_be_is_refused(make) -> None:
    with pytest.raises(ValidationError):
        make()


def test_records_are_frozen_and_round_trip_through_json() -> None:
    world = World(spec(rounds=2))
    world.run()
    with pytest.raises(ValidationError):
        world.records[0].sequence = 7
    for record in world.records:
        assert StepRecord.model_validate_json(record.model_dump_json()) == record
    assert RunSpec.model_validate_json(world.spec.model_dump_json()) == world.spec


def test_the_content_hash_follows_every_field() -> None:
    one = spec(rounds=2)
    assert one.content_hash() == spec(rounds=2).content_hash()
    assert one.content_hash() != spec(rounds=3).content_hash()


@given(st.randoms(use_true_random=False))
def test_folding_is_indifferent_to_order_and_repetition(random) -> None:
    world = World(spec(rounds=2))
    world.run()
    shuffled = [*world.records, *world.records[:3]]
    random.shuffle(shuffled)
    assert fold(world.spec, shuffled, ledger=world.ledger, session_started=world.session) == world.state()


def test_a_lost_or_forged_record_is_noticed() -> None:
    world = World(spec(rounds=1))
    world.run()
    without = [r for r in world.records if r.sequence != 3]
    with pytest.raises(ValueError, match="record number 3 of the run is missing"):
        fold(world.spec, without, ledger=world.ledger, session_started=0)
    forged = world.records[2].model_copy(update={"finished": 1e9})
    with pytest.raises(ValueError, match="two different records have the id"):
        fold(world.spec, [*world.records, forged], ledger=world.ledger, session_started=0)
    twice = world.records[2].model_copy(update={"id": "another"})
    with pytest.raises(ValueError, match="appears twice"):
        fold(world.spec, [*world.records, twice], ledger=world.ledger, session_started=0)


@given(st.floats(1.01, 5), st.floats(1.001, 1.5), st.floats(1.01, 5), st.floats(1.001, 1.5))
def test_a_gain_is_less_certain_than_either_side_and_of_itself_is_none(
    a: float, spread_a: float, b: float, spread_b: float
) -> None:
    one, other = speedup(a, spread_a), speedup(b, spread_b)
    ratio = gain(one, other)
    assert ratio.value == pytest.approx(a / b)
    assert ratio.value / ratio.low >= max(spread_a, spread_b) * (1 - 1e-9)
    assert ratio.high / ratio.value >= max(spread_a, spread_b) * (1 - 1e-9)
    assert not improves(one, one, 0.02)
    assert not (improves(one, other, 0.02) and flat(one, other, 0.02))


def test_the_keep_rule_wants_a_certain_gain_and_a_large_enough_estimate() -> None:
    assert improves(Speedup(value=1.05, low=1.001, high=1.1, n=4), None, 0.02)
    assert not improves(Speedup(value=3.0, low=1.0, high=9.0, n=4), None, 0.02)
    assert not improves(Speedup(value=1.019, low=1.015, high=1.023, n=4), None, 0.02)
    assert not improves(speedup(2.1, 1.1), speedup(2.0, 1.1), 0.02)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 100), st.integers(0, 100)), max_size=20))
def test_the_ledger_is_replay_safe_and_never_forgets_a_cost(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger()
    first: dict[str, int] = {}
    for name, reserved, settled in steps:
        for _ in range(2):
            ledger = ledger.reserve(name, Cost(tokens=reserved), now=0, deadline=1)
        for _ in range(2):
            ledger = ledger.settle(name, Cost(tokens=settled))
        first.setdefault(name, settled)
        assert Ledger.model_validate_json(ledger.model_dump_json()) == ledger
    assert ledger.spent.tokens == sum(first.values())
    with pytest.raises(KeyError):
        ledger.settle("never reserved", Cost())


def test_a_lost_step_is_charged_its_reservation() -> None:
    ledger = Ledger().reserve("a", Cost(tokens=7), now=0, deadline=1)
    assert ledger.in_flight and ledger.spent.tokens == 7
    lost = ledger.abandon_open()
    assert not lost.in_flight and lost.spent.tokens == 7 and lost.entries[0].abandoned
    assert lost.abandon_open() == lost and lost.settle("a", Cost(tokens=1)) == lost


def test_a_budget_is_short_only_of_what_is_wanted() -> None:
    budget = Budget(tokens=10, money=1.0)
    assert shortage(budget, Cost(tokens=10), Cost(money=1.0)) is None
    assert shortage(budget, Cost(tokens=10), Cost(tokens=1)) == "tokens"
    assert shortage(budget, Cost(money=0.5), Cost(money=0.6)) == "money"
    assert shortage(Budget(), Cost(tokens=10**12), Cost(tokens=1)) is None
