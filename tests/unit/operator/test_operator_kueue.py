"""Jobs in a queue of Kueue: it alone suspends and resumes them, and the time in which it does not is nobody's."""

from typing import Any

import pytest
from operator_world import NAMESPACE, Ends, World, live, synthesis, target

from sartor_operator import names
from sartor_operator.kinds import JOB, POD, RUN, SYNTHESIS, TARGET
from sartor_operator.run.observe import RECORD_KEY
from sartor_operator.wire import StoredRecord

QUEUE = {"kueue": {"queueName": "team", "priorityClass": "low"}}
STEPS = [
    "000/baseline/1/1",
    "001/plan/1/1",
    "001/implement/1/1",
    "001/judge/1/1",
    "001/evaluate/1/1",
    "000/confirm/1/1",
]


def queued(**changes: Any) -> World:
    world = World(**changes)
    world.add(target(**QUEUE))
    world.add(synthesis(budget={"rounds": 1, "wallClock": "8h"}))
    return world


def records(world: World) -> list[StoredRecord]:
    found = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]) for m in world.maps(names.RECORD)]
    return sorted(found, key=lambda s: s.record.sequence)


def waiting(world: World) -> str:
    run = world.one(RUN)["status"]
    found = next(c for c in run["conditions"] if c["type"] == "Reconciling")
    assert (found["status"], found["reason"]) == ("True", "AwaitingQuota")
    return str(found["message"])


def test_what_is_never_admitted_waits_for_ever_and_writes_nothing() -> None:
    world = queued(quota=False)
    live(world)
    assert "waiting for queue team to admit Job" in waiting(world)
    before = len(world.writes)
    for _ in range(3):
        world.now += 30 * 86_400
        live(world)
    assert world.writes[before:] == [] and records(world) == [] and world.started == []
    assert world.one(JOB)["spec"]["suspend"] is True
    assert world.one(RUN)["status"]["spent"]["wallClock"] == "0s"


def test_what_is_admitted_late_has_its_whole_time() -> None:
    """Each Job waits for a day, twice as long as the budget of wall clock and many times its deadline."""
    world = queued(quota=False)
    for step in STEPS:
        live(world)
        assert world.started == STEPS[: STEPS.index(step)]
        world.now += 86_400
        world.quota = True
        live(world, until=lambda s=step: s in world.started)
        world.quota = False
    world.quota = True
    live(world)
    assert world.started == STEPS and [s.record.failure for s in records(world)] == [None] * len(STEPS)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lingers", [0.0, 5.0], ids=["gone at once", "lingers"])
def test_what_is_evicted_while_it_runs_begins_again_and_costs_nothing(step: str, lingers: float) -> None:
    """Suspended again in the middle: the same Job, the same execution, another pod; the old pod's end says nothing."""
    world = queued()
    live(world, until=lambda: step in world.started)
    job = next(j for j in world.all(JOB) if j["metadata"]["annotations"][names.STEP_ANNOTATION] == step)
    world.evict(job, lingers)
    process = live(world)
    assert "waiting for queue team to admit Job" in waiting(world)
    process.stop()
    world.now += 2 * 86_400
    world.quota = True
    live(world)
    assert world.started == [*STEPS[: STEPS.index(step) + 1], *STEPS[STEPS.index(step) :]]
    assert [s.record.id for s in records(world)] == STEPS
    assert [s.record.failure for s in records(world)] == [None] * len(STEPS)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert len([w for w in world.writes if w.startswith("create Job")]) == len(STEPS)


def test_an_evicted_pod_that_ends_badly_beside_the_new_one_is_not_heard() -> None:
    world = queued(script=lambda b, n: Ends(seconds=60.0) if b.id == "001/plan/1/1" else None)
    live(world, until=lambda: "001/plan/1/1" in world.started)
    job = next(j for j in world.all(JOB) if j["metadata"]["annotations"][names.STEP_ANNOTATION] == "001/plan/1/1")
    world.evict(job, lingers=30.0)
    world.now += 2.0
    world.quota = True  # admitted again before the old pod has gone
    live(world, until=lambda: world.started.count("001/plan/1/1") == 2)
    both = [p for p in world.all(POD) if names.owner_uid(p) == names.uid(job)]
    assert len(both) == 2
    live(world)
    assert [s.record.failure for s in records(world)] == [None] * len(STEPS)


