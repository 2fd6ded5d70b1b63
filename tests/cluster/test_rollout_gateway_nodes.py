"""A node that is really lost in the middle of a rollout at a real Gateway, and comes back.

All of its processes end at one instant, and nobody tells the API server. Connections to its pods are refused, or, where the
machine has no power, not even that. Kubernetes' own node controller notices after its grace period, as the development
cluster starts it.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from devcluster_support import need
from gateway_support import gateway_cluster
from operator_support import wait_for
from rollout_gateway_nodes import PodEngine, nodes, on
from rollout_gateway_parts import BASELINE, CANDIDATE
from rollout_gateway_support import ERRORS, HALF, Live, live_with, prepared, reason

from sartor_devcluster import DevCluster

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(900)]

PROMETHEUS = "http://10.240.0.5:9090"
NOTICED_SECONDS = 90.0
"""The node controller gives a node 50 s, and looks every 5 s."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield prepared(running)


@pytest.fixture
def made(gateway: DevCluster, tmp_path: Path) -> "Iterator[Live[PodEngine]]":
    with nodes(gateway, tmp_path) as places, live_with(on(places), gateway, tmp_path) as one:
        yield one


def arms(made: Live[PodEngine], which: str) -> tuple[PodEngine, PodEngine]:
    """The arm whose node is lost, and the other one."""
    both = (made.candidate, made.baseline)
    return both if which == CANDIDATE else (both[1], both[0])


def frozen_for(made: Live[PodEngine], wanted: str, seconds: float = 10.0) -> None:
    wait_for(f"Frozen for {wanted}", lambda: reason(made.status(), "Frozen") == wanted, seconds)


def comes_back(made: Live[PodEngine], arm: PodEngine, other: PodEngine) -> float:
    """The node does, and with it the arm; seconds from its endpoint to half and half."""
    arm.node.come_back()
    ready = arm.wait_ready(there=True, seconds=60)
    wait_for("half and half again", lambda: made.shares() == {BASELINE: 50, CANDIDATE: 50}, 60, every=0.1)
    shared = time.time()
    made.reaches("Progressing", 20)
    wait_for("answers of both", lambda: min(made.answered(e, shared) for e in (arm, other)) > 20, 30)
    return shared - ready


def told(made: Live[PodEngine], arm: PodEngine, lost_at: float, until: float) -> str:
    """What became of the requests: only those of the lost arm are lost, none of them later than `until`."""
    account = made.account()
    lost = [account.records[one.id] for one in account.lost]
    assert lost and all(record.backend is not None and record.backend.service == arm.name for record in lost)
    assert all(lost_at - 3.0 < record.started < until + 2.0 for record in lost)
    counted = account.carried_out()
    assert max(counted.values()) == 1 and all(record.attempts in (None, 1) for record in account.records.values())
    assert counted.keys() >= account.outcomes.keys() - {one.id for one in account.lost}
    last = max(record.started for record in lost) - lost_at
    return f"{len(lost)} lost, the last {last:.1f} s after it; {account.told()}"


@pytest.mark.parametrize(
    ("which", "silent"),
    [(CANDIDATE, False), (BASELINE, False), (CANDIDATE, True)],
    ids=["candidate", "baseline", "candidate, silent"],
)
def test_a_lost_node_costs_its_own_arm_alone_and_for_seconds(made: Live[PodEngine], which: str, silent: bool) -> None:
    """The gateway's records tell long before Kubernetes knows; then its knowledge takes the place of the suspicion."""
    arm, other = arms(made, which)
    pod, side = arm.pod()["metadata"]["uid"], "Candidate" if which == CANDIDATE else "Baseline"
    left = {arm.name: 0, other.name: 100}
    made.begin(HALF, [ERRORS])
    made.come(timeout=10.0)
    made.at_step(1)
    time.sleep(5.0)

    lost_at = arm.node.lose(silent=silent)
    wait_for("all on the other arm", lambda: made.shares() == left, 20, every=0.02)
    moved = time.time()
    assert arm.ready() and arm.node.ready(), "nobody in Kubernetes knows yet"
    frozen_for(made, f"{side}Unreachable")
    unready = arm.wait_ready(there=False, seconds=NOTICED_SECONDS)
    assert not arm.node.ready(), "the node controller, and nobody else, took the endpoint away"
    frozen_for(made, f"{side}NotReady")
    time.sleep(5.0)
    assert made.shares() == left

    after = comes_back(made, arm, other)
    assert arm.pod()["metadata"]["uid"] == pod and arm.restarts() == 1, "the pod lives on, its container is another"
    if which == CANDIDATE:
        assert after > 10.0, "it has to be steady first"
    print(
        f"node of {which} {'silent' if silent else 'lost'}: weights after {moved - lost_at:.1f} s, endpoint gone after "
        f"{unready - lost_at:.1f} s; half and half {after:.1f} s after it is back; {told(made, arm, lost_at, moved)}"
    )


def test_without_the_records_kubernetes_is_waited_for(made: Live[PodEngine]) -> None:
    """Prometheus as the only source knows of errors, not of connects."""
    need(made.cluster, "prometheus")
    arm, other = arms(made, CANDIDATE)
    analysis = {"minimumSamples": 100, "sources": ["prometheus"], "prometheusAddress": PROMETHEUS}
    made.begin(HALF, [{"metric": "errorRate", "atMost": "100%"}], analysis=analysis)
    made.come()
    made.at_step(1)
    time.sleep(5.0)

    lost_at = arm.node.lose()
    unready = arm.wait_ready(there=False, seconds=NOTICED_SECONDS)
    wait_for("all on the other arm", lambda: made.shares() == {BASELINE: 100, CANDIDATE: 0}, 10, every=0.02)
    assert not arm.node.ready()
    frozen_for(made, "CandidateNotReady")
    after = comes_back(made, arm, other)
    print(
        f"node lost, no access log: endpoint gone after {unready - lost_at:.1f} s; half and half {after:.1f} s after it is "
        f"back; {told(made, arm, lost_at, unready)}"
    )
