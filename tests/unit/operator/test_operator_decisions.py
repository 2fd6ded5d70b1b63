"""The operator decides what `sartor run` decides: the same snapshot, the same `decide`, the same steps in the same order."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_world import NAMESPACE, START, Ends, Process, World, good, live, measured, synthesis, target

from sartor_agents.run.driver import Driver, StepOutcome
from sartor_agents.run.repository import RunRepository
from sartor_api.search.decide import Begin
from sartor_api.search.records import Finished, Judgement, Plan, RunSpec, StepKind, StepResult, Verdict
from sartor_api.search.snapshot import snapshot
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_operator import names
from sartor_operator.cache import Cache
from sartor_operator.kinds import CONFIG_MAP, DEPLOYMENT, JOB, POD, RUN, SECRET, Kind
from sartor_operator.pods.jobs import SPEC_KEY
from sartor_operator.run.decide import run_spec
from sartor_operator.run.observe import ENDING_KEY, observe_run
from sartor_operator.settings import Settings
from sartor_operator.wire import Ending

Script = Callable[[Any, int], StepResult | None]
"""The result of a step (`Begin` or `StepBegin`) by the number of its execution; None: all goes well."""


def intent(**changes: Any) -> dict[str, Any]:
    return synthesis(**changes)


class Clock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds


class Scripted:
    """Steps of `sartor run` that give what the script says, in as many seconds as the operator's pods take."""

    def __init__(self, script: Script, clock: Clock) -> None:
        self.script, self.clock = script, clock
        self.ids: list[str] = []

    def prepare(self, begin: Begin, run: object) -> dict[str, str]:
        return {}

    def execute(self, begin: Begin, run: object, progress: object) -> StepOutcome:
        self.ids.append(begin.id)
        self.clock.time += 20.0
        return StepOutcome(self.script(begin, int(begin.id.rpartition("/")[2])) or good(begin))

    def deliver(self, commit: str) -> str:
        return commit

    def close(self) -> None:
        return


def by_sartor_run(root: Path, spec: RunSpec, script: Script) -> tuple[list[str], Finished]:
    clock = Clock()
    steps = Scripted(script, clock)
    repository = RunRepository.create(root / "repository", spec, "", START)
    driver = Driver(repository, steps, clock=clock, emit=lambda _e: None, report=lambda _r: "r")  # type: ignore[arg-type]
    return steps.ids, driver.drive()


def by_operator(wanted: dict[str, Any], script: Script) -> tuple[list[str], Finished, RunSpec]:
    def ends(begin: Any, execution: int) -> Ends | None:
        result = script(begin, execution)
        return None if result is None else Ends(result=result)

    world = World(script=ends)
    world.add(target())
    world.add(wanted)
    live(world)
    ending = Ending.model_validate_json(world.maps(names.ENDING)[0]["data"][ENDING_KEY])
    assert ending.finished is not None
    spec = RunSpec.model_validate_json(world.maps(names.SPEC)[0]["data"][SPEC_KEY])
    return world.started, ending.finished, spec


def failing(failure: str, gate: str = "g") -> Verdict:
    return Verdict(gate=gate, passed=False, reason="Broken", failure_class=failure)  # type: ignore[arg-type]


def rejects(begin: Any, execution: int) -> StepResult | None:
    if begin.step is StepKind.JUDGE and begin.round == 1:
        return Judgement(verdicts=(failing("candidate", "exact-greedy"),))
    return None


def contended(begin: Any, execution: int) -> StepResult | None:
    return failing("measurement") if begin.step is StepKind.EVALUATE and execution < 3 else None


def provider(begin: Any, execution: int) -> StepResult | None:
    return failing("provider") if begin.step is StepKind.PLAN and begin.round == 2 else None


def gives_up(begin: Any, execution: int) -> StepResult | None:
    if begin.step is StepKind.PLAN and begin.round == 2:
        return Plan(round=2, action="stop", hypothesis="nothing left")
    return None


def refuted(begin: Any, execution: int) -> StepResult | None:
    return measured(0.8, confirmation=True) if begin.step is StepKind.CONFIRM else None


