"""What breaks in the middle of a rollout at a real Gateway: Envoy, Contour, Prometheus, an engine, other people's hands.

Each test says which requests may be lost (none, or those that the broken part held), and that nothing is decided by it. The
operator is killed in `test_rollout_gateway` and, after every single write, in `test_rollout_kills`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import need
from gateway_support import gateway_cluster
from operator_support import wait_for
from rollout_gateway_parts import BASELINE, CANDIDATE
from rollout_gateway_support import ANALYSIS, ERRORS, HALF, Live, live, prepared, reason

from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import HTTP_ROUTE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FORWARD: list[dict[str, Any]] = [{"weight": 20, "hold": "5s"}, {"weight": 50, "hold": "5s"}]
DECIDED_SECONDS = 300.0
PROMETHEUS = "http://10.240.0.5:9090"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster of its own: parts of it are killed."""
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield prepared(running)


@pytest.fixture
def made(gateway: DevCluster, tmp_path: Path) -> Iterator[Live]:
    with live(gateway, tmp_path) as one:
        yield one
    gateway.wait_ready()


def at_half(made: Live, **users: float) -> None:
    """Both arms have answered users for some seconds."""
    made.come(**users)
    made.at_step(1)
    time.sleep(5.0)


def test_the_baseline_dies_in_the_middle_and_the_candidate_takes_everything(made: Live) -> None:
    made.begin(HALF, [ERRORS])
    at_half(made)
    went = made.endpoints(made.baseline, there=False)
    status = made.reaches("Frozen", 60)
    assert reason(status, "Frozen") == "BaselineNotReady"
    wait_for("all on the candidate", lambda: made.shares() == {BASELINE: 0, CANDIDATE: 100}, 30)
    time.sleep(3.0)
    back = made.endpoints(made.baseline, there=True)
    wait_for("half and half again", lambda: made.shares() == {BASELINE: 50, CANDIDATE: 50}, 60)
    made.reaches("Progressing", 60)
    wait_for("it is asked again", lambda: made.answered(made.baseline, back) > 0, 30, every=0.5)
    account = made.account()
    refused = [account.records[one.id] for one in account.lost]
    print(f"baseline gone: {len(refused)} refused until its weight was 0; {account.told()}")
    assert all(r.status == 503 and r.backend is not None and r.backend.service == BASELINE for r in refused)
    refused_for = max((r.started for r in refused), default=went) - went
    assert refused_for < 10.0, "soon, on a machine that may be busy: how soon is a figure of the benches"
    assert account.carried_out() == {i: 1 for i in account.outcomes if i not in {one.id for one in account.lost}}


def test_the_last_endpoint_of_the_candidate_goes_away(made: Live) -> None:
    """Envoy answers the arm's share with 503 until its weight is 0: Contour has no retries. Nothing else is lost."""
    made.begin(HALF, [ERRORS])
    at_half(made)
    went = made.endpoints(made.candidate, there=False)
    status = made.reaches("Frozen", 60)
    assert {c["type"]: c["reason"] for c in status["conditions"]}["Frozen"] == "CandidateNotReady"
    assert made.shares() == {BASELINE: 100, CANDIDATE: 0}
    time.sleep(2.0)
    account = made.account()
    refused = [account.records[one.id] for one in account.lost]
    assert all(r.status == 503 and r.backend is not None and r.backend.service == CANDIDATE for r in refused)
    ends = [one.started for one in refused if one.started is not None]
    ends += [one.at for one in account.of_users(CANDIDATE) if one.at > went]
    after = max(ends, default=went) - went
    print(
        f"endpoint gone: nothing for its arm {after:.2f} s later; {len(refused)} refused until then; {account.told()}"
    )
    assert after < 10.0, "soon, on a machine that may be busy: how soon is a figure of the benches"
    counted = account.carried_out()
    assert counted == {i: 1 for i in account.outcomes if i not in {one.id for one in account.lost}}


@pytest.mark.exhaustive
def test_envoy_killed_loses_what_it_held_and_nothing_is_decided_by_that(made: Live) -> None:
    made.begin(HALF, [ERRORS])
    at_half(made)
    (pid,) = (c.pid for c in made.cluster.status().components if c.name == "envoy")
    assert pid is not None
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    wait_for(
        "both arms again", lambda: all(made.answered(e, killed + 1) > 20 for e in (made.baseline, made.candidate)), 60
    )
    back = time.time()
    time.sleep(40.0)  # long enough for a verdict on what happened
    assert made.status()["phase"] in ("Progressing", "Frozen"), made.status()
    assert made.shares() == {BASELINE: 50, CANDIDATE: 50}
    made.reaches("Progressing", DECIDED_SECONDS)
    account = made.account(recorded=False)
    print(f"Envoy killed: answered again after {back - killed:.1f} s; {account.told()}")
    lost = {one.id for one in account.lost}
    assert lost, "what was under way cannot have ended well"
    sent = {one.id: one.at for name in account.came for one in account.of_users(name)}
    assert all(killed - 3.0 < sent[i] < back for i in lost if i in sent), "nothing that was sent later is lost"
    counted = account.carried_out()
    assert max(counted.values()) == 1 and counted.keys() >= account.outcomes.keys() - lost


