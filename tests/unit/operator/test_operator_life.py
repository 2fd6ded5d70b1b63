"""The whole life of a synthesis, and what kills, faults and humans do to it."""

import asyncio
import contextlib
import hashlib
import json

import pytest
from operator_world import NAMESPACE, Ends, Process, World, commit_of, good, live, measured, synthesis, target

from sartor_api.search.leaks import canary_of
from sartor_api.search.records import FailureClass, StepKind, Verdict
from sartor_operator import names
from sartor_operator.errors import ApiError, ConflictError, RefusedError, TransientError
from sartor_operator.kinds import (
    CANDIDATE,
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    JOB,
    NETWORK_POLICY,
    POD,
    RUN,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    Kind,
)
from sartor_operator.pods.jobs import STEP_KEY
from sartor_operator.pods.unpack import content_hash
from sartor_operator.run.observe import RECORD_KEY
from sartor_operator.wire import StepBegin, StoredRecord

STEPS = [
    "000/baseline/1/1",
    "001/plan/1/1",
    "001/implement/1/1",
    "001/judge/1/1",
    "001/evaluate/1/1",
    "002/plan/1/1",
    "002/implement/1/1",
    "002/judge/1/1",
    "002/evaluate/1/1",
    "000/confirm/1/1",
]


def begun(**changes: object) -> World:
    world = World(**changes)
    world.add(target())
    world.add(synthesis())
    return world


def condition(manifest: dict, kind: str) -> tuple[str, str] | None:
    found = next((c for c in manifest["status"]["conditions"] if c["type"] == kind), None)
    return None if found is None else (found["status"], found["reason"])


def records(world: World) -> list[StoredRecord]:
    stored = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]) for m in world.maps(names.RECORD)]
    return sorted(stored, key=lambda s: s.record.sequence)


def test_whole_life_to_ready() -> None:
    world = begun()
    live(world)
    ssyn, run = world.one(SYNTHESIS), world.one(RUN)
    assert world.started == STEPS
    assert run["status"]["phase"] == "Succeeded"
    assert run["status"]["best"]["speedup"]["text"] == "1.40× (1.39–1.41, n=6)"
    assert ssyn["status"]["phase"] == "Serving"
    assert condition(ssyn, "Ready") == ("True", "Succeeded")
    assert condition(ssyn, "Delivered") == ("True", "Succeeded")
    assert condition(ssyn, "Confirmed") == ("True", "Succeeded")
    assert condition(ssyn, "Reconciling") is None and condition(ssyn, "Stalled") is None
    assert ssyn["status"]["best"]["speedup"]["confirmed"] is True
    assert ssyn["status"]["spent"]["rounds"] == 2
    assert [c["status"]["phase"] for c in world.all(CANDIDATE)] == ["Kept", "Kept"]
    roles = sorted(names.label(d, names.ROLE_LABEL) for d in world.all(DEPLOYMENT))
    assert roles == ["serving-baseline", "serving-stack"], "the run's own baseline is gone"
    assert len(world.all(SERVICE)) == 2
    assert not [s for s in world.all(SECRET) if names.label(s, names.STEP_LABEL)], "seeds of steps are gone"
    assert not [p for p in world.all(POD) if names.label(p, names.ROLE_LABEL) == "candidate"]
    assert all(j["spec"]["ttlSecondsAfterFinished"] == 3600 for j in world.all(JOB))
    assert {"RunStarted", "BaselineMeasured", "Measured", "RunFinished", "Delivered"} <= set(world.events())


def test_nothing_is_written_when_nothing_changes() -> None:
    world = begun()
    process = live(world)
    before = len(world.writes)
    process.stop()
    live(world)
    world.now += 86_400
    live(world)
    assert world.writes[before:] == []


def test_delivered_baseline_has_the_tuned_arguments_and_the_stack_is_verified() -> None:
    world = begun()
    live(world)
    by_role = {names.label(d, names.ROLE_LABEL): d["spec"]["template"]["spec"] for d in world.all(DEPLOYMENT)}
    baseline = by_role["serving-baseline"]["containers"][0]
    assert baseline["command"][-1] == "--enforce-eager"
    stack = by_role["serving-stack"]
    unpack = next(c for c in stack["initContainers"] if c["name"] == "unpack")
    assert unpack["command"][-1] == world.one(SYNTHESIS)["status"]["best"]["contentHash"].removeprefix("sha256:")
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in stack["containers"])
    assert stack["terminationGracePeriodSeconds"] == 60
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(stack["containers"][0])