def flat(begin: Any, execution: int) -> StepResult | None:
    return measured(1.001) if begin.step is StepKind.EVALUATE and begin.round > 1 else None


SCRIPTS: dict[str, Script] = {
    "all goes well": lambda _b, _n: None,
    "rejected and repaired": rejects,
    "contended": contended,
    "provider out": provider,
    "planner gives up": gives_up,
    "confirmation refuted": refuted,
    "plateau": flat,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_steps_and_same_end(name: str, tmp_path: Path) -> None:
    ids, finished, spec = by_operator(intent(budget={"rounds": 3, "wallClock": "8h"}), SCRIPTS[name])
    expected_ids, expected = by_sartor_run(tmp_path, spec, SCRIPTS[name])
    assert ids == expected_ids
    ours, theirs = (one.model_copy(update={"at": 0.0}) for one in (finished, expected))
    assert ours == theirs


FAILURES = ["infrastructure", "provider", "measurement", "candidate"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_same_steps_whatever_fails(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    def chance(begin: Any, execution: int) -> StepResult | None:
        draw = random.Random(f"{seed}/{begin.id}")
        if draw.random() < 0.7:
            return None
        failure = draw.choice(FAILURES)
        if begin.step in (StepKind.BASELINE, StepKind.PLAN) and failure == "candidate":
            failure = "provider"
        return failing(failure)

    ids, finished, spec = by_operator(intent(), chance)
    expected_ids, expected = by_sartor_run(tmp_path_factory.mktemp("run"), spec, chance)
    assert ids == expected_ids
    assert finished.model_copy(update={"at": 0.0}) == expected.model_copy(update={"at": 0.0})


def test_same_snapshot() -> None:
    """What the run decides by is what `sartor run` makes of the same manifest; only place and time differ."""
    wanted = intent()
    world = World()
    world.add(target())
    world.add(wanted)
    live(world, until=lambda: bool(world.all(RUN)))
    cache = Cache()
    for (kind, _, _), manifest in world.store.items():
        cache.put(kind, manifest)
    observed = observe_run(cache, Settings(), NAMESPACE, names.name_of(world.one(RUN)))
    assert observed is not None
    ours = run_spec(observed)
    local = ServingSynthesis.model_validate({"metadata": {"name": "editor"}, "spec": wanted["spec"]})
    theirs = snapshot(local, now=ours.created, model_folder="/model")
    assert ours.model_dump(exclude={"synthesis"}) == theirs.model_dump(exclude={"synthesis"})


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.1, 0.4, 0.8]))
def test_late_watches_change_nothing(seed: int, rate: float) -> None:
    """Events that come late, kind by kind in any mixture, begin nothing twice and lose nothing."""
    draw = random.Random(seed)

    def late(kind: Kind) -> bool:
        return draw.random() < rate

    world = World()
    world.add(target())
    world.add(synthesis(budget={"rounds": 1, "wallClock": "8h"}))
    live(world, stale=late)
    once_each(world)


@pytest.mark.parametrize("late", [POD, JOB, SECRET, CONFIG_MAP, DEPLOYMENT], ids=lambda kind: kind.plural)
@pytest.mark.parametrize("step", ["001/judge/1/1", "001/evaluate/1/1", "000/confirm/1/1"])
def test_one_list_from_the_past_is_no_failure(late: Kind, step: str) -> None:
    """A new process sees a Job and not its pod, the pod that it looks at, or its seed: nothing of that is lost."""
    world = World()
    world.add(target())
    world.add(synthesis(budget={"rounds": 1, "wallClock": "8h"}))
    live(world, until=lambda: "001/implement/1/1" in world.started).stop()
    before = dict(world.store)
    live(world, until=lambda: step in world.started).stop()
    process = Process(world, behind=before)
    process.catch_up(late)
    asyncio.run(process.work())
    process.stop()
    live(world)
    once_each(world)


def once_each(world: World) -> None:
    assert world.started == [
        "000/baseline/1/1",
        "001/plan/1/1",
        "001/implement/1/1",
        "001/judge/1/1",
        "001/evaluate/1/1",
        "000/confirm/1/1",
    ]
    jobs = [w for w in world.writes if w.startswith("create Job")]
    assert len(jobs) == len(set(jobs))