@pytest.mark.exhaustive
def test_contour_killed_again_and_again_and_it_goes_forward_without_a_loss(made: Live) -> None:
    made.begin(FORWARD, [ERRORS])
    made.come()
    over = threading.Event()

    def kill() -> None:
        while not over.wait(15.0):
            made.cluster.stop_component("contour", kill=True)
            over.wait(3.0)
            made.cluster.start_component("contour")

    killing = threading.Thread(target=kill, name="killing")
    killing.start()
    try:
        made.reaches("Promoted", 3 * DECIDED_SECONDS)
    finally:
        over.set()
        killing.join()
    time.sleep(3.0)
    account = made.account()
    print(account.told())
    assert account.lost == []
    account.assert_each_once()


@pytest.mark.exhaustive
def test_streams_that_hang_are_a_regression_of_their_length(made: Live) -> None:
    """No error is written of a stream that never ends: its client leaves, and what it waited counts."""
    made.begin(HALF, [ERRORS, {"metric": "endToEndLatencyP99", "maximumRegression": "50%"}])
    at_half(made, timeout=5.0)
    planted = made.candidate.behave(hang=0.1)
    status = made.reaches("RolledBack", DECIDED_SECONDS)
    found = {g["metric"]: g["outcome"] for g in status["verdict"]["guardrails"]}
    assert found["endToEndLatencyP99"] == "fail" and found["errorRate"] != "fail"
    time.sleep(6.0)
    account = made.account()
    took = max(one.at for one in account.of_users(CANDIDATE)) - planted
    print(f"a tenth hangs: last request to the candidate {took:.1f} s after that began; {account.told()}")
    assert {one.id for one in account.lost} == {one.id for one in account.of_users(CANDIDATE) if one.failed}
    account.assert_each_once()


@pytest.mark.exhaustive
def test_somebody_who_fights_for_the_route_is_told_of_and_costs_no_request(made: Live) -> None:
    """A second controller that writes its own weights again and again: ours are put back at most every ten seconds."""
    made.begin(HALF, [ERRORS])
    at_half(made)
    over = threading.Event()
    name = names.name_of(made.route)

    def fight() -> None:
        while not over.wait(0.5):
            rules = made.route["spec"]["rules"]
            for backend in (b for rule in rules if len(rule["backendRefs"]) > 1 for b in rule["backendRefs"]):
                backend["weight"] = {BASELINE: 5, CANDIDATE: 95}[backend["name"]]
            made.api.patch(HTTP_ROUTE, made.namespace, name, {"spec": {"rules": rules}})

    fighting = threading.Thread(target=fight, name="fighting")
    fighting.start()
    try:
        status = made.reaches("Frozen", 30)
        assert reason(status, "Frozen") == "RouteConflict"
        time.sleep(20.0)
    finally:
        over.set()
        fighting.join()
    writes = made.route["metadata"]["generation"]
    wait_for("our weights", lambda: made.shares() == {BASELINE: 50, CANDIDATE: 50}, 30)
    made.reaches("Progressing", 40)
    assert made.events()["RouteChanged"] >= 1
    time.sleep(2.0)
    account = made.account()
    print(f"fought for 20 s, {writes} versions of the route; {account.told()}")
    assert account.lost == []
    account.assert_each_once()


@pytest.mark.exhaustive
def test_prometheus_as_the_only_source_goes_down_comes_back_and_finds_the_errors(
    gateway: DevCluster, tmp_path: Path
) -> None:
    need(gateway, "prometheus", "kube-proxy", "coredns")
    analysis = {**ANALYSIS, "sources": ["prometheus"], "prometheusAddress": PROMETHEUS}
    with live(gateway, tmp_path, inside=True) as made:
        made.begin(HALF, [ERRORS], analysis=analysis)
        at_half(made)
        wait_for("samples of both arms", lambda: _sampled(made) > 100, DECIDED_SECONDS, every=0.5)
        gateway.stop_component("prometheus", kill=True)
        try:
            status = made.reaches("Frozen", 120)
            print(reason(status, "Frozen"), status["message"])
            assert reason(status, "Frozen") == "NoSamples"
            assert made.shares() == {BASELINE: 50, CANDIDATE: 50}
        finally:
            gateway.start_component("prometheus")
        made.reaches("Progressing", 120)
        planted = made.candidate.behave(fail=0.1)
        status = made.reaches("RolledBack", DECIDED_SECONDS)
        (found,) = status["verdict"]["guardrails"]
        assert found["source"].partition(",")[0] == "prometheus"
        time.sleep(3.0)
        account = made.account()
        took = max(one.at for one in account.of_users(CANDIDATE)) - planted
        print(f"a tenth fails, by Prometheus: last request to the candidate {took:.1f} s later; {account.told()}")
        assert {one.id for one in account.lost} == {one.id for one in account.of_users(CANDIDATE) if one.failed}
        account.assert_each_once()


def _sampled(made: Live) -> int:
    """Of the arm that has fewer."""
    status = made.status()
    return min(int((status.get(arm) or {}).get("samples") or 0) for arm in ("baseline", "candidate"))
