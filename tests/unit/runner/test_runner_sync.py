"""The core against the kubelet's behaviour, in pretended time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor_runner.core.backoff import Backoff
from sartor_runner.core.observed import Failure, Observed, Run, Start, Stop, TearDown, Verdict
from sartor_runner.core.pod import parse
from sartor_runner.core.probes import Kind, ProbeState
from sartor_runner.core.sync import sync

from .simulation import START, Attempt, Machine, pod

FOREVER = Attempt()


def states(machine: Machine, name: str = "main") -> list[str]:
    """`running`, `terminated:REASON`, `waiting:REASON` in the order they were seen."""
    found: list[str] = []
    for _, status in machine.statuses:
        for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
            if container["name"] != name:
                continue
            ((kind, state),) = container["state"].items()
            text = kind if kind == "running" else f"{kind}:{state['reason']}"
            if not found or found[-1] != text:
                found.append(text)
    return found


def condition(status: Any, kind: str) -> tuple[str, str]:
    found = next(c for c in status["conditions"] if c["type"] == kind)
    return found["status"], found.get("reason", "")


@pytest.mark.parametrize(
    ("restart", "code", "phases"),
    [
        ("Never", 0, ["Pending", "Running", "Succeeded"]),
        ("Never", 3, ["Pending", "Running", "Failed"]),
        ("OnFailure", 0, ["Pending", "Running", "Succeeded"]),
        ("OnFailure", 3, ["Pending", "Running"]),
        ("Always", 0, ["Pending", "Running"]),
    ],
)
def test_the_phase_follows_the_restart_policy(restart: str, code: int, phases: list[str]) -> None:
    machine = Machine(pod(restart=restart), {"main": [Attempt(seconds=2, code=code)]}).run(9)
    assert machine.phases() == phases


def test_a_pod_that_succeeded_says_so_and_keeps_its_address() -> None:
    status = Machine(pod(restart="Never"), {"main": [Attempt(seconds=2)]}).run(9).status
    assert condition(status, "Ready") == ("False", "PodCompleted")
    assert condition(status, "Initialized") == ("True", "PodCompleted")
    assert condition(status, "PodReadyToStartContainers") == ("False", "")
    assert status["podIP"] == "10.244.0.9"
    terminated = status["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (0, "Completed")
    assert terminated["startedAt"] == "1970-01-12T13:46:40Z" and terminated["finishedAt"] == "1970-01-12T13:46:42Z"


def test_restarts_back_off_from_10_s_to_5_min() -> None:
    machine = Machine(pod(), {"main": [Attempt(seconds=1, code=1)]}).run(2000)
    gaps = [b - a - 1 for a, b in zip(machine.starts(), machine.starts()[1:], strict=False)]
    assert gaps == [0, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300]
    container = machine.status["containerStatuses"][0]
    wait = container["state"]["waiting"]
    assert wait["reason"] == "CrashLoopBackOff"
    assert wait["message"] == "back-off 5m0s restarting failed container=main pod=web_team(uid-1)"
    assert container["restartCount"] == 11
    assert container["lastState"]["terminated"]["exitCode"] == 1


def test_a_container_that_ran_for_ten_minutes_starts_over() -> None:
    script = [Attempt(seconds=1, code=1)] * 4 + [Attempt(seconds=601, code=1), Attempt(seconds=1, code=1)]
    machine = Machine(pod(), {"main": script}).run(2000)
    starts = machine.starts()
    assert starts[5] == starts[4] + 601, "the first restart is immediate again"
    assert starts[6] == starts[5] + 1 + 10, "and the next one waits 10 s again"


def test_init_containers_run_one_after_the_other_before_the_others() -> None:
    raw = pod(initContainers=[{"name": "a", "image": "test"}, {"name": "b", "image": "test"}])
    machine = Machine(raw, {"a": [Attempt(seconds=5)], "b": [Attempt(seconds=5)], "main": [FOREVER]}).run(30)
    assert (machine.starts("a"), machine.starts("b"), machine.starts()) == ([0], [5], [10])
    assert states(machine) == ["waiting:PodInitializing", "running"]
    first = machine.statuses[1][1]
    assert condition(first, "Initialized") == ("False", "ContainersNotInitialized")
    assert first["phase"] == "Pending"
    assert condition(machine.status, "Ready") == ("True", "")


def test_an_init_container_that_fails_for_good_fails_the_pod() -> None:
    raw = pod(restart="Never", initContainers=[{"name": "a", "image": "test"}])
    machine = Machine(raw, {"a": [Attempt(seconds=1, code=7)], "main": [FOREVER]}).run(30)
    assert machine.phases() == ["Pending", "Failed"]
    assert machine.starts() == []
    assert condition(machine.status, "Initialized") == ("False", "ContainersNotInitialized")


def test_an_init_container_that_fails_is_tried_again_with_back_off() -> None:
    raw = pod(initContainers=[{"name": "a", "image": "test"}])
    script = {"a": [Attempt(seconds=1, code=7)] * 2 + [Attempt(seconds=1)], "main": [FOREVER]}
    machine = Machine(raw, script).run(60)
    assert machine.starts("a") == [0, 1, 12]
    assert machine.phases() == ["Pending", "Running"]


def probe(**more: Any) -> dict[str, Any]:
    return {"tcpSocket": {"port": 80}, **more}


def test_a_pod_is_ready_once_its_probe_says_so_and_not_when_it_does_not() -> None:
    raw = pod(containers=[{"readinessProbe": probe(periodSeconds=5, initialDelaySeconds=3, failureThreshold=2)}])
    answers = {("main", Kind.READINESS): [(0, False), (10, True), (30, False)]}
    machine = Machine(raw, {"main": [FOREVER]}, answers).run(60)
    ready = [(at - START, condition(status, "Ready")[0]) for at, status in machine.statuses if at > START]
    assert ready == [(13, "True"), (38, "False")], "3 s of delay, every 5 s, and the second failure counts"


def test_other_probes_wait_for_the_startup_probe() -> None:
    raw = pod(
        containers=[
            {"startupProbe": probe(periodSeconds=1, failureThreshold=30), "livenessProbe": probe(periodSeconds=1)}
        ]
    )
    answers = {("main", Kind.STARTUP): [(0, False), (10, True)], ("main", Kind.LIVENESS): [(0, False), (10, True)]}
    machine = Machine(raw, {"main": [FOREVER]}, answers).run(60)
    assert machine.starts() == [0], "the liveness probe did not run while it would have failed"
    started = [(at - START, status["containerStatuses"][0]["started"]) for at, status in machine.statuses]
    assert started[-1] == (10, True)


@pytest.mark.parametrize(("kind", "field"), [(Kind.LIVENESS, "livenessProbe"), (Kind.STARTUP, "startupProbe")])
def test_a_failed_probe_restarts_the_container_within_its_grace(kind: Kind, field: str) -> None:
    raw = pod(containers=[{field: probe(periodSeconds=1, failureThreshold=3, terminationGracePeriodSeconds=4)}])
    machine = Machine(raw, {"main": [Attempt(stops=None)]}, {("main", kind): [(0, False)]}).run(8)
    stop = next(action for _, action in machine.done if isinstance(action, Stop))
    assert stop.by - START == 2 + 4, "the third probe at 2 s, and 4 s of grace"
    assert machine.starts() == [0, 6]
    assert machine.status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def test_a_failed_liveness_probe_without_restarts_fails_the_pod() -> None:
    raw = pod(restart="Never", containers=[{"livenessProbe": probe(periodSeconds=1, failureThreshold=1)}])
    machine = Machine(raw, {"main": [FOREVER]}, {("main", Kind.LIVENESS): [(0, False)]}).run(8)
    assert machine.phases() == ["Pending", "Running", "Failed"]


def test_a_deleted_pod_ends_within_its_grace_and_then_its_object_goes() -> None:
    machine = Machine(pod(), {"main": [Attempt(stops=None)]}).run(5).delete(grace=7).run(20)
    assert machine.phases() == ["Pending", "Running", "Failed"]
    assert [at - START for at, action in machine.done if isinstance(action, TearDown)] == [12]
    assert machine.deleted_object and machine.discarded


def test_a_shorter_grace_wins() -> None:
    machine = Machine(pod(), {"main": [Attempt(stops=None)]}).run(5).delete(grace=30).run(5).delete(grace=2).run(20)
    assert [at - START for at, action in machine.done if isinstance(action, TearDown)] == [12]


def test_a_deleted_pod_that_ends_well_succeeded() -> None:
    machine = Machine(pod(), {"main": [Attempt(seconds=8, stops=None)]}).run(5).delete(grace=7).run(20)
    assert machine.phases()[-1] == "Succeeded"


def test_the_deadline_ends_the_pod_and_its_reason_stays() -> None:
    machine = Machine(pod(activeDeadlineSeconds=10), {"main": [FOREVER]}).run(100)
    assert (machine.status["phase"], machine.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert machine.status["message"] == "Pod was active on the node longer than the specified deadline"
    assert machine.starts() == [0]
    machine.delete(grace=1).run(5)
    assert machine.status["reason"] == "DeadlineExceeded"


def test_an_unknown_image_waits_and_says_why() -> None:
    machine = Machine(
        pod(), {}, observed=Observed(image_errors={"main": "no such image here"}, images_since=START)
    ).run(40)
    assert states(machine) == [
        *("waiting:ErrImagePull", "waiting:ImagePullBackOff", "waiting:ErrImagePull", "waiting:ImagePullBackOff"),
        *("waiting:ErrImagePull", "waiting:ImagePullBackOff"),
    ]
    assert machine.phases() == ["Pending"]
    assert machine.statuses[1][1]["containerStatuses"][0]["state"]["waiting"]["message"] == "no such image here"


def test_one_container_with_an_unknown_image_does_not_keep_the_others_from_running() -> None:
    raw = pod(containers=[{}, {"name": "odd", "image": "unknown"}])
    observed = Observed(image_errors={"odd": "no such image here"}, images_since=START)
    machine = Machine(raw, {"main": [FOREVER]}, observed=observed).run(5)
    assert states(machine)[-1] == "running"
    assert machine.status["phase"] == "Pending"
    assert condition(machine.status, "Ready") == ("False", "ContainersNotReady")


def test_a_container_that_cannot_be_created_says_why_and_is_tried_again() -> None:
    failure = Failure("CreateContainerConfigError", 'secret "x" not found', START)
    observed = Observed(setup="ready", failures={"main": failure})
    early = sync(parse(pod()), observed, START + 1)
    assert early.actions == () and early.wake == START + 10
    wait = early.status["containerStatuses"][0]["state"]["waiting"]
    assert wait == {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}
    assert sync(parse(pod()), observed, START + 10).actions == (Start("main", 0, Backoff()),)


def test_a_verdict_before_the_start_is_all_that_the_status_says() -> None:
    verdict = Verdict("OutOfsartor.dev/metal", "none left")
    machine = Machine(pod(), {}, observed=Observed(verdict=verdict)).run(5)
    assert (machine.status["phase"], machine.status["reason"]) == ("Failed", "OutOfsartor.dev/metal")
    assert "containerStatuses" not in machine.status
    assert machine.done == []


def test_a_terminal_phase_is_for_ever() -> None:
    observed = Observed(status={"phase": "Failed", "reason": "Evicted", "message": "too much"})
    decision = sync(parse(pod()), observed, START)
    assert decision.actions == ()
    assert (decision.status["phase"], decision.status["reason"]) == ("Failed", "Evicted")


def test_a_readiness_gate_keeps_the_pod_unready() -> None:
    raw = pod(readinessGates=[{"conditionType": "example.com/gate"}])
    machine = Machine(raw, {"main": [FOREVER]}).run(5)
    assert condition(machine.status, "Ready") == ("False", "ReadinessGatesNotReady")
    assert condition(machine.status, "ContainersReady") == ("True", "")


def test_only_the_last_two_attempts_are_kept() -> None:
    machine = Machine(pod(), {"main": [Attempt(seconds=1, code=1)]}).run(300)
    assert [run.attempt for run in machine.observed.runs["main"]] == [4, 5]


def test_an_ephemeral_container_is_refused_in_its_own_status() -> None:
    raw = pod(ephemeralContainers=[{"name": "debugger", "image": "test"}])
    machine = Machine(raw, {"main": [FOREVER]}).run(5)
    (ephemeral,) = machine.status["ephemeralContainerStatuses"]
    assert ephemeral["state"]["waiting"]["reason"] == "UnsupportedByRunner"
    assert machine.status["phase"] == "Running"


def test_transition_times_move_only_with_the_status() -> None:
    raw = pod(containers=[{"readinessProbe": probe(periodSeconds=5)}])
    answers = {("main", Kind.READINESS): [(0, False), (20, True)]}
    machine = Machine(raw, {"main": [FOREVER]}, answers).run(60)
    times = {c["type"]: c["lastTransitionTime"] for c in machine.status["conditions"]}
    assert times["Initialized"] == "1970-01-12T13:46:40Z"
    assert times["Ready"] == "1970-01-12T13:47:00Z"


attempts = st.builds(
    Attempt,
    seconds=st.one_of(st.none(), st.integers(0, 700)),
    code=st.sampled_from([0, 1, 137]),
    stops=st.one_of(st.none(), st.integers(0, 40)),
)
answer_lists = st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=4).map(
    lambda found: [(0, True), *sorted(found)]
)


@settings(max_examples=60, deadline=None)
@given(
    restart=st.sampled_from(["Always", "OnFailure", "Never"]),
    scripts=st.lists(attempts, min_size=1, max_size=3),
    init=st.one_of(st.none(), st.lists(attempts, min_size=1, max_size=2)),
    answers=answer_lists,
    liveness=st.booleans(),
    deadline=st.one_of(st.none(), st.integers(1, 500)),
    delete_after=st.integers(0, 900),
    grace=st.integers(0, 40),
)
def test_whatever_happens_the_status_is_lawful_and_the_end_comes(
    restart: str,
    scripts: list[Attempt],
    init: list[Attempt] | None,
    answers: list[tuple[float, bool]],
    liveness: bool,
    deadline: int | None,
    delete_after: int,
    grace: int,
) -> None:
    kind, field = (Kind.LIVENESS, "livenessProbe") if liveness else (Kind.READINESS, "readinessProbe")
    more: dict[str, Any] = {"activeDeadlineSeconds": deadline} if deadline else {}
    if init is not None:
        more["initContainers"] = [{"name": "a", "image": "test"}]
    raw = pod(restart=restart, containers=[{field: probe()}], **more)
    machine = Machine(raw, {"main": scripts, "a": init or []}, {("main", kind): answers})
    machine.run(delete_after).delete(grace).run(grace + 60)

    phases = machine.phases()
    assert all(phase in ("Pending", "Running", "Succeeded", "Failed") for phase in phases)
    assert len([p for p in phases if p in ("Succeeded", "Failed")]) <= 1, "a terminal phase is the last one"
    counts = [s["containerStatuses"][0]["restartCount"] for _, s in machine.statuses if "containerStatuses" in s]
    assert counts == sorted(counts)
    for _, status in machine.statuses:
        running = [c for c in status.get("containerStatuses", ()) if "running" in c["state"]]
        assert not (running and status["phase"] in ("Succeeded", "Failed")), "nothing runs in a pod that is over"
        assert condition(status, "Ready")[0] == "False" or (running and running[0]["ready"])
    if restart == "Never":
        assert len(machine.starts()) <= 1
    assert machine.discarded, "nothing is left after the grace period"


@settings(max_examples=200, deadline=None)
@given(
    runs=st.lists(
        st.builds(
            Run,
            attempt=st.integers(0, 3),
            container_id=st.just("id"),
            image_id=st.just("image"),
            started_at=st.one_of(st.none(), st.floats(START - 99, START)),
            finished_at=st.one_of(st.none(), st.floats(START - 99, START + 5)),
            exit_code=st.one_of(st.none(), st.integers(0, 255)),
            stop_by=st.one_of(st.none(), st.floats(START - 5, START + 50)),
            backoff=st.builds(Backoff, st.sampled_from([0.0, 10.0, 300.0]), st.floats(START - 900, START)),
        ),
        max_size=3,
    ),
    setup=st.sampled_from(["absent", "pending", "ready", "removing", "removed"]),
    starting=st.booleans(),
    gone=st.booleans(),
    deleted=st.booleans(),
    verdict=st.one_of(st.none(), st.just(Verdict("Evicted", "why"))),
    passed=st.one_of(st.none(), st.booleans()),
    held=st.booleans(),
    phase=st.sampled_from(["", "Pending", "Running", "Succeeded", "Failed"]),
)
def test_it_has_an_answer_to_every_observation(
    runs: list[Run],
    setup: Any,
    starting: bool,
    gone: bool,
    deleted: bool,
    verdict: Verdict | None,
    passed: bool | None,
    held: bool,
    phase: str,
) -> None:
    raw = pod(containers=[{"readinessProbe": probe(), "livenessProbe": probe(), "startupProbe": probe()}])
    if deleted:
        raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    observed = Observed(
        setup=setup,
        runs={"main": tuple(runs)},
        starting=frozenset({"main"} if starting else ()),
        probes={("main", kind): ProbeState(0, passed, held=held) for kind in Kind},
        gone=gone,
        verdict=verdict,
        status={"phase": phase} if phase else {},
    )
    decision = sync(parse(raw), observed, START)
    assert decision.status["phase"] in ("Pending", "Running", "Succeeded", "Failed")
    assert len([a for a in decision.actions if isinstance(a, Start)]) <= 1
    if starting or any(not run.ended for run in runs[-1:]):
        assert not any(isinstance(a, Start) for a in decision.actions), "two attempts never run at once"
    if observed.any_running():
        assert not any(isinstance(a, TearDown) for a in decision.actions), "volumes stay while something runs"