SHORT = [*STEPS[:5], STEPS[-1]]


def short(**changes: object) -> World:
    """A synthesis of one round."""
    world = World(**changes)
    world.add(target())
    world.add(synthesis(budget={"rounds": 1, "wallClock": "8h"}))
    return world


@pytest.fixture(scope="module")
def calm() -> World:
    world = short()
    live(world)
    return world


def same_end(world: World, calm: World) -> None:
    """The same steps, each once, the same records, the same result."""
    assert world.started == SHORT
    assert [(s.record.id, s.record.result) for s in records(world)] == [
        (s.record.id, s.record.result) for s in records(calm)
    ]
    jobs = [w for w in world.writes if w.startswith("create Job")]
    assert len(jobs) == len(set(jobs)) == len(SHORT)
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["phase"] == "Serving"
    assert ssyn["status"]["best"] == calm.one(SYNTHESIS)["status"]["best"]
    told = [(e["reason"], e["message"]) for e in world.all(EVENT)]
    assert len(set(told)) == len(told), "nothing is told twice"


@pytest.mark.exhaustive
def test_killed_after_every_single_write(calm: World) -> None:
    """Enumerated: for each write of a whole life, the process is killed right after it, and a new one goes on."""
    assert len(calm.writes) > 60
    for point in range(1, len(calm.writes) + 1):
        world = short(kill_after=point)
        live(world)
        same_end(world, calm)
        assert sorted(world.events()) == sorted(calm.events())


def test_killed_after_each_write_of_one_life(calm: World) -> None:
    """No process lives for more than one write."""
    world = short(kill_every=True)
    live(world)
    same_end(world, calm)
    assert sorted(world.events()) == sorted(calm.events())


@pytest.mark.parametrize("error", [TransientError, ConflictError])
def test_storms_of_errors_change_nothing_but_the_time(calm: World, error: type[ApiError]) -> None:
    """Two of three requests fail, all of them the first time."""
    seen: dict[str, int] = {}

    def storm(what: str) -> Exception | None:
        seen[what] = seen.get(what, 0) + 1
        return None if seen[what] % 3 == 0 else error(what, status=429)

    world = short(fail=storm)
    live(world)
    same_end(world, calm)


CLASSES = [
    (Ends(pod_reason="Evicted"), "PodEvicted", FailureClass.INFRASTRUCTURE),
    (Ends(disrupted=True), "PodDisrupted", FailureClass.INFRASTRUCTURE),
    (Ends(code=137, reason="OOMKilled"), "RoleMemoryExceeded", FailureClass.INFRASTRUCTURE),
    (Ends(code=1, reason="Error"), "RoleFailed", FailureClass.INFRASTRUCTURE),
    (Ends(message=""), "RoleGaveNothing", FailureClass.INFRASTRUCTURE),
    (Ends(message="ok"), "RoleAnsweredGarbage", FailureClass.INFRASTRUCTURE),
    (Ends(message="x" * 4096), "RoleAnsweredGarbage", FailureClass.INFRASTRUCTURE),
    (Ends(never=True), "StepOverdue", FailureClass.INFRASTRUCTURE),
]


@pytest.mark.parametrize("step", list(StepKind))
@pytest.mark.parametrize(("ends", "reason", "blamed"), CLASSES, ids=[c[1] + str(i) for i, c in enumerate(CLASSES)])
def test_a_role_pod_that_fails_costs_no_attempt(step: StepKind, ends: Ends, reason: str, blamed: FailureClass) -> None:
    world = begun(script=lambda begin, execution: ends if begin.step is step and execution == 1 else None)
    live(world)
    failed = [s.record for s in records(world) if s.record.failure is not None]
    assert {(r.failure.reason, r.failure.failure_class) for r in failed if r.failure} == {(reason, blamed)}
    assert all(r.step is step and r.id.endswith("/1") for r in failed)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert all(c["status"]["attempts"] == 1 for c in world.all(CANDIDATE))


