"""A rollout on a real API server: routes that the CRDs of the Gateway API accept, statuses, kills, and what people do.

The test plays the Gateway. What a real one does with the weights is in `test_gateway`.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_support import apply, prepare, still, synthesis, wait_for
from rollout_support import (
    FORWARD,
    POLICY,
    Stage,
    conditions,
    install_gateway_api,
    remove_gateway_api,
    service,
    stage,
    weights_of,
)

from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import DEPLOYMENT, HTTP_ROUTE, ROLLOUT, SERVICE, SYNTHESIS, Kind
from sartor_operator.rollout.observed import FULL_ANNOTATION


@pytest.fixture(scope="module")
def prepared(cluster: DevCluster) -> Iterator[DevCluster]:
    prepare(cluster)
    yield cluster
    remove_gateway_api(cluster)


@pytest.fixture
def bare(prepared: DevCluster, tmp_path: Path) -> Iterator[Stage]:
    remove_gateway_api(prepared)
    with stage(prepared, tmp_path) as made:
        yield made


@pytest.fixture
def made(prepared: DevCluster, tmp_path: Path) -> Iterator[Stage]:
    install_gateway_api(prepared)
    with stage(prepared, tmp_path) as one:
        yield one


def test_without_a_gateway_api_it_says_so_and_begins_when_it_is_installed(bare: Stage) -> None:
    bare.begin()
    status = bare.reaches("Pending")
    assert conditions(status)["Stalled"] == ("True", "FeatureMissing")
    assert "gateway.networking.k8s.io" in status["message"]
    install_gateway_api(bare.cluster)
    bare.reaches("Progressing", 60)


def test_forward_to_promoted_then_the_baseline_shrinks_and_an_undo_brings_it_back(made: Stage) -> None:
    made.gateway.refuses = True
    made.begin()
    wait_for("the refusal is said", lambda: "NoMatchingParent" in made.status().get("message", ""), 30)
    status = made.status()
    assert status["phase"] == "Pending" and conditions(status)["RouteAccepted"] == ("False", "RouteNotAccepted")
    assert made.gateway.weights == [(100, 0)] and status["candidate"]["weight"] == 0
    made.gateway.refuses = False
    status = made.reaches("Promoted", 90)
    assert made.gateway.weights == FORWARD, "no weight but those of the steps was ever served"
    assert (status["candidate"]["weight"], status["baseline"]["weight"]) == (100, 0)
    assert conditions(status)["Ready"] == ("True", "Promoted")
    wait_for("the floor", lambda: made.replicas() == 1, 40)
    deployment = made.api.get(DEPLOYMENT, made.namespace, "vllm")
    assert deployment is not None and deployment["metadata"]["annotations"][FULL_ANNOTATION] == "2"
    made.endpoints("vllm", 1)
    told = made.events()
    assert told.count("StepStarted") == 3 and told.count("RolloutPromoted") == 1
    _nothing_is_written(made)
    made.command("undo")
    wait_for("the baseline grows", lambda: made.replicas() == 2, 20)
    wait_for("it takes half", lambda: made.gateway.weights[-1:] == [(50, 50)], 20)
    time.sleep(1.0)
    assert weights_of(made.route) == (50, 50), "no more than it has ready"
    made.endpoints("vllm", 2)
    status = made.reaches("RolledBack", 30)
    assert made.gateway.weights == [*FORWARD, (50, 50), (100, 0)]
    assert conditions(status)["Ready"] == ("False", "Cancelled")
    deployment = made.api.get(DEPLOYMENT, made.namespace, "vllm")
    assert deployment is not None and FULL_ANNOTATION not in deployment["metadata"].get("annotations", {})
    wait_for("what has ended can be deleted", lambda: _unheld(made), 20)


def _unheld(made: Stage) -> bool:
    """The operator lets go of it only after its ending is written."""
    rollout = made.api.get(ROLLOUT, made.namespace, "editor")
    return rollout is not None and not rollout["metadata"].get("finalizers")


def _nothing_is_written(made: Stage) -> None:
    """Once nothing happens: not when the manifest is applied again, nor by a new process."""
    objects = [(ROLLOUT, "editor"), (HTTP_ROUTE, names.name_of(made.route)), (DEPLOYMENT, "vllm")]

    def version(kind: Kind, name: str) -> Any:
        """Of a Deployment what the operator writes of it: its status is written by Kubernetes, whenever that comes to it."""
        meta = (made.api.get(kind, made.namespace, name) or {})["metadata"]
        return (meta["generation"], meta.get("annotations")) if kind == DEPLOYMENT else meta["resourceVersion"]

    def versions() -> list[Any]:
        return [version(kind, name) for kind, name in objects]

    before = still("nothing happens any more", versions, quiet=2.0)
    made.begin()
    made.operator.kill()
    made.operator.start()
    time.sleep(8.0)
    assert versions() == before


def test_a_failing_verdict_rolls_back_and_the_same_bytes_are_not_tried_again(made: Stage) -> None:
    made.operator.says("fail 3")
    made.begin()
    status = made.reaches("RolledBack", 90)
    assert made.gateway.weights == [*FORWARD[:3], (100, 0)]
    assert status["verdict"]["outcome"] == "fail" and conditions(status)["Ready"][1] == "GuardrailFailed"
    made.operator.says("pass")
    made.begin("again")
    status = made.reaches("Failed", 20, "again")
    assert conditions(status)["Stalled"] == ("True", "ContentRejected") and weights_of(made.route) == (100, 0)


@pytest.mark.alone
def test_an_abort_takes_effect_in_under_two_seconds_whatever_else_there_is_to_do(made: Stage) -> None:
    """Alone, as it is a time: other tests beside it would be timed too."""
    made.operator.says("inconclusive 3")
    made.begin()
    wait_for("half of the traffic", lambda: made.gateway.weights[-1:] == [(50, 50)], 90)
    mine = names.name_of(made.route)
    searches = [(SYNTHESIS, synthesis(made.namespace, f"s{number}")) for number in range(150)]
    others = [(ROLLOUT, _other(made.namespace, number)) for number in range(50)]
    posted: list[str] = []
    enough = threading.Event()

    def storm() -> None:
        rows = zip(searches[::3], searches[1::3], searches[2::3], others, strict=True)
        for kind, manifest in itertools.chain.from_iterable(rows):
            if enough.is_set():
                return
            made.api.send("POST", kind.path(made.namespace), manifest)
            posted.append(manifest["metadata"]["name"])

    thread = threading.Thread(target=storm, name="storm")
    thread.start()
    try:
        wait_for("a good part of the storm", lambda: len(posted) >= 60)
        begun = time.monotonic()
        made.api.patch(ROLLOUT, made.namespace, "editor", {"spec": {"control": {"abort": True, "promote": False}}})
        patched = time.monotonic()
        wait_for("everything on the baseline", lambda: _is_back(made, mine), 30, every=0.01)
        took = time.monotonic() - begun
        print(f"abort among {len(posted)} new objects: {took:.2f} s (of which the patch {patched - begun:.2f} s)")
        assert thread.is_alive(), "the storm was over before the abort was"
        assert took < 2.0
    finally:
        enough.set()
        thread.join()
    made.reaches("RolledBack", 60)


def _other(namespace: str, number: int) -> dict[str, Any]:
    """A rollout that never begins: its candidate has no endpoints."""
    return {
        "apiVersion": ROLLOUT.api_version,
        "kind": ROLLOUT.kind,
        "metadata": {"name": f"r{number}", "namespace": namespace},
        "spec": {
            "baseline": {"service": "vllm"},
            "candidate": {"service": f"stack-{number}"},
            "policy": {**POLICY, "hostnames": [f"r{number}.example.com"]},
        },
    }


def _is_back(made: Stage, route: str) -> bool:
    found = made.api.get(HTTP_ROUTE, made.namespace, route)
    return found is not None and weights_of(found) == (100, 0)


@pytest.mark.parametrize("what", ["endpoints", "Service"])
def test_a_lost_arm_gives_way_at_once_and_returns_when_it_is_steady(made: Stage, what: str) -> None:
    """A Service that is gone takes its arm with it, also where nobody collects its EndpointSlices."""
    made.operator.says("inconclusive 2")
    made.begin()
    wait_for("a fifth of the traffic", lambda: made.gateway.weights[-1:] == [(80, 20)], 90)
    begun = time.monotonic()
    if what == "Service":
        made.api.delete(SERVICE, made.namespace, "stack")
    else:
        made.endpoints("stack", 0)
    wait_for("nothing for the candidate", lambda: weights_of(made.route) == (100, 0), 30, every=0.01)
    took = time.monotonic() - begun
    print(f"an arm's {what} gone to weight 0 in the route: {took:.2f} s")
    assert took < 15.0, "at once, not after the time for which it must be steady to return (the benches have a figure)"
    status = made.reaches("Frozen", 60)
    assert conditions(status)["Frozen"] == ("True", "CandidateNotReady")
    if what == "Service":
        assert "Service stack of the candidate does not exist" in status["message"]
        apply(made.cluster, service(made.namespace, "stack"))
    else:
        made.endpoints("stack", 2)
    wait_for("it has its share again", lambda: weights_of(made.route) == (80, 20), 40)
    assert time.monotonic() - begun > 14, "fifteen seconds, of which times in whole seconds cut off a part of one"


def test_killed_again_and_again_it_goes_forward_and_no_other_weight_is_served(made: Stage) -> None:
    made.begin()
    kills, after = 0, itertools.cycle((0.0, 0.1, 0.3, 0.6, 1.0))

    def stands() -> tuple[str, list[int]]:
        rollout = made.api.get(ROLLOUT, made.namespace, "editor") or {}
        routes = made.api.all(HTTP_ROUTE, made.namespace)
        return rollout["metadata"]["resourceVersion"], [r["metadata"]["generation"] for r in routes]

    while made.status().get("phase") != "Promoted":
        before = stands()
        wait_for("the next write", lambda then=before: stands() != then, 60)
        time.sleep(next(after))
        made.operator.kill()
        made.operator.start()
        kills += 1
        assert kills < 60, made.status()
    print(f"promoted after {kills} kills")
    assert kills >= 5 and made.gateway.weights == FORWARD


def test_what_people_do_to_the_route_is_put_back(made: Stage) -> None:
    made.operator.says("inconclusive 2")
    made.begin()
    wait_for("a fifth of the traffic", lambda: made.gateway.weights[-1:] == [(80, 20)], 90)
    name = names.name_of(made.route)

    def steal(body: dict[str, Any]) -> None:
        time.sleep(11)  # what somebody else changes is put back at most every 10 s
        made.api.patch(HTTP_ROUTE, made.namespace, name, body)

    rules = made.route["spec"]["rules"]
    rules[0]["backendRefs"][0]["weight"], rules[0]["backendRefs"][1]["weight"] = 5, 95
    steal({"spec": {"rules": rules}})
    wait_for("the weights are put back", lambda: weights_of(made.route) == (80, 20), 30)
    wait_for("it is told", lambda: "RouteChanged" in made.events(), 30)
    bare = {"labels": {names.MANAGED_BY: None}, "annotations": {"sartor.dev/rollout": None, "sartor.dev/shape": None}}
    steal({"metadata": bare})  # a watch by label takes that for the end of the route
    wait_for("its label is back", lambda: names.label(made.route, names.MANAGED_BY) == names.SARTOR, 30)
    made.api.delete(HTTP_ROUTE, made.namespace, name)
    wait_for("there is a route again", lambda: bool(made.api.all(HTTP_ROUTE, made.namespace)), 60)
    assert weights_of(made.route) == (80, 20)


def test_a_human_pauses_resumes_promotes_and_deletes(made: Stage) -> None:
    made.operator.says("inconclusive 2")
    made.policy["steps"] = [{"headerOptIn": True, "hold": "1s"}, {"pause": {}}, {"weight": 30, "hold": "1s"}]
    made.begin()
    made.reaches("Paused", 60)
    (asks,) = (r for r in made.route["spec"]["rules"] if r["backendRefs"][0]["name"] == "stack")
    assert asks["matches"][0]["headers"][0] == {"type": "Exact", "name": "x-sartor-arm", "value": "candidate"}
    made.command("resume")
    wait_for("the step after the pause", lambda: made.gateway.weights[-1:] == [(70, 30)], 20)
    made.command("pause")
    made.reaches("Paused", 20)
    made.command("promote")
    made.reaches("Promoted", 30)
    assert made.gateway.weights == [(100, 0), (70, 30), (0, 100)]
    wait_for("the floor", lambda: made.replicas() == 1, 40)
    made.api.delete(ROLLOUT, made.namespace, "editor")
    wait_for("it is gone", lambda: made.api.get(ROLLOUT, made.namespace, "editor") is None, 90)
    assert weights_of(made.route) == (100, 0) and made.replicas() == 2
