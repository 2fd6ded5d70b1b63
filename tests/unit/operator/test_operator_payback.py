"""`payback.policy`: what can pay begins, what cannot says so before it spends, and `warn` only tells."""

from typing import Any

import pytest
from operator_world import Ends, World, live, measured, synthesis, target

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.records import BaselineRecord, GridPoint, StepKind
from sartor_api.search.snapshot import snapshot
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_operator import names
from sartor_operator.kinds import JOB, RUN, SYNTHESIS
from sartor_operator.payback import Prospect, prospect, required

DEAR = {"pricePerHour": {"amount": "3600", "currency": "EUR"}}
"""One a second."""


def wanted(**payback: Any) -> dict[str, Any]:
    return {"payback": {"policy": "require", "outputTokensPerDay": "86400", "within": "1d", **payback}}


def begun(**spec: Any) -> World:
    world = World()
    world.add(target(**DEAR))
    world.add(synthesis(**spec))
    return world


def condition(world: World, kind: str) -> tuple[str, str] | None:
    found = (c for c in world.one(SYNTHESIS)["status"]["conditions"] if c["type"] == kind)
    return next(((c["status"], c["reason"]) for c in found), None)


def ahead(price: str = "3600", score: float | None = None, **spec: Any) -> Prospect | None:
    hardware = HardwareTargetSpec.model_validate({"platform": "cpu", "pricePerHour": {"amount": price}})
    asked = ServingSynthesis.model_validate({"metadata": {"name": "e"}, "spec": synthesis(**spec)["spec"]})
    return prospect(asked.spec, hardware, snapshot(asked, now=0.0, model_folder="/m"), None, score=score)


# --- the computation ------------------------------------------------------------------------------------------------------


def test_what_a_search_takes_and_can_bring() -> None:
    # quick: baseline 150 s, a round holds the hardware for 60 + 120 s, the confirmation for 120 s, at one a second.
    found = ahead(**wanted())
    assert found is not None and (found.least, found.most) == (450.0, 630.0)
    assert found.daily == 86_400, "the most that can be saved is the price of the replica that serves"
    assert found.days == 1.0 and not found.hopeless


def test_a_throughput_that_is_known_bounds_the_saving_better() -> None:
    found = ahead(score=1000.0, **wanted())
    assert found is not None and found.daily == pytest.approx(86.4), "86.4 s of one replica serve the day"
    assert found.hopeless
    assert str(found) == (
        "at most 86.40 USD a day can be saved, 86.40 within 1 days; the search takes 450.00 at least, 630.00 with all "
        "its rounds: it cannot pay"
    )


def test_a_target_and_a_budget_bound_it_too() -> None:
    spec = wanted() | {"objective": {"minimumSpeedup": "1.2", "targetSpeedup": "2.0"}}
    found = ahead(**spec)
    assert found is not None and found.daily == 43_200, "at twice the speed half of the price is saved"
    spec = wanted() | {"budget": {"rounds": 100, "wallClock": "8h", "money": {"amount": "1000"}}}
    found = ahead(**spec)
    assert found is not None and found.most == 1000.0


def test_without_price_or_traffic_nothing_is_known() -> None:
    assert ahead() is None
    asked = ServingSynthesis.model_validate({"metadata": {"name": "e"}, "spec": synthesis(**wanted())["spec"]})
    run = snapshot(asked, now=0.0, model_folder="/m")
    assert prospect(asked.spec, HardwareTargetSpec(platform="cpu"), run, None) is None
    assert required(asked.spec, HardwareTargetSpec(platform="cpu"), run, None) is None


# --- before it begins -----------------------------------------------------------------------------------------------------


def test_what_cannot_pay_does_not_begin_and_says_so() -> None:
    world = begun(**wanted(within="1m"))
    live(world)
    assert world.all(RUN) == [] and world.all(JOB) == []
    said = world.one(SYNTHESIS)["status"]
    assert condition(world, "Stalled") == ("True", "CannotPayBack")
    assert condition(world, "PaysBack") == ("False", "CannotPayBack")
    assert "it cannot pay" in said["message"] and "Set policy warn" in said["message"]
    assert said["payback"] == {
        "cost": {"amount": "630.00", "currency": "EUR"},
        "pays": False,
        "message": said["payback"]["message"],
    }
    assert world.events() == ["Stalled"]
    before = len(world.writes)
    live(world)
    assert world.writes[before:] == []


def test_it_begins_as_soon_as_it_can_pay() -> None:
    world = begun(**wanted(within="1m"))
    live(world)
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["payback"].update(within="1d"))
    live(world, until=lambda: bool(world.all(RUN)))
    assert condition(world, "Stalled") is None