def other(begin, execution):
    return good(begin.model_copy(update={"step": StepKind.EVALUATE}))


LIES = [
    (StepKind.PLAN, lambda b: good(b).model_copy(update={"round": 9}), "PlanInvalid", FailureClass.PROVIDER),
    (StepKind.PLAN, lambda b: good(b).model_copy(update={"parent": "f" * 40}), "PlanInvalid", FailureClass.PROVIDER),
    (StepKind.PLAN, lambda b: measured(9.0), "PlanInvalid", FailureClass.PROVIDER),
    (StepKind.IMPLEMENT, lambda b: measured(9.0), "ReportUntrue", FailureClass.CANDIDATE),
    (
        StepKind.IMPLEMENT,
        lambda b: good(b).model_copy(update={"commit": "main"}),
        "ReportUntrue",
        FailureClass.CANDIDATE,
    ),
    (StepKind.JUDGE, lambda b: measured(9.0), "ReportUntrue", FailureClass.INFRASTRUCTURE),
    (
        StepKind.EVALUATE,
        lambda b: Verdict(gate="g", passed=True, reason="Fine"),
        "ReportUntrue",
        FailureClass.INFRASTRUCTURE,
    ),
]


@pytest.mark.parametrize(("step", "lie", "reason", "blamed"), LIES, ids=[f"{c[0]}-{i}" for i, c in enumerate(LIES)])
def test_a_result_that_cannot_be_true_is_never_stored_as_one(step, lie, reason, blamed) -> None:
    world = begun(
        script=lambda b, n: (
            Ends(result=lie(b)) if b.step is step and b.round <= 1 and b.attempt == 1 and n == 1 else None
        )
    )
    live(world)
    first = next(s.record for s in records(world) if s.record.step is step)
    assert first.failure is not None
    assert (first.failure.reason, first.failure.failure_class) == (reason, blamed)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


CANDIDATE_ENDS = [
    ("serve:1:Error", "CandidateExited", FailureClass.CANDIDATE),
    ("serve:137:OOMKilled", "CandidateMemoryExceeded", FailureClass.CANDIDATE),
    ("build:1:Error", "BuildFailed", FailureClass.CANDIDATE),
    ("build:137:OOMKilled", "BuildMemoryExceeded", FailureClass.CANDIDATE),
    ("unpack:10:Error", "ContentChanged", FailureClass.CANDIDATE),
    ("unpack:1:Error", "PodSetupFailed", FailureClass.INFRASTRUCTURE),
    ("evicted", "PodEvicted", FailureClass.INFRASTRUCTURE),
    ("never-ready", "CandidateNotReady", FailureClass.CANDIDATE),
    ("pending", "StepOverdue", FailureClass.INFRASTRUCTURE),
]


@pytest.mark.parametrize(("fate", "reason", "blamed"), CANDIDATE_ENDS, ids=[c[0] for c in CANDIDATE_ENDS])
def test_a_candidate_that_fails_is_blamed_for_its_own_faults_only(fate: str, reason: str, blamed: FailureClass) -> None:
    def first_only(pod: dict) -> str:
        return fate if pod["metadata"]["annotations"][names.STEP_ANNOTATION] == "001/judge/1/1" else "ready"

    world = begun(candidate=first_only)
    live(world)
    failed = [s.record for s in records(world) if s.record.failure is not None]
    assert [(r.id, r.failure.reason, r.failure.failure_class) for r in failed if r.failure] == [
        ("001/judge/1/1", reason, blamed)
    ]
    following = "001/implement/2/1" if blamed is FailureClass.CANDIDATE else "001/judge/1/2"
    assert world.started[3] == following
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_a_probe_that_misses_under_load_is_no_end_of_a_candidate() -> None:
    """Ready when the Job began, not ready while it is measured, long after its start: the measurement counts."""
    world = begun()
    live(world, until=lambda: "001/evaluate/1/1" in world.started)
    pod = next(p for p in world.all(POD) if names.label(p, names.ROLE_LABEL) == "candidate")
    missed = [{"type": "Ready", "status": "False", "lastTransitionTime": pod["metadata"]["creationTimestamp"]}]
    world.edit(POD, names.name_of(pod), lambda m: m["status"].update(conditions=missed))
    world.script = lambda b, n: Ends(seconds=600.0) if b.id == "001/evaluate/1/1" else None
    world.candidate = lambda p: "never-ready" if names.uid(p) == names.uid(pod) else "ready"
    live(world)
    assert [s.record.failure for s in records(world)] == [None] * len(STEPS)


