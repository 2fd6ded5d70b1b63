"""What becomes of traffic at a real Gateway when objects go or come in the middle of a rollout.

The rollout itself at each of its steps, its route, an arm's Service, a second rollout for the same route, an arm's process;
and an arm that lies now and then. Nodes that are lost: `test_rollout_gateway_nodes`.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import need
from gateway_support import gateway_cluster
from operator_support import apply, wait_for
from rollout_gateway_parts import BASELINE, CANDIDATE, Engine
from rollout_gateway_support import ANALYSIS, ERRORS, HALF, PARENT, Live, live, node, prepared, reason

from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import ENDPOINT_SLICE, HTTP_ROUTE, ROLLOUT, SERVICE

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(1500)]

DECIDED_SECONDS = 600.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield prepared(running)


@pytest.fixture
def made(gateway: DevCluster, tmp_path: Path) -> Iterator[Live]:
    with live(gateway, tmp_path) as one:
        yield one


@pytest.mark.parametrize(("weight", "then"), [(20, None), (50, "pause"), (100, None), (50, "promote")])
def test_deleted_at_any_step_its_traffic_returns_first_and_no_request_is_lost(
    made: Live, weight: int, then: str | None
) -> None:
    made.begin([{"weight": weight, "hold": "1h"}], [ERRORS])
    made.come()
    made.at_step(1)
    if then is not None:
        made.patch(**{then: True})
        made.reaches({"pause": "Paused", "promote": "Promoted"}[then], 60)
    time.sleep(3.0)
    share = made.shares()[CANDIDATE]
    assert share == (100 if then == "promote" else weight)
    begun = time.time()
    made.api.delete(ROLLOUT, made.namespace, "editor")
    wait_for("it is gone", lambda: made.api.get(ROLLOUT, made.namespace, "editor") is None, 60)
    gone = time.time()
    assert made.shares() == {BASELINE: 100, CANDIDATE: 0}
    time.sleep(3.0)
    account = made.account()
    print(f"deleted at {share} %: gone after {gone - begun:.1f} s; {account.told()}")
    assert [one for one in account.of_users(CANDIDATE) if one.at > gone] == []
    assert account.lost == []
    account.assert_each_once()


def test_a_route_that_somebody_deletes_is_there_again_at_once(made: Live) -> None:
    """What comes while there is none is answered by the Gateway itself, and nobody can help it; nothing else is lost."""
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    time.sleep(3.0)
    begun = time.time()
    made.api.delete(HTTP_ROUTE, made.namespace, names.name_of(made.route))
    wait_for("a new one", lambda: made.api.all(HTTP_ROUTE, made.namespace), 10, every=0.02)
    wait_for("half and half again", lambda: made.shares() == {BASELINE: 50, CANDIDATE: 50}, 60)
    made.reaches("Progressing", 60)
    time.sleep(3.0)
    account = made.account()
    lost = [account.records[one.id] for one in account.lost]
    assert all(record.host is None and record.status in (404, 503) for record in lost), lost[:3]
    last = max((record.started for record in lost), default=begun) - begun
    print(f"route deleted: {len(lost)} refused, the last {last:.2f} s later; {account.told()}")
    assert last < 2.0
    assert set(account.carried_out().values()) == {1}


@pytest.mark.parametrize("kind", [SERVICE, ENDPOINT_SLICE], ids=lambda kind: kind.kind)
def test_a_candidate_whose_service_or_endpoints_somebody_deletes_gives_way(made: Live, kind: Any) -> None:
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    time.sleep(3.0)
    begun = time.time()
    made.api.delete(kind, made.namespace, CANDIDATE)
    status = made.reaches("Frozen", 20)
    wait_for("nothing for it", lambda: made.shares().get(CANDIDATE, 0) == 0, 10, every=0.02)
    print(reason(status, "Frozen"), status["message"])
    time.sleep(5.0)
    account = made.account()
    lost = [account.records[one.id] for one in account.lost]
    last = max((record.started for record in lost), default=begun) - begun
    print(f"{kind.kind} deleted: {len(lost)} lost, the last {last:.2f} s later; {account.told()}")
    assert last < 2.0
    assert set(account.carried_out().values()) == {1}


def test_a_second_rollout_for_the_same_route_waits_and_moves_nothing(made: Live) -> None:
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    first = made.api.get(ROLLOUT, made.namespace, "editor")
    assert first is not None
    spec = {**first["spec"], "policy": {**first["spec"]["policy"], "steps": [{"weight": 100, "hold": "1h"}]}}
    assert spec["policy"]["parentRefs"][0]["name"] == PARENT["name"]
    meta = {"name": "second", "namespace": made.namespace}
    apply(made.cluster, {"apiVersion": ROLLOUT.api_version, "kind": ROLLOUT.kind, "metadata": meta, "spec": spec})

    def stalled() -> bool:
        second = made.api.get(ROLLOUT, made.namespace, "second") or {}
        return any(
            c["type"] == "Stalled" and c["status"] == "True" and c["reason"] == "RouteConflict"
            for c in (second.get("status") or {}).get("conditions", ())
        )

    wait_for("it says who has the route", stalled, 30)
    time.sleep(10.0)
    assert made.shares() == {BASELINE: 50, CANDIDATE: 50}
    assert made.status()["phase"] == "Progressing"
    made.api.delete(ROLLOUT, made.namespace, "editor")
    wait_for("the first is gone", lambda: made.api.get(ROLLOUT, made.namespace, "editor") is None, 60)
    wait_for("the second has its turn", lambda: made.shares() == {BASELINE: 0, CANDIDATE: 100}, 60)
    time.sleep(3.0)
    account = made.account()
    print(account.told())
    assert account.lost == []
    account.assert_each_once()


def test_a_restart_that_kubernetes_does_not_notice_costs_seconds_and_is_no_regression(
    made: Live[Engine],
) -> None:
    """The engine is away for 15 s, its endpoint is said to be ready all the time: its share goes to the other arm, and is
    tried again after a minute."""
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    time.sleep(5.0)
    lost_at = time.time()
    made.candidate.end()
    wait_for("nothing for it", lambda: made.shares() == {BASELINE: 100, CANDIDATE: 0}, 20, every=0.02)
    moved = time.time()
    assert reason(made.reaches("Frozen", 10), "Frozen") == "CandidateUnreachable"
    time.sleep(max(0.0, lost_at + 15.0 - time.time()))
    before, made.candidate = made.candidate, Engine(made.cluster, CANDIDATE, made.candidate.address)
    try:
        wait_for("half and half again", lambda: made.shares() == {BASELINE: 50, CANDIDATE: 50}, 120, every=0.05)
        again = time.time()
        assert again - moved > 60.0, "it is tried when Kubernetes would have known"
        made.reaches("Progressing", 20)
        wait_for("answers", lambda: made.answered(made.candidate, again) > 50, 20)
        account = made.account()
    finally:
        made.candidate.end()
    records = [account.records[one.id] for one in account.lost]
    last = max(r.started for r in records) - lost_at
    print(
        f"restart unseen: weights after {moved - lost_at:.1f} s, again after {again - lost_at:.0f} s; {len(records)} lost, "
        f"the last after {last:.1f} s; {account.told()}"
    )
    assert before.ended and all(r.backend is not None and r.backend.service == CANDIDATE for r in records)
    assert lost_at - 3.0 < min(r.started for r in records) and last < moved - lost_at + 2.0
    assert set(account.carried_out().values()) == {1}


def test_garbage_in_one_answer_of_a_hundred_is_found_by_the_copies(gateway: DevCluster, tmp_path: Path) -> None:
    need(gateway, "kube-proxy", "coredns")
    analysis = {**ANALYSIS, "sources": ["gatewayAccessLog", "probe"], "probe": {"share": "50%", "concurrency": 16}}
    with live(gateway, tmp_path, inside=True) as made, node(made):
        made.begin(HALF, [{"metric": "outputAgreement", "atLeast": "99.8%"}], analysis=analysis)
        made.come()
        made.at_step(1, 90)
        planted = made.candidate.behave(differ=0.01)
        status = made.reaches("RolledBack", DECIDED_SECONDS)
        took = time.time() - planted
        (found,) = status["verdict"]["guardrails"]
        assert (found["metric"], found["outcome"]) == ("outputAgreement", "fail")
        time.sleep(2.0)
        account = made.account()
        print(f"garbage in 1 %: rolled back after {took:.0f} s, {status['verdict']}; {account.told()}")
        assert account.lost == []
        account.assert_each_once()
