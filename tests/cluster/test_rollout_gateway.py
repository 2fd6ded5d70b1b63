"""Whole rollouts under load at a real Gateway: forward, back for every cause, without losing a request.

Everything on the way of a request and of a verdict is real: Contour and Envoy, Envoy's access log, the operator as it is
installed, users in open loop (streams and short requests). What is played is in `rollout_gateway_support`: engines are
processes behind EndpointSlices, since no node is there to run pods. Clients, the Gateway's log and both engines must tell
the same story of each request. Figures are printed (`pytest -s`).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import need
from gateway_support import gateway_cluster
from operator_support import wait_for
from rollout_gateway_parts import BASELINE, CANDIDATE
from rollout_gateway_support import ANALYSIS, ERRORS, HALF, Live, live, node, prepared

from sartor_devcluster import DevCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FORWARD: list[dict[str, Any]] = [{"weight": 20, "hold": "5s"}, {"weight": 50, "hold": "5s"}]
LATENCIES = ("endToEndLatencyP50", "endToEndLatencyP99")
"""On a machine with much else to do the tail of both arms is the machine's, and shows nothing for a long time."""
DECIDED_SECONDS = 300.0
"""Until a step is decided. No verdict on errors is reached in its first minute, none on latencies in its first two."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield prepared(running)


@pytest.fixture
def made(gateway: DevCluster, tmp_path: Path) -> Iterator[Live]:
    with live(gateway, tmp_path) as one:
        yield one


@pytest.mark.exhaustive
def test_forward_to_promoted_and_no_request_is_lost(made: Live) -> None:
    made.begin(FORWARD, [ERRORS])
    made.come()
    status = made.reaches("Promoted", 2 * DECIDED_SECONDS)
    promoted = time.time()
    assert (status["baseline"]["weight"], status["candidate"]["weight"]) == (0, 100)
    time.sleep(3.0)
    account = made.account()
    print(account.told())
    assert account.lost == []
    account.assert_each_once()
    # All that came once the promotion was stored went to the candidate, and each step's share before it.
    assert [one for one in account.of_users(BASELINE) if one.at > promoted + 1.0] == []
    assert made.events()["StepStarted"] == 2
    assert len(account.of_users(BASELINE)) > 500 < len(account.of_users(CANDIDATE))


@pytest.mark.exhaustive
def test_a_candidate_that_fails_five_in_a_hundred_goes_back(made: Live) -> None:
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    time.sleep(5.0)
    planted = made.candidate.behave(fail=0.05)
    status = made.reaches("RolledBack", DECIDED_SECONDS)
    assert made.shares() == {BASELINE: 100, CANDIDATE: 0}
    (found,) = status["verdict"]["guardrails"]
    assert (found["metric"], found["outcome"]) == ("errorRate", "fail")
    time.sleep(3.0)
    account = made.account()
    took = max(one.at for one in account.of_users(CANDIDATE)) - planted
    print(f"errors of 5 %: last request to the candidate {took:.1f} s after the first one could fail; {account.told()}")
    assert took < DECIDED_SECONDS
    # What failed is what the candidate failed on purpose, and nothing else.
    failed = {one.id for one in account.of_users(CANDIDATE) if one.failed}
    assert failed == {one.id for one in account.lost} and len(failed) > 10
    account.assert_each_once()


@pytest.mark.exhaustive
def test_a_candidate_that_gets_slow_goes_back(made: Live) -> None:
    made.begin(HALF, [ERRORS, *({"metric": metric, "maximumRegression": "50%"} for metric in LATENCIES)])
    made.come()
    made.at_step(1)
    time.sleep(5.0)
    planted = made.candidate.behave(slow=4.0)
    status = made.reaches("RolledBack", DECIDED_SECONDS)
    failed = {g["metric"] for g in status["verdict"]["guardrails"] if g["outcome"] == "fail"}
    assert failed and failed <= set(LATENCIES)
    time.sleep(3.0)
    account = made.account()
    took = max(one.at for one in account.of_users(CANDIDATE)) - planted
    print(f"four times as slow: last request to the candidate {took:.1f} s after it became so; {account.told()}")
    assert account.lost == []
    account.assert_each_once()


@pytest.mark.alone
def test_an_abort_by_kubectl_takes_effect_in_under_two_seconds(made: Live) -> None:
    """Alone, as it is a time: other tests beside it would be timed too."""
    made.begin(HALF, [ERRORS])
    made.come()
    made.at_step(1)
    time.sleep(5.0)
    begun, ended = made.patch(abort=True, promote=False)
    made.reaches("RolledBack", 40)
    time.sleep(2.0)
    account = made.account()
    last = max(one.at for one in account.of_users(CANDIDATE))
    print(
        f"abort: last request to the candidate {last - begun:.2f} s after kubectl began ({last - ended:+.2f} s after it "
        f"ended); {account.told()}"
    )
    assert last - begun < 2.0
    assert account.lost == []
    account.assert_each_once()


@pytest.mark.exhaustive
def test_forward_while_the_operator_is_killed_every_second(made: Live) -> None:
    """Killed a second after it has begun to work, and started anew at once, until the rollout is promoted."""
    made.begin(FORWARD, [ERRORS])
    made.come()
    made.kept.kill_after = 1.0
    made.reaches("Promoted", 4 * DECIDED_SECONDS)
    made.kept.kill_after = None
    time.sleep(3.0)
    account = made.account()
    print(f"{made.kept.kills} kills; {account.told()}")
    assert made.kept.kills > 20
    assert account.lost == []
    account.assert_each_once()
    assert made.events()["StepStarted"] >= 2
    assert not any("no verdict on this step" in said for said in made.printed), "a new process misses nothing yet"


@pytest.mark.exhaustive
def test_with_a_probe_the_mirror_step_and_agreement_are_decided_by_its_records(
    gateway: DevCluster, tmp_path: Path
) -> None:
    need(gateway, "kube-proxy", "coredns")
    analysis = {**ANALYSIS, "sources": ["gatewayAccessLog", "probe"], "probe": {"share": "20%", "concurrency": 8}}
    steps = [{"mirror": 20, "hold": "5s"}, {"weight": 50, "hold": "15m"}]
    guardrails = [{"metric": "ttftP50", "atMost": "2s"}, {"metric": "outputAgreement", "atLeast": "80%"}]
    with live(gateway, tmp_path, inside=True) as made, node(made) as pods:
        made.begin(steps, guardrails, analysis=analysis)
        made.come()
        status = made.at_step(1, 90)
        assert (status["baseline"]["weight"], status["candidate"]["weight"]) == (100, 0)
        status = made.at_step(2, DECIDED_SECONDS)
        assert pods.running == 1 and pods.started[0][0] == "sartor-probe"
        time.sleep(5.0)
        made.candidate.behave(differ=0.5)
        status = made.reaches("RolledBack", DECIDED_SECONDS)
        found = {g["metric"]: g for g in status["verdict"]["guardrails"]}
        assert found["outputAgreement"]["outcome"] == "fail"
        assert {g["source"].partition(",")[0] for g in found.values()} == {"probe"}
        wait_for("the probe is taken away", lambda: pods.running == 0, 60)
        time.sleep(2.0)
        account = made.account()
        print(account.told())
        assert account.lost == []
        account.assert_each_once()
        theirs = {name: [c for c in account.came[name] if c.id not in account.outcomes] for name in account.came}
        print({name: len(found) for name, found in theirs.items()}, "requests of the probe")
        assert all(len(found) > 50 for found in theirs.values())