def test_content_that_is_not_what_was_committed_is_the_candidates_fault() -> None:
    def lie(begin, execution):
        if begin.step is StepKind.IMPLEMENT and begin.attempt == 1 and begin.round == 1:
            return Ends(result=good(begin).model_copy(update={"content_hash": "0" * 64}))
        return None

    world = begun(script=lie)
    live(world)
    failed = [s.record for s in records(world) if s.record.failure is not None]
    assert [(r.id, r.failure.reason) for r in failed if r.failure] == [("001/judge/1/1", "ContentChanged")]


def test_a_stack_that_holds_the_canary_is_the_candidates_fault_and_is_never_started() -> None:
    files = {"stack/__main__.py": b"CANARY = " + canary_of(hashlib.sha256(b"seal").hexdigest()).encode().hex().encode()}

    def leak(begin, execution):
        if begin.step is StepKind.IMPLEMENT and begin.attempt == 1 and begin.round == 1:
            return Ends(result=good(begin).model_copy(update={"content_hash": content_hash(files)}))
        return None

    world = begun(script=leak)
    world.stacks[commit_of(1, 1)] = files
    live(world)
    failed = [s.record for s in records(world) if s.record.failure is not None]
    assert [(r.id, r.failure.reason) for r in failed if r.failure] == [("001/judge/1/1", "SealedDataLeaked")]


def test_a_run_without_gain_ends_and_says_what_to_do() -> None:
    slow = lambda b, n: Ends(result=measured(0.9)) if b.step is StepKind.EVALUATE else None  # noqa: E731
    world = begun(script=slow)
    live(world)
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["phase"] == "NoGain"
    assert condition(ssyn, "Stalled") == ("True", "Plateau")
    assert "change the spec" in ssyn["status"]["message"]
    assert world.all(DEPLOYMENT) == []
    assert [c["status"]["phase"] for c in world.all(CANDIDATE)] == ["Dropped", "Dropped"]


def test_a_baseline_that_cannot_be_measured_fails_the_run() -> None:
    world = begun(script=lambda b, n: Ends(code=1) if b.step is StepKind.BASELINE else None)
    live(world)
    assert condition(world.one(SYNTHESIS), "Stalled") == ("True", "BaselineFailure")
    assert world.started == [f"000/baseline/1/{n}" for n in (1, 2, 3)]


def test_suspend_holds_after_the_step_in_flight_and_goes_on_where_it_stopped() -> None:
    world = begun()
    live(world, until=lambda: "001/implement/1/1" in world.started)
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(suspend=True))
    live(world)
    assert world.started == STEPS[:3]
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["phase"] == "Suspended"
    assert condition(ssyn, "Ready") == ("False", "Suspended")
    assert world.all(DEPLOYMENT) == [], "nothing holds hardware while suspended"
    world.now += 30 * 86_400  # far beyond the wall clock of the budget, which does not run while suspended
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(suspend=False))
    live(world)
    assert world.started == STEPS
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_a_changed_spec_starts_a_new_run_and_the_old_winner_serves_until_the_new_one_wins() -> None:
    world = begun()
    live(world)
    stack = next(d for d in world.all(DEPLOYMENT) if names.label(d, names.ROLE_LABEL) == "serving-stack")
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["budget"].update(rounds=1))
    live(world, until=lambda: len(world.started) == len(STEPS) + 2)
    assert len(world.all(RUN)) == 2
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["servingRun"]["name"] != ssyn["status"]["run"]["name"]
    assert world.store[DEPLOYMENT, NAMESPACE, names.name_of(stack)]["spec"] == stack["spec"]
    live(world)
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["servingRun"]["name"] == ssyn["status"]["run"]["name"]
    assert ssyn["status"]["phase"] == "Serving"


