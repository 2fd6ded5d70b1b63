"""What a status and a metric say: payback, costs, series that end with their objects."""

import asyncio

import pytest
from operator_world import NAMESPACE, START, Process, World, live, synthesis, target
from prometheus_client import generate_latest

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.budget import Ledger
from sartor_api.search.records import BaselineRecord, GridPoint, RunSpec, Speedup, StepKind, StepRecord
from sartor_api.search.snapshot import snapshot
from sartor_api.search.state import fold
from sartor_api.serving_synthesis import ServingSynthesis, ServingSynthesisSpec
from sartor_operator import names
from sartor_operator.actions import Tell
from sartor_operator.kinds import CANDIDATE, RUN, SYNTHESIS
from sartor_operator.payback import payback
from sartor_operator.shown import decimal, shown_speedup
from sartor_operator.synthesis.intent import intent_of

PRICED = {"pricePerHour": {"amount": "3.60", "currency": "EUR"}}


def spec_of(**changes: object) -> ServingSynthesisSpec:
    return ServingSynthesisSpec.model_validate(synthesis(**changes)["spec"])


def run_spec() -> RunSpec:
    wanted = ServingSynthesis.model_validate({"metadata": {"name": "editor"}, "spec": synthesis()["spec"]})
    return snapshot(wanted, now=0.0, model_folder="/model")


def test_payback_is_the_share_of_hardware_that_each_token_saves() -> None:
    point = GridPoint(name="g", metric=1000.0)
    baseline = BaselineRecord(engine="vllm", version="1", grid=(point,), chosen="g")
    record = StepRecord(
        id="000/baseline/1/1", sequence=1, step=StepKind.BASELINE, round=0, started=0, finished=86_400, result=baseline
    )
    run = fold(run_spec(), [record], ledger=Ledger(), session_started=86_400.0)
    hardware = HardwareTargetSpec.model_validate({"platform": "cpu", **PRICED})
    spec = spec_of(payback={"outputTokensPerDay": "86400k", "within": "30d"})
    cost = hardware.price_per_hour
    assert cost is not None
    # 86.4 M tokens at 1,000 a second are 24 hours of one replica: 86.40 a day; twice as fast saves half of it.
    twice = Speedup(value=2.1, low=2.0, high=2.2, n=9)
    said = payback(
        spec, hardware, run.spec, run, cost=cost.model_copy(update={"amount": decimal(432.0)}), speedup=twice
    )
    assert said is not None and said.saved_per_day is not None and said.earned_back_at is not None
    assert str(said.saved_per_day.amount) == "43.20" and said.saved_per_day.currency == "EUR"
    assert said.pays is True and said.message.startswith("earned back after 10.0 days")
    assert said.earned_back_at.timestamp() == 11 * 86_400
    slow = payback(spec_of(payback={"outputTokensPerDay": "1k"}), hardware, run.spec, run, cost=cost, speedup=twice)
    assert slow is not None and slow.pays is False
    unknown = payback(spec_of(), hardware, run.spec, run, cost=cost, speedup=twice)
    assert unknown is not None and unknown.pays is None and "outputTokensPerDay" in unknown.message
    assert payback(spec, HardwareTargetSpec(platform="cpu"), run.spec, run, cost=None, speedup=twice) is None


def test_costs_are_booked_by_time_and_shown_with_the_next_round() -> None:
    world = World()
    world.add(target(**PRICED))
    world.add(synthesis())
    live(world, until=lambda: len(world.started) > 5)
    ssyn, run = world.one(SYNTHESIS)["status"], world.one(RUN)["status"]
    assert float(run["spent"]["money"]["amount"]) > 0 and run["spent"]["money"]["currency"] == "EUR"
    assert ssyn["nextRoundCost"]["rounds"] == 1
    assert float(ssyn["nextRoundCost"]["money"]["amount"]) > 0
    live(world)
    spent = world.one(SYNTHESIS)["status"]["spent"]
    # Six steps held the hardware (baseline, two judged and measured rounds, confirmation), about 20 s each, at 3.60 an hour.
    assert float(spent["money"]["amount"]) == pytest.approx(6 * 21 / 3600 * 3.6, abs=0.03)
    assert "nextRoundCost" not in world.one(SYNTHESIS)["status"]


def test_a_speedup_is_never_shown_without_its_interval() -> None:
    shown = shown_speedup(Speedup(value=2.3149, low=2.244, high=2.379, n=12), confirmed=True)
    assert shown.text == "2.31× (2.24–2.38, n=12)"
    assert (str(shown.value), str(shown.low), str(shown.high)) == ("2.3149", "2.2440", "2.3790")


def test_intent_ignores_what_no_search_depends_on() -> None:
    plain = intent_of(spec_of())
    assert plain == intent_of(spec_of(suspend=True, delivery={"replicas": 2}, baseline={"replicas": 3}))
    assert plain == intent_of(spec_of(agents={"skills": True})), "a default that is written out is no other intent"
    assert plain != intent_of(spec_of(objective={"minimumSpeedup": "1.3"}))
    assert plain != intent_of(spec_of(baseline={"arguments": ["--x"]}))


def test_series_follow_their_objects() -> None:
    world = World()
    world.add(target())
    world.add(synthesis())
    process = live(world, until=lambda: "001/plan/1/1" in world.started)
    text = generate_latest(process.metrics.registry).decode()
    run = names.name_of(world.one(RUN))
    assert f'sartor_synthesis_phase{{name="editor",namespace="{NAMESPACE}",phase="Searching"}} 1.0' in text
    assert f'sartor_run_rounds{{name="{run}",namespace="{NAMESPACE}"}}' in text
    assert 'phase="Pending"' not in text, "a synthesis is in one phase"
    process.stop()
    process = live(world)
    text = generate_latest(process.metrics.registry).decode()
    assert 'phase="Serving"' in text and f'name="{run}"' not in text


def test_candidates_say_what_they_claimed_and_what_came_of_it() -> None:
    world = World()
    world.add(target())
    world.add(synthesis())
    live(world)
    first, second = sorted(world.all(CANDIDATE), key=lambda c: c["spec"]["round"])
    assert first["spec"]["hypothesis"]["summary"] == "hypothesis 1"
    assert first["spec"]["branch"] == "candidate/001"
    assert [v["gate"] for v in second["status"]["verdicts"]] == ["exact-greedy"]
    assert second["status"]["speedup"]["text"].startswith("1.82×")
    assert second["status"]["contentHash"].startswith("sha256:")
    assert second["status"]["evidence"] and second["status"]["finishedAt"]


def test_an_event_is_one_event_however_often_it_is_told() -> None:
    world = World()
    world.add(target())
    about = world.add(synthesis())
    process = Process(world)

    async def twice() -> None:
        for _ in range(2):
            await process.controller._applier.act(Tell(about, "RunStarted", "it begins", "key"))

    asyncio.run(twice())
    assert world.events() == ["RunStarted"]
    assert world.now == START
