"""Searching again: who asks, what changed, when it may begin, and that what serves goes on serving."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from operator_world import NAMESPACE, START, Ends, Process, World, live, measured, node, synthesis, target

from sartor_api.hardware_target import HardwareTargetSpec
from sartor_api.search.records import StepKind
from sartor_api.synthesis_run import RunCause, SynthesisRunStatus
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import DEPLOYMENT, NODE, RUN, SYNTHESIS, TARGET, Manifest
from sartor_operator.settings import DefaultImages, Settings
from sartor_operator.synthesis import resynthesis
from sartor_operator.synthesis.observe import RunSeen, SynthesisObserved, observe_synthesis

WEEK = 7 * 86_400
H100 = {"nvidia.com/gpu.product": "H100", "nvidia.com/cuda.driver-version.full": "550.1"}
GPU = {"platform": "cuda", "accelerator": {"resource": "nvidia.com/gpu", "count": 1}}


def begun(*triggers: str, **spec: Any) -> World:
    world = World()
    world.add(target(**GPU))
    world.add(node("a", H100, allocatable={"nvidia.com/gpu": "8"}))
    short = {"rounds": 1, "wallClock": "8h"}
    world.add(synthesis(budget=short, resynthesis={"triggers": list(triggers)}, **spec))
    return world


def served(*triggers: str, **spec: Any) -> World:
    world = begun(*triggers, **spec)
    live(world).stop()
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    return world


def go_on(world: World) -> None:
    live(world).stop()


def label(world: World, name: str, **labels: str) -> None:
    """Another driver or product of a node."""
    keys = {"driver": "nvidia.com/cuda.driver-version.full", "product": "nvidia.com/gpu.product"}
    world.edit(
        NODE, name, lambda m: m["metadata"]["labels"].update({keys[k]: v for k, v in labels.items()}), namespace=""
    )


def ask(world: World, value: str | None) -> None:
    def change(m: Manifest) -> None:
        annotations = m["metadata"].setdefault("annotations", {})
        annotations.pop(resynthesis.REQUEST, None)
        annotations.update({} if value is None else {resynthesis.REQUEST: value})

    world.edit(SYNTHESIS, "editor", change)


def runs(world: World) -> list[Manifest]:
    return sorted(world.all(RUN), key=number)


def number(run: Manifest) -> int:
    return int(names.name_of(run).split("-")[1])


def causes(world: World) -> list[str]:
    return [r["spec"]["cause"] for r in runs(world)]


def status(world: World) -> dict[str, Any]:
    return world.one(SYNTHESIS)["status"]


def ready(world: World) -> tuple[str, str]:
    found = next(c for c in status(world)["conditions"] if c["type"] == "Ready")
    return found["status"], found["reason"]


# --- a human asks ---------------------------------------------------------------------------------------------------------


def test_another_value_of_the_annotation_asks_once_and_at_once() -> None:
    world = served()
    stack = next(d for d in world.all(DEPLOYMENT) if names.label(d, names.ROLE_LABEL) == "serving-stack")
    ask(world, "2026-11-21")
    live(world, until=lambda: len(world.all(RUN)) == 2 and len(world.started) == 8).stop()
    assert causes(world) == ["Created", "Manual"]
    assert status(world)["phase"] == "Searching"
    assert status(world)["servingRun"]["name"] == names.name_of(runs(world)[0])
    there = world.store[DEPLOYMENT, NAMESPACE, names.name_of(stack)]
    assert there["spec"] == stack["spec"], "what serves goes on serving"
    go_on(world)
    assert status(world)["phase"] == "Serving" and len(world.all(RUN)) == 2
    before = len(world.writes)
    go_on(world)
    assert world.writes[before:] == [], "the same value asks for nothing"


def test_the_annotation_is_safe_to_apply_again_to_remove_and_to_have_from_the_start() -> None:
    world = World()
    world.add(target())
    manifest = synthesis(budget={"rounds": 1, "wallClock": "8h"})
    manifest["metadata"]["annotations"] = {resynthesis.REQUEST: "a"}
    world.add(manifest)
    go_on(world)
    assert len(world.all(RUN)) == 1, "what is there from the start asks for nothing more"
    for value in ("a", None, "a"):
        ask(world, value)
        go_on(world)
        assert len(world.all(RUN)) == 1
    ask(world, "b")
    go_on(world)
    assert causes(world) == ["Created", "Manual"]
    ask(world, "a")
    go_on(world)
    assert causes(world) == ["Created", "Manual", "Manual"], "another value is another wish, also one that was there"


def test_what_is_asked_during_a_search_begins_after_it() -> None:
    world = begun()
    live(world, until=lambda: "001/plan/1/1" in world.started).stop()
    for value in ("a", "b", "c"):
        ask(world, value)
        live(world, until=lambda: "001/implement/1/1" in world.started).stop()
    assert len(world.all(RUN)) == 1
    go_on(world)
    assert (
        causes(world) == ["Created", "Manual"] and runs(world)[1]["spec"]["snapshot"]["environment"]["request"] == "c"
    )


def test_asking_works_after_a_search_in_vain_and_not_while_suspended() -> None:
    world = begun()
    world.script = lambda b, n: Ends(result=measured(0.9)) if b.step is StepKind.EVALUATE else None
    go_on(world)
    assert status(world)["phase"] == "NoGain" and resynthesis.REQUEST in status(world)["message"]
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(suspend=True))
    ask(world, "again")
    go_on(world)
    assert len(world.all(RUN)) == 1 and "spec.suspend holds it" in status(world)["message"]
    world.script = lambda _b, _n: None
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(suspend=False))
    go_on(world)
    assert status(world)["phase"] == "Serving" and len(world.all(RUN)) == 2


def test_killed_at_every_write_it_is_asked_for_once() -> None:
    world = served()
    ask(world, "x")
    world.kill_every = True
    go_on(world)
    assert causes(world) == ["Created", "Manual"]
    jobs = [w for w in world.writes if w.startswith("create Job")]
    assert len(jobs) == len(set(jobs)) == 12


def test_a_cache_that_does_not_see_the_newest_run_makes_no_second_one() -> None:
    world = served()
    ask(world, "x")
    stale = Process(world, stale=lambda kind: kind is RUN)
    asyncio.run(stale.controller.reconcile((SYNTHESIS, NAMESPACE, "editor")))
    stale.stop()
    blind = Process(world)
    newest = names.name_of(runs(world)[1])
    blind.cache._objects[RUN].pop((NAMESPACE, newest))  # a watch that lags
    for index in list(blind.cache._index.values()):
        index.pop((NAMESPACE, newest), None)
    asyncio.run(blind.controller.reconcile((SYNTHESIS, NAMESPACE, "editor")))
    assert len(world.all(RUN)) == 2


# --- triggers -------------------------------------------------------------------------------------------------------------


def driver(world: World) -> None:
    label(world, "a", driver="560.2")


def product(world: World) -> None:
    label(world, "a", product="H200")


def asks_for_more(world: World) -> None:
    world.edit(TARGET, "pool", lambda m: m["spec"]["accelerator"].update(count=2), namespace="")


def image_of_the_target(world: World) -> None:
    world.edit(TARGET, "pool", lambda m: m["spec"].update(images={"baseline": "r.example/vllm:2"}), namespace="")


def image_of_the_installation(world: World) -> None:
    world.settings = Settings(images=DefaultImages(baseline="r.example/vllm:3"))


CHANGES = [
    ("driver", driver, "Driver", "driver 550.1 → 560.2"),
    ("hardware", product, "Hardware", "hardware H100 → H200"),
    ("hardware", asks_for_more, "Hardware", "HardwareTarget pool: spec.accelerator changed"),
    (
        "baselineVersion",
        image_of_the_target,
        "BaselineVersion",
        "baseline image sartor-baseline:0.1.0 → r.example/vllm:2",
    ),
    ("baselineVersion", image_of_the_installation, "BaselineVersion", "→ r.example/vllm:3"),
]


@pytest.mark.parametrize(("trigger", "change", "cause", "said"), CHANGES, ids=[c[1].__name__ for c in CHANGES])
def test_a_change_begins_one_search_after_the_cooldown(trigger: str, change: Any, cause: str, said: str) -> None:
    world = served(trigger)
    change(world)
    process = Process(world)
    asyncio.run(process.work())
    assert len(world.all(RUN)) == 1
    assert ready(world) == ("True", "Cooldown"), "it serves, and waits"
    assert said in status(world)["message"] and "it begins when the cooldown ends" in status(world)["message"]
    wake = process.wakes[SYNTHESIS, NAMESPACE, "editor"]
    ended = runs(world)[0]["status"]["finishedAt"]
    assert 0 < wake - START < WEEK + 3600 and ended
    before = len(world.writes)
    asyncio.run(process.work())
    process.stop()
    assert world.writes[before:] == [], "waiting writes nothing"
    go_on(world)
    assert causes(world) == ["Created", cause] and world.now >= wake
    assert status(world)["phase"] == "Serving" and ready(world) == ("True", "Succeeded")
    world.now += 3 * WEEK
    go_on(world)
    assert len(world.all(RUN)) == 2, "each change starts one search"


@pytest.mark.parametrize(("trigger", "change"), [c[:2] for c in CHANGES], ids=[c[1].__name__ for c in CHANGES])
def test_what_is_not_asked_for_begins_nothing(trigger: str, change: Any) -> None:
    world = served(*({"driver", "hardware", "baselineVersion"} - {trigger}))
    change(world)
    world.now += 2 * WEEK
    go_on(world)
    assert len(world.all(RUN)) == 1 and ready(world) == ("True", "Succeeded")


def test_a_rolling_update_of_the_nodes_is_one_change_at_its_end() -> None:
    world = served("driver")
    world.now += 2 * WEEK
    world.add(node("b", {**H100, "nvidia.com/cuda.driver-version.full": "560.2"}, allocatable={"nvidia.com/gpu": "8"}))
    go_on(world)
    assert world.one(TARGET)["status"]["driverVersion"] == "550.1, 560.2" and len(world.all(RUN)) == 1
    label(world, "a", driver="560.2")
    go_on(world)
    assert causes(world) == ["Created", "Driver"]


def test_nodes_that_go_and_come_back_are_no_change() -> None:
    world = served("driver", "hardware")
    world.now += 2 * WEEK
    gone = world.store[NODE, "", "a"]
    world.remove((NODE, "", "a"))
    go_on(world)
    assert len(world.all(RUN)) == 1
    world.add({k: v for k, v in gone.items() if k != "metadata"} | {"metadata": {"name": "a", "labels": H100}})
    go_on(world)
    assert len(world.all(RUN)) == 1


def test_a_driver_that_flaps_is_held_by_the_cooldown() -> None:
    world = served("driver")

    def flap() -> None:
        for turn in range(60):
            label(world, "a", driver=f"56{turn % 2}.0")
            process = Process(world)
            asyncio.run(process.work())
            process.stop()
            world.now += 3600

    flap()
    assert len(world.all(RUN)) == 1, "sixty changes within the cooldown"
    go_on(world)
    assert len(world.all(RUN)) == 2, "one search after it"
    flap()
    assert len(world.all(RUN)) == 2


def test_a_change_during_a_search_is_seen_after_it() -> None:
    world = begun("driver")
    live(world, until=lambda: "001/plan/1/1" in world.started).stop()
    label(world, "a", driver="560.2")
    live(world, until=lambda: status(world).get("phase") == "Serving").stop()
    assert len(world.all(RUN)) == 1
    go_on(world)
    assert causes(world) == ["Created", "Driver"]


def test_what_was_unknown_at_the_start_is_no_change_when_it_is_known() -> None:
    world = World()
    world.add(target(**GPU))
    world.add(synthesis(budget={"rounds": 1, "wallClock": "8h"}, resynthesis={"triggers": ["driver", "hardware"]}))
    go_on(world)
    world.now += 2 * WEEK
    world.add(node("a", H100, allocatable={"nvidia.com/gpu": "8"}))
    go_on(world)
    assert len(world.all(RUN)) == 1


def test_a_run_keeps_the_image_of_its_baseline_to_its_end() -> None:
    world = begun()
    live(world, until=lambda: "001/plan/1/1" in world.started).stop()
    image_of_the_installation(world)
    go_on(world)
    images = {
        names.label(d, names.ROLE_LABEL): d["spec"]["template"]["spec"]["containers"][0]["image"]
        for d in world.all(DEPLOYMENT)
    }
    assert images["serving-baseline"] == "sartor-baseline:0.1.0"
    assert status(world)["baseline"]["image"] == "sartor-baseline:0.1.0"


# --- how it goes on -------------------------------------------------------------------------------------------------------


def test_a_search_in_vain_leaves_the_old_winner_ready() -> None:
    world = served()
    world.script = lambda b, n: Ends(result=measured(0.9)) if b.step is StepKind.EVALUATE else None
    ask(world, "x")
    go_on(world)
    first, second = runs(world)
    assert second["status"]["phase"] == "NoGain"
    assert status(world)["phase"] == "Serving" and ready(world) == ("True", "Succeeded")
    text = f"SynthesisRun {names.name_of(second)} found nothing better than {names.name_of(first)}"
    assert text in status(world)["message"]
    assert status(world)["servingRun"]["name"] == names.name_of(first)
    assert status(world)["best"] == first["status"]["best"], "what is shown is what serves"


def test_a_search_that_is_due_and_cannot_begin_says_why_and_serves_on() -> None:
    world = served()
    world.remove((TARGET, "", "pool"))
    ask(world, "x")
    go_on(world)
    assert status(world)["phase"] == "Serving" and len(world.all(RUN)) == 1
    assert "cannot begin: spec.hardware.targetRef: there is no HardwareTarget pool" in status(world)["message"]
    assert world.events().count("Stalled") == 1
    world.add(target(**GPU))
    go_on(world)
    assert len(world.all(RUN)) == 2


def test_the_terms_of_payback_hold_for_it_too() -> None:
    world = served()
    world.edit(TARGET, "pool", lambda m: m["spec"].update(pricePerHour={"amount": "3600"}), namespace="")
    strict = {"policy": "require", "outputTokensPerDay": "1", "within": "1d"}
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(payback=strict))
    ask(world, "x")
    go_on(world)
    assert len(world.all(RUN)) == 1 and status(world)["phase"] == "Serving"
    assert "cannot begin: spec.payback.policy is require" in status(world)["message"], "by the score of the first run"


def test_many_searches_keep_their_numbers_though_old_runs_go() -> None:
    """More than are kept, of two intents in turn: no name is used twice, and none stands in the way."""
    world = served()
    world.settings = Settings(keep_runs=2)
    for turn in range(8):
        if turn % 2:
            ask(world, f"turn-{turn}")
        else:
            world.edit(SYNTHESIS, "editor", lambda m, n=turn: m["spec"]["budget"].update(wallClock=f"{9 + n}h"))
        go_on(world)
        assert number(runs(world)[-1]) == turn + 2
        assert status(world)["phase"] == "Serving"
        assert status(world)["run"]["name"] == names.name_of(runs(world)[-1])
    assert len(world.all(RUN)) <= 4


SPECS = [
    (lambda m: m["model"]["source"]["persistentVolumeClaim"].update(path="m2"), "ModelRevision"),
    (lambda m: m.update(baseline={"image": "r.example/vllm:9"}), "BaselineVersion"),
    (lambda m: m["objective"].update(minimumSpeedup="1.3"), "SpecChanged"),
    (lambda m: (m["objective"].update(minimumSpeedup="1.3"), m.update(baseline={"image": "i:9"})), "SpecChanged"),
]


@pytest.mark.parametrize(("change", "cause"), SPECS, ids=["model", "image", "objective", "both"])
def test_a_changed_spec_begins_at_once_and_says_what_changed(change: Any, cause: str) -> None:
    world = served()
    world.edit(SYNTHESIS, "editor", lambda m: change(m["spec"]))
    live(world, until=lambda: len(world.all(RUN)) == 2).stop()
    assert causes(world) == ["Created", cause]


# --- what is not seen yet -------------------------------------------------------------------------------------------------


def observed(world: World) -> SynthesisObserved:
    cache = Cache()
    for (kind, _, _), manifest in world.store.items():
        cache.put(kind, manifest)
    found = observe_synthesis(cache, world.settings, NAMESPACE, "editor")
    assert found is not None
    return found


def test_drift_is_what_a_rollout_says_and_as_long_as_none_speaks_the_status_says_that() -> None:
    world = served("drift", "skills")
    text = status(world)["message"]
    assert "not seen by this version: spec.resynthesis.triggers drift" in text and "skills" in text
    quiet = observed(world)
    assert quiet.drift is None and resynthesis.due(quiet) is None
    drifted = replace(quiet, drift="live 1.1x, confirmed 1.39x to 1.41x")
    found = resynthesis.due(drifted)
    assert found is not None and found.cause is RunCause.DRIFT and "live 1.1x" in found.why
    assert found.not_before == pytest.approx(world.now + WEEK, abs=3600)
    other = served("driver")
    assert resynthesis.due(replace(observed(other), drift="live 1.1x")) is None, "not asked for"
    assert "not seen" not in status(other)["message"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("editor-12-0a1b2c3d-0123456789", 12),
        ("chat-2-7-0a1b2c3d-0123456789", 7),
        ("e" * 38 + "-3-0a1b2c3d-0123456789", 3),
        ("editor-0a1b2c3d-0123456789", 1),  # as an earlier version named them
        ("by-hand", 1),
    ],
)
def test_the_number_of_a_run_is_a_part_of_its_name(name: str, expected: int) -> None:
    assert RunSeen({"metadata": {"name": name}, "spec": {}}, "", SynthesisRunStatus()).number == expected


def test_every_trigger_is_seen_or_said_not_to_be() -> None:
    from typing import get_args

    from sartor_api.policy import Trigger

    elsewhere = {"modelRevision"}  # pinned in the spec
    assert set(resynthesis.SEEN) | set(resynthesis.UNSEEN) | elsewhere == set(get_args(Trigger))
    assert set(resynthesis._SHAPE) <= set(HardwareTargetSpec.model_fields)