def test_a_spec_changed_in_the_middle_supersedes_the_run_and_back_again_starts_anew() -> None:
    world = begun()
    live(world, until=lambda: "001/judge/1/1" in world.started)
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["budget"].update(rounds=1))
    live(world, until=lambda: len(world.all(RUN)) == 2 and "Cancelled" in str(world.all(RUN)))
    first = min(world.all(RUN), key=names.uid)
    assert condition(first, "Ready") == ("True", "Superseded")
    assert not [j for j in world.all(JOB) if names.owner_uid(j) == names.uid(first) and "Complete" not in str(j)]
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"]["budget"].update(rounds=2))
    live(world)
    assert len(world.all(RUN)) == 3
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_changing_what_no_search_depends_on_starts_no_run() -> None:
    world = begun()
    live(world)
    world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(delivery={"replicas": 3}))
    live(world)
    assert len(world.all(RUN)) == 1
    stack = next(d for d in world.all(DEPLOYMENT) if names.label(d, names.ROLE_LABEL) == "serving-stack")
    assert stack["spec"]["replicas"] == 3
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_an_autoscaler_owns_the_replicas_once_they_are_there() -> None:
    world = World()
    world.add(target())
    world.add(synthesis(delivery={"replicas": 2, "autoscaled": True}))
    live(world)
    stack = next(d for d in world.all(DEPLOYMENT) if names.label(d, names.ROLE_LABEL) == "serving-stack")
    assert stack["spec"]["replicas"] == 2
    world.edit(DEPLOYMENT, names.name_of(stack), lambda m: m["spec"].update(replicas=7))
    live(world)
    assert world.store[DEPLOYMENT, NAMESPACE, names.name_of(stack)]["spec"]["replicas"] == 7
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_a_job_in_a_queue_waits_without_using_up_its_time() -> None:
    world = World(quota=False)
    world.add(target(kueue={"queueName": "team", "priorityClass": "low"}))
    world.add(synthesis())
    live(world)
    job = world.one(JOB)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True
    assert condition(world.one(RUN), "Reconciling") == ("True", "AwaitingQuota")
    world.now += 7 * 86_400
    live(world)
    assert len(world.all(JOB)) == 1 and records(world) == []
    world.quota = True
    live(world)
    assert world.started == STEPS
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


@pytest.mark.parametrize("kind", [JOB, POD, CONFIG_MAP, SECRET, DEPLOYMENT, CANDIDATE], ids=lambda k: k.kind)
@pytest.mark.parametrize("step", STEPS[1:5] + STEPS[-1:])
def test_deleting_any_object_in_the_middle_loses_no_round(kind, step) -> None:
    world = begun()
    live(world, until=lambda: step in world.started)
    for key, manifest in list(world.store.items()):
        memory = names.label(manifest, names.PART_LABEL) == names.RECORD
        if key[0] is kind and key in world.store and not memory:
            world.remove(key)
    live(world)
    ssyn = world.one(SYNTHESIS)
    assert ssyn["status"]["phase"] == "Serving", json.dumps(ssyn["status"])
    kept = [s.record.id for s in records(world) if s.record.failure is None]
    assert [i.rpartition("/")[0] for i in kept] == [i.rpartition("/")[0] for i in STEPS]


def test_deleting_the_run_starts_it_again_and_deleting_the_synthesis_ends_everything() -> None:
    world = begun()
    live(world, until=lambda: "001/plan/1/1" in world.started)
    world.remove((RUN, NAMESPACE, names.name_of(world.one(RUN))))
    live(world)
    assert world.started[:2] == STEPS[:2] and world.started[2:] == STEPS
    world.remove((SYNTHESIS, NAMESPACE, "editor"))
    process = live(world)
    left = {key[0].kind for key in world.store}
    assert left <= {"HardwareTarget", "Event", "ServiceAccount", "NetworkPolicy"}
    assert "editor" not in str(list(process.metrics.registry.collect()))


def test_a_cancelled_run_ends_at_once() -> None:
    world = begun()
    live(world, until=lambda: "001/judge/1/1" in world.started)
    name = names.name_of(world.one(RUN))
    world.edit(RUN, name, lambda m: m["spec"].update(control={"cancel": True}))
    live(world)
    assert world.one(RUN)["status"]["phase"] == "Cancelled"
    assert not [p for p in world.all(POD) if names.label(p, names.ROLE_LABEL) in ("candidate", "baseline")]
    assert condition(world.one(SYNTHESIS), "Stalled") == ("True", "Cancelled")