def test_a_job_that_ended_is_heard_though_it_is_suspended() -> None:
    world = queued()
    live(world, until=lambda: "001/plan/1/1" in world.started)
    ended = [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}]
    job = next(j for j in world.all(JOB) if j["metadata"]["annotations"][names.STEP_ANNOTATION] == "001/plan/1/1")
    for pod in world.all(POD):
        if names.owner_uid(pod) == names.uid(job):
            world.remove((POD, NAMESPACE, names.name_of(pod)))
    world.quota = False
    world.edit(
        JOB, names.name_of(job), lambda m: (m["spec"].update(suspend=True), m["status"].update(conditions=ended))
    )
    live(world)
    assert [s.record.failure.reason for s in records(world) if s.record.failure] == ["StepOverdue"]


@pytest.mark.parametrize("now", [None, {"queueName": "other"}], ids=["removed", "another"])
def test_a_queue_that_the_target_names_no_more_is_said_with_what_to_do(now: dict[str, str] | None) -> None:
    world = queued(quota=False)
    process = live(world)
    assert "does not name this queue" not in waiting(world)

    def leave(m: dict[str, Any]) -> None:
        m["spec"].pop("kueue")
        m["spec"].update({"kueue": now} if now else {})

    world.edit(TARGET, "pool", leave, namespace="")
    assert (RUN, NAMESPACE, names.name_of(world.one(RUN))) in process.keys, "nothing else would wake it"
    process.stop()
    live(world)
    run = names.name_of(world.one(RUN))
    assert f"HardwareTarget pool does not name this queue any more; if nobody serves it, delete SynthesisRun {run}" in (
        waiting(world)
    )
    assert world.one(JOB)["spec"]["suspend"] is True, "a Job in a queue is left alone"
    world.remove((RUN, NAMESPACE, run))
    live(world, until=lambda: bool(world.all(JOB)))
    assert ("suspend" in world.one(JOB)["spec"]) == (now is not None)


def test_an_operator_never_suspends_or_resumes() -> None:
    world = queued()
    applied: list[dict[str, Any]] = []
    apply = world.apply

    async def seen(manifest: dict[str, Any], manager: str) -> dict[str, Any]:
        applied.append(manifest)
        return await apply(manifest, manager)

    world.apply = seen  # type: ignore[method-assign]
    live(world)
    jobs = [m["spec"] for m in applied if m["kind"] == "Job"]
    assert jobs and all(set(spec) == {"ttlSecondsAfterFinished"} for spec in jobs)


def test_a_candidate_that_waits_in_the_queue_uses_up_no_time() -> None:
    """Kueue holds plain pods back by a scheduling gate."""
    fate = {"now": "gated"}
    world = queued(candidate=lambda _pod: fate["now"])
    live(world)
    assert "the candidate waits: the pod waits for its queue to admit it" in waiting(world)
    world.now += 86_400
    live(world)
    assert [s.record.failure for s in records(world)] == [None] * 3
    fate["now"] = "ready"
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert [s.record.failure for s in records(world)] == [None] * len(STEPS)


def test_what_a_queue_held_back_is_not_paid_for() -> None:
    """A candidate that fails at once after a day in the queue: seconds of the hardware are booked, not the day."""
    fate = {"now": "gated"}
    first = "001/judge/1/1"

    def candidate(pod: dict[str, Any]) -> str:
        return fate["now"] if pod["metadata"]["annotations"][names.STEP_ANNOTATION] == first else "ready"

    world = queued(candidate=candidate)
    world.edit(TARGET, "pool", lambda m: m["spec"].update(pricePerHour={"amount": "3600"}), namespace="")
    live(world)
    world.now += 86_400
    fate["now"] = "never-ready"
    live(world)
    failed = next(s.record for s in records(world) if s.record.id == first)
    assert failed.failure is not None and failed.failure.reason == "CandidateNotReady"
    assert failed.finished - failed.started < 300 and failed.cost.money < 300
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
