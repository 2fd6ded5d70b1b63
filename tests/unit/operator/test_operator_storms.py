"""Whatever happens, in any order: a run ends, no number is missing, nothing is done twice or begins after the end."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_world import Ends, World, live, synthesis, target

from sartor_operator import names
from sartor_operator.kinds import CANDIDATE, CONFIG_MAP, DEPLOYMENT, JOB, POD, RUN, SECRET, SERVICE, SYNTHESIS, Kind
from sartor_operator.run.observe import ENDING_KEY, RECORD_KEY
from sartor_operator.wire import Ending, StepBegin, StoredRecord

ENDS = [
    Ends(pod_reason="Evicted"),
    Ends(disrupted=True),
    Ends(code=137, reason="OOMKilled"),
    Ends(code=1),
    Ends(message=""),
    Ends(message="{}"),
    Ends(never=True),
]
FATES = [
    "serve:1:Error",
    "serve:137:OOMKilled",
    "build:1:Error",
    "unpack:10:Error",
    "evicted",
    "never-ready",
    "pending",
]
DELETED: tuple[Kind, ...] = (JOB, POD, SECRET, DEPLOYMENT, SERVICE, CANDIDATE)


def storm(seed: int, *, rate: float, kills: bool, queue: bool = False) -> World:
    draw = random.Random(seed)

    def script(begin: StepBegin, _execution: int) -> Ends | None:
        fate = random.Random(f"{seed}/{begin.id}")
        return fate.choice(ENDS) if fate.random() < rate else None

    def candidate(pod: dict[str, Any]) -> str:
        fate = random.Random(f"{seed}/{names.uid(pod)}")
        return fate.choice(FATES) if fate.random() < rate else "ready"

    world = World(script=script, candidate=candidate, kill_every=False)
    world.add(target(**({"kueue": {"queueName": "team"}} if queue else {})))
    world.add(synthesis())
    budget = 12

    def meddle() -> bool:
        """Between two ticks somebody deletes something, the queue takes a Job back, or the process is killed at a write."""
        nonlocal budget
        world.quota = world.quota or draw.random() < 0.5
        if queue and budget and draw.random() < rate:
            budget -= 1
            running = [j for j in world.all(JOB) if "startTime" in j.get("status", {}) and not j["spec"].get("suspend")]
            going = [j for j in running if not any(c["type"] in ("Complete", "Failed") for c in conditions_of(j))]
            if going:
                world.evict(draw.choice(going), lingers=draw.choice([0.0, 3.0, 60.0]))
        if budget and draw.random() < rate:
            budget -= 1
            what = [key for key in world.store if key[0] in DELETED]
            if what:
                world.remove(draw.choice(sorted(what, key=lambda k: (k[0].kind, k[2]))))
        if kills and budget and draw.random() < rate:
            budget -= 1
            world.kill_after = len(world.writes) + draw.randint(1, 4)
        return False

    live(world, until=meddle, stale=lambda _kind: draw.random() < 0.2).stop()
    while not world.quota:  # everything waits for the queue
        world.quota = True
        live(world, until=meddle, stale=lambda _kind: draw.random() < 0.2).stop()
    return world


def conditions_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return manifest.get("status", {}).get("conditions", [])


@pytest.mark.exhaustive
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), rate=st.sampled_from([0.05, 0.2, 0.4]), kills=st.booleans(), queue=st.booleans())
def test_every_storm_ends(seed: int, rate: float, kills: bool, queue: bool) -> None:
    world = storm(seed, rate=rate, kills=kills, queue=queue)
    check(world)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("queue", [False, True], ids=["", "queue"])
def test_some_storms_end(seed: int, queue: bool) -> None:
    check(storm(seed, rate=0.2, kills=True, queue=queue))


def check(world: World) -> None:
    run, ssyn = world.one(RUN), world.one(SYNTHESIS)
    ending = Ending.model_validate_json(world.maps(names.ENDING)[0]["data"][ENDING_KEY])
    assert ending.finished is not None
    assert run["status"]["phase"] in ("Succeeded", "NoGain", "Failed")
    assert (
        ssyn["status"]["phase"]
        == {"Succeeded": "Serving", "NoGain": "NoGain", "Failed": "Failed"}[run["status"]["phase"]]
    )
    maps = world.maps(names.RECORD)
    stored = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]).record for m in maps]
    assert sorted(r.sequence for r in stored) == list(range(1, len(stored) + 1))
    assert len({r.id for r in stored}) == len(stored)
    assert all(r.finished <= ending.at for r in stored)
    steps = world.maps(names.STEP)
    assert len(steps) == len(stored), "every step that was begun has its record"
    live_roles = [names.label(p, names.ROLE_LABEL) for p in world.all(POD)]
    assert not {"candidate", "baseline"} & set(live_roles), "no server of the search is left"
    left = [j for j in world.all(JOB) if not {"Complete", "Failed"} & {c["type"] for c in conditions_of(j)}]
    assert left == [], "no Job is left at work"
    assert all(m["immutable"] for m in world.all(CONFIG_MAP))