def test_stop_after_round_confirms_the_best() -> None:
    world = begun()
    live(world, until=lambda: "001/judge/1/1" in world.started)
    name = names.name_of(world.one(RUN))
    world.edit(RUN, name, lambda m: m["spec"].update(control={"stopAfterRound": True}))
    live(world)
    assert world.started == [*STEPS[:5], STEPS[-1]]
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


@pytest.mark.parametrize("kind", [SYNTHESIS, RUN])
def test_a_word_in_an_annotation_reaches_the_next_planner_and_nobody_else(kind: Kind) -> None:
    world = begun()
    live(world, until=lambda: "001/judge/1/1" in world.started)
    where = names.name_of(world.one(kind))
    word = {"sartor.dev/message": "try 8 threads"}
    world.edit(kind, where, lambda m: m["metadata"].setdefault("annotations", {}).update(word))
    live(world)
    steps = {one.id: one for one in _steps(world)}
    assert steps["001/plan/1/1"].message == "", "it came after that"
    assert steps["002/plan/1/1"].message == "try 8 threads"
    assert {one.message for one in steps.values() if one.step is not StepKind.PLAN} == {""}
    assert steps["002/plan/1/1"].directive is not None and steps["001/judge/1/1"].directive is None


def _steps(world: World) -> list[StepBegin]:
    maps = [m for m in world.all(CONFIG_MAP) if names.label(m, names.PART_LABEL) == names.STEP]
    return [StepBegin.model_validate_json(m["data"][STEP_KEY]) for m in maps]


REFUSED = [
    ({"hardware": {"targetRef": {"name": "none"}}}, "HardwareTargetNotFound", "no HardwareTarget none"),
    ({"agents": {"profileRef": {"name": "none"}}}, "AgentProfileNotFound", "no AgentProfile none"),
    (
        {
            "model": {
                "source": {"huggingFace": {"repository": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "hf"}}}
            }
        },
        "SecretNotFound",
        "no Secret hf",
    ),
    (
        {
            "delivery": {
                "mode": "git",
                "git": {"repository": "https://g.example/r", "path": "p", "credentialsSecretRef": {"name": "g"}},
            }
        },
        "NotSupported",
        "use apply or none",
    ),
]


@pytest.mark.parametrize(("spec", "reason", "said"), REFUSED, ids=[c[1] + c[2] for c in REFUSED])
def test_a_synthesis_that_cannot_begin_says_what_to_change(spec: dict, reason: str, said: str) -> None:
    world = World()
    world.add(target())
    world.add(synthesis(**spec))
    process = Process(world)
    asyncio.run(process.work())
    ssyn = world.one(SYNTHESIS)
    assert condition(ssyn, "Stalled") == ("True", reason)
    assert said in ssyn["status"]["message"]
    assert world.all(RUN) == []
    assert "Stalled" in world.events()


def test_a_missing_reference_that_appears_starts_the_run() -> None:
    world = World()
    world.add(synthesis())
    live(world)
    assert condition(world.one(SYNTHESIS), "Stalled") == ("True", "HardwareTargetNotFound")
    world.add(target())
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_an_implementer_knows_the_baseline_that_it_has_to_beat() -> None:
    """How many threads the engine had is what a stack may have."""
    world = short()
    live(world)
    steps = {b.step: b for m in world.maps(names.STEP) if (b := StepBegin.model_validate_json(m["data"][STEP_KEY]))}
    measured_baseline = records(world)[0].record.result
    assert steps[StepKind.BASELINE].baseline is None
    assert all(begin.baseline == measured_baseline for step, begin in steps.items() if step is not StepKind.BASELINE)


@pytest.mark.parametrize("how", ["deleted", "opened", "half"])
def test_a_wall_around_candidates_that_somebody_opens_is_closed_again(how: str) -> None:
    world = short()
    process = live(world)
    key = (NETWORK_POLICY, NAMESPACE, "sartor-candidate")
    before = world.store[key]["spec"]

    def opened(manifest: dict) -> None:
        if how == "opened":
            manifest["spec"]["egress"] = [{}]
        else:  # a peer with one selector more means all namespaces
            manifest["spec"]["ingress"][0]["from"][0]["namespaceSelector"] = {}

    if how == "deleted":
        world.remove(key)
    else:
        world.edit(NETWORK_POLICY, "sartor-candidate", opened)
    asyncio.run(process.work())
    assert world.store[key]["spec"] == before
    writes = len(world.writes)
    asyncio.run(process.work())
    assert len(world.writes) == writes