def test_warn_says_so_and_searches() -> None:
    world = begun(**wanted(policy="warn", within="1m"))
    live(world, until=lambda: "000/baseline/1/1" in world.started)
    assert condition(world, "PaysBack") == ("False", "CannotPayBack")
    assert world.one(SYNTHESIS)["status"]["payback"]["message"].startswith("expected: at most 86400.00 EUR a day")
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert len(world.all(RUN)) == 1


PRICELESS = [
    ({}, wanted(), "set spec.pricePerHour of HardwareTarget pool"),
    ({}, {"budget": {"rounds": 2, "wallClock": "8h", "money": {"amount": "9"}}}, "set its spec.pricePerHour"),
    (
        DEAR,
        {"budget": {"rounds": 2, "wallClock": "8h", "money": {"amount": "9", "currency": "USD"}}},
        "spec.budget.money is in USD, the price of HardwareTarget pool in EUR",
    ),
]


@pytest.mark.parametrize(("hardware", "spec", "said"), PRICELESS, ids=[p[2] for p in PRICELESS])
def test_money_without_a_price_is_refused(hardware: dict[str, Any], spec: dict[str, Any], said: str) -> None:
    """A bound that nothing is counted against would be none."""
    world = World()
    world.add(target(**hardware))
    world.add(synthesis(**spec))
    live(world)
    assert condition(world, "Stalled") == ("True", "PriceUnknown")
    assert said in world.one(SYNTHESIS)["status"]["message"] and world.all(RUN) == []


# --- on the way -----------------------------------------------------------------------------------------------------------


def fast_baseline(begin: Any, execution: int) -> Ends | None:
    """A baseline so fast that the traffic costs next to nothing."""
    if begin.step is not StepKind.BASELINE:
        return None
    point = GridPoint(name="default", metric=100_000.0)
    return Ends(result=BaselineRecord(engine="vllm", version="1", grid=(point,), chosen="default"))


def test_a_baseline_that_leaves_nothing_to_save_ends_it_before_the_first_round() -> None:
    world = begun(**wanted())
    world.script = fast_baseline
    live(world)
    assert world.started == ["000/baseline/1/1"], "what it took to know, and no more"
    run, said = world.one(RUN)["status"], world.one(SYNTHESIS)["status"]
    assert run["phase"] == "NoGain" and said["phase"] == "NoGain"
    assert condition(world, "Stalled") == ("True", "CannotPayBack")
    assert "spec.payback.policy is require" in said["message"]
    assert said["payback"]["pays"] is False and float(said["payback"]["cost"]["amount"]) == pytest.approx(20, abs=2)
    assert world.events().count("RunEnded") == 1


def test_other_terms_after_that_begin_again_once_and_the_old_score_decides_first() -> None:
    world = begun(**wanted())
    world.script = fast_baseline
    live(world)
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["payback"].update(within="2d"))
    live(world)
    assert len(world.all(RUN)) == 1, "by what the first run measured it still cannot pay"
    assert condition(world, "Stalled") == ("True", "CannotPayBack")
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["payback"].update(policy="warn"))
    live(world)
    assert len(world.all(RUN)) == 2 and world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_with_something_found_it_confirms_that_instead_of_going_on() -> None:
    """After the first round the steps are known to be so slow that a second one cannot pay."""

    def slow(begin: Any, execution: int) -> Ends | None:
        if begin.step is StepKind.BASELINE:
            point = GridPoint(name="default", metric=100.0)
            return Ends(result=BaselineRecord(engine="vllm", version="1", grid=(point,), chosen="default"))
        return Ends(seconds=500.0) if begin.step is StepKind.EVALUATE else None

    # 864 a day at most; 20 + 20 + 500 are spent after the first round, another would take as much again.
    world = begun(**wanted(outputTokensPerDay="86400", within="1d"), budget={"rounds": 9, "wallClock": "8h"})
    world.script = slow
    live(world)
    rounds = [s for s in world.started if s.endswith("/plan/1/1")]
    assert rounds == ["001/plan/1/1"] and world.started[-1] == "000/confirm/1/1"
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_a_search_in_vain_says_that_nothing_is_saved() -> None:
    world = begun(**wanted())
    world.script = lambda b, n: Ends(result=measured(0.9)) if b.step is StepKind.EVALUATE else None
    live(world)
    said = world.one(SYNTHESIS)["status"]["payback"]
    assert said["pays"] is False and said["message"] == "the search ended without a stack that saves anything"


def test_the_verdict_is_the_same_after_a_kill_at_every_write() -> None:
    world = begun(**wanted())
    world.script = fast_baseline
    world.kill_every = True
    live(world)
    assert world.started == ["000/baseline/1/1"] and len(world.maps(names.ENDING)) == 1