def test_a_token_of_an_identity_that_would_be_mounted_is_taken_away_again() -> None:
    world = short()
    process = live(world)
    world.edit(SERVICE_ACCOUNT, "sartor-judge", lambda m: m.pop("automountServiceAccountToken"))
    asyncio.run(process.work())
    assert world.one(SERVICE_ACCOUNT, "sartor-judge")["automountServiceAccountToken"] is False


def test_a_damaged_index_of_the_winner_is_said_and_published_again_when_it_is_gone() -> None:
    world = short()
    process = live(world)
    index = next(m for m in world.maps(names.STACK) if names.owner_uid(m) == names.uid(world.one(SYNTHESIS)))
    key = (CONFIG_MAP, NAMESPACE, names.name_of(index))
    world._put(key, {**index, "data": {"index.json": "{"}})
    asyncio.run(process.work())
    ssyn = world.one(SYNTHESIS)
    assert condition(ssyn, "Stalled") == ("True", "InfrastructureFailure")
    assert f"ConfigMap {key[2]} cannot be read; delete it" in ssyn["status"]["message"]
    world.remove(key)
    process.stop()
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving"


def test_a_status_that_cannot_be_read_is_written_anew() -> None:
    """A newer operator wrote it, and was taken back."""
    world = short()
    live(world).stop()
    right = world.one(RUN)["status"], world.one(SYNTHESIS)["status"]
    world.edit(RUN, names.name_of(world.one(RUN)), lambda m: m["status"].update(novelty=1))
    world.edit(SYNTHESIS, "editor", lambda m: m["status"].update(novelty=1))
    live(world)
    assert (world.one(RUN)["status"], world.one(SYNTHESIS)["status"]) == right, "not even a time changed"
    world.edit(RUN, names.name_of(world.one(RUN)), lambda m: m["status"].update(phase="Dreaming", best={"x": 1}))
    live(world)
    assert world.one(RUN)["status"] == right[0] and world.one(SYNTHESIS)["status"]["phase"] == "Serving"
    assert len(world.all(RUN)) == 1


def test_a_refusal_about_what_has_no_namespace_is_told_in_the_default_one() -> None:
    world = World()
    world.add(target())

    def refuse(what: str) -> Exception | None:
        return RefusedError("403 Forbidden: no", status=403) if what.startswith("status HardwareTarget") else None

    world.fail = refuse
    process = Process(world)
    with pytest.raises(RefusedError):
        asyncio.run(process.work())
    (event,) = world.all(EVENT)
    assert event["metadata"]["namespace"] == "default" and "namespace" not in event["involvedObject"]
    assert event["reason"] == "WriteRefused" and "403 Forbidden" in event["message"]


def test_a_quota_that_refuses_a_job_is_said_in_the_status_and_forgotten_when_it_is_raised() -> None:
    world = short()
    refused = {"on": True}

    def quota(what: str) -> Exception | None:
        if refused["on"] and what.startswith("create Job"):
            return RefusedError("403 Forbidden: exceeded quota: jobs", status=403)
        return None

    world.fail = quota
    process = Process(world)
    while process.keys:
        with contextlib.suppress(RefusedError):
            asyncio.run(process.work())
    run = world.one(RUN)
    assert condition(run, "Stalled") == ("True", "WriteRefused")
    assert "exceeded quota: jobs" in run["status"]["message"]
    assert world.events().count("WriteRefused") == 1
    key = (RUN, NAMESPACE, names.name_of(run))
    writes = len(world.writes)
    for _ in range(3):
        with pytest.raises(RefusedError):
            asyncio.run(process.controller.reconcile(key))
    assert world.writes[writes:] == [], "said once"
    process.stop()
    refused["on"] = False
    live(world)
    assert world.one(SYNTHESIS)["status"]["phase"] == "Serving" and condition(world.one(RUN), "Stalled") is None
