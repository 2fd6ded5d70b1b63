"""A real Gateway: what Contour and Envoy do with weights, mirrors, headers, streams and failures, and what is logged of it.

Clients are open-loop and run inside the cluster's namespace. Figures are printed (`pytest -s`).
"""

import collections
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from devcluster_support import get, need, wait_for
from gateway_support import ROUTES, Scene, arms, end, failures, gateway_cluster, scene

from sartor_devcluster import DevCluster
from sartor_operator.rollout.records import Backend, End


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster with a Gateway, of which these tests break parts."""
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield running


@pytest.fixture
def made(gateway: DevCluster) -> Iterator[Scene]:
    with scene(gateway) as one:
        yield one


def pid_of(cluster: DevCluster, component: str) -> int:
    pid = next(c.pid for c in cluster.status().components if c.name == component)
    assert pid is not None
    return pid


class TestItIsThere:
    def test_the_gateway_is_programmed_and_has_an_address(self, gateway: DevCluster) -> None:
        found = get(gateway, "gateway", "inference", "-n", "gateways")
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        assert conditions["Accepted"] == conditions["Programmed"] == "True"
        assert [a["value"] for a in found["status"]["addresses"]] == ["10.240.0.3"]
        listener = found["spec"]["listeners"][0]
        assert (listener["port"], listener["allowedRoutes"]["namespaces"]["from"]) == (8080, "All")

    def test_status_lists_its_components(self, gateway: DevCluster) -> None:
        well = {c.name for c in gateway.status().components if c.well}
        assert {"contour", "envoy"} <= well
        assert gateway.log("contour").stat().st_size > 0

    def test_up_again_is_the_same_cluster(self, gateway: DevCluster) -> None:
        before = pid_of(gateway, "envoy")
        root = gateway.layout.folder.parent
        again = DevCluster.up(gateway.name, root=root, gateway=True)
        assert pid_of(again, "envoy") == before

    def test_a_route_of_any_namespace_is_served_at_both_ports_of_the_address(self, made: Scene) -> None:
        need(made.cluster, "kube-proxy")
        for port in (80, 8080):
            made.url = f"http://10.240.0.3:{port}"
            assert made.serves(made.baseline)


class TestWeights:
    def test_ninety_to_ten_holds(self, made: Scene) -> None:
        made.weigh(90, 10)
        wait_for("the candidate", lambda: made.candidate.name in arms(made.ask(40)))
        outcomes = made.ask(2000, 400)
        seen = arms(outcomes)
        print(f"90/10 over 2,000 requests: {seen[made.baseline.name]}/{seen[made.candidate.name]}")
        assert failures(outcomes) == []
        # Five standard deviations of Binomial(2000, 0.1): one run in two million falls outside.
        assert abs(seen[made.candidate.name] - 200) < 67

    def test_a_new_weight_takes_effect_and_holds_and_not_before_it_is_written(self, made: Scene) -> None:
        """How soon is printed: a bound would be one on the machine."""
        load = made.load(3000, 100)
        changes: list[tuple[float, float, str]] = []
        for number in range(4):
            arm = (made.candidate, made.baseline)[number % 2]
            before = time.time()
            made.weigh(*((0, 100), (100, 0))[number % 2])
            wait_for("the new weight", lambda arm=arm: made.serves(arm), 30)
            changes.append((before, time.time(), arm.name))
            time.sleep(2.0)
        outcomes = load.outcomes()
        assert failures(outcomes) == []
        ends = [when for when, _, _ in changes[1:]] + [float("inf")]
        took: list[float] = []
        for (when, seen, name), until in zip(changes, ends, strict=True):
            during = [one for one in outcomes if when <= one.sent and one.sent + one.seconds < until]
            assert len([one for one in during if one.sent > seen + 1.0]) > 20
            late = [one.sent - when for one in during if one.arm != name]
            took.append(max(late, default=0.0))
            assert took[-1] < seen + 1.0 - when, "each of Envoy's threads takes it in its own time, but takes it"
        print("a patched weight is in effect after (s):", ", ".join(f"{one:.3f}" for one in took))

    def test_accepted_is_said_for_each_generation(self, made: Scene) -> None:
        for number in range(5):
            made.weigh(100 - number, number, wait=False)
            wait_for("accepted", made.accepted, 30)

    def test_many_changes_fail_no_request(self, made: Scene) -> None:
        load = made.load(3000, 200)
        changes = 0
        while load.running:
            share = (0, 50, 100, 25, 75)[changes % 5]
            made.weigh(100 - share, share, wait=False)
            changes += 1
            time.sleep(0.2)
        outcomes = load.outcomes()
        print(f"{changes} changes of the weight during 3,000 requests")
        assert changes >= 20
        assert len(outcomes) == 3000
        assert failures(outcomes) == []
        assert min(arms(outcomes)[arm.name] for arm in (made.baseline, made.candidate)) > 300

    def test_streams_under_way_when_the_weight_goes_to_zero_end_whole(self, made: Scene) -> None:
        made.weigh(0, 100)
        wait_for("the candidate", lambda: made.serves(made.candidate))
        streams = made.load(20, 40, ["/stream?seconds=20"])
        wait_for("all of them have begun", lambda: made.seen(made.candidate, "/stream") == 20, 15)
        made.weigh(100, 0)
        wait_for("the baseline", lambda: made.serves(made.baseline), 15)
        assert streams.running
        outcomes = streams.outcomes()
        assert failures(outcomes) == []
        assert arms(outcomes) == {made.candidate.name: 20}
        assert all(one.done and one.seconds > 19.9 for one in outcomes)


class TestRules:
    def test_a_header_wins_over_weights(self, made: Scene) -> None:
        opt_in = {
            "matches": [{"headers": [{"name": "x-sartor-arm", "value": "candidate"}]}],
            "backendRefs": [{"name": made.candidate.name, "port": 8000}],
        }
        made.set_rules([opt_in, *made.rules(100, 0)])
        wait_for("the rule", lambda: arms(made.ask(headers={"x-sartor-arm": "candidate"})) == {made.candidate.name: 1})
        asked = made.ask(100, 200, headers={"x-sartor-arm": "candidate"})
        assert arms(asked) == {made.candidate.name: 100}
        assert arms(made.ask(100, 200, headers={"x-sartor-arm": "another"})) == {made.baseline.name: 100}
        assert arms(made.ask(100, 200)) == {made.baseline.name: 100}

    @pytest.mark.parametrize("fate", ["answers", "fails", "hangs", "is dead"])
    def test_a_mirror_gets_copies_and_hurts_nobody(self, made: Scene, fate: str) -> None:
        """The client's answer is the baseline's, whatever becomes of the copy; the log has the client's request alone."""
        path = "/copy" + {"fails": "?status=500", "hangs": f"?hangs={made.candidate.name}"}.get(fate, "")
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": made.candidate.name, "port": 8000}}}
        made.weigh(100, 0, filters=[mirror])
        made.ask(5, paths=["/before"])
        wait_for("a copy", lambda: made.seen(made.candidate, "/before") > 0)
        if fate == "is dead":
            end(made.candidate)
        tail = made.tail()
        outcomes = made.ask(200, 200, [path])
        expected = 500 if fate == "fails" else 200
        assert [o for o in outcomes if o.error or o.status != expected or o.arm != made.baseline.name] == []
        if fate == "hangs":
            assert all(o.seconds < 10.0 for o in outcomes), "nobody waits for the copy"
        if fate != "is dead":
            wait_for("all copies", lambda: made.seen(made.candidate, "/copy") >= 200, 30)
            assert made.seen(made.candidate, "/copy") == 200
        assert made.seen(made.baseline, "/copy") == 200
        records = made.records(tail, {o.id for o in outcomes})
        assert collections.Counter(r.request_id for r in records) == {o.id: 1 for o in outcomes}
        assert {r.backend for r in records} == {Backend("default", made.baseline.name, 8000)}

    def test_a_share_of_copies_is_not_kept_to(self, made: Scene) -> None:
        """Contour takes `percent` and copies everything: a rollout cannot mirror a part here, and must know."""
        reference = {"name": made.candidate.name, "port": 8000}
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": reference, "percent": 10}}
        made.weigh(100, 0, filters=[mirror])
        made.ask(5, paths=["/before"])
        wait_for("a copy", lambda: made.seen(made.candidate, "/before") > 0)
        made.ask(100, 200, ["/part"])
        wait_for("all copies", lambda: made.seen(made.candidate, "/part") >= 100, 30)
        copies = made.seen(made.candidate, "/part")
        stored = made.api.send("GET", f"{ROUTES}/{made.route}")["spec"]["rules"][0]["filters"][0]["requestMirror"]
        print(f"percent 10: {copies} of 100 copied; stored: {stored}")
        assert copies == 100

    def test_what_the_class_says_that_it_supports(self, made: Scene) -> None:
        found = get(made.cluster, "gatewayclass", "contour")
        features = [f["name"] for f in found.get("status", {}).get("supportedFeatures", [])]
        print(
            "supportedFeatures:",
            ", ".join(features) or "none",
            "conditions:",
            found.get("status", {}).get("conditions"),
        )
        assert found["spec"]["controllerName"] == "projectcontour.io/gateway-controller"

    def test_a_route_without_a_timeout_cuts_streams_after_fifteen_seconds(self, made: Scene) -> None:
        """Envoy's default, from the request's end to the answer's last byte. `timeouts.request: 0s` turns it off."""
        with scene(made.cluster) as other:
            rule: dict[str, Any] = made.rules(0, 100)[0]
            del rule["timeouts"]
            made.set_rules([rule])
            wait_for("the rule", lambda: made.serves(made.candidate))
            time.sleep(0.5)
            tail = made.tail()
            default, off = made.load(1, 1, ["/stream?seconds=40"]), other.load(1, 1, ["/stream?seconds=20"])
            cut, whole = default.outcomes()[0], off.outcomes()[0]
            print("without timeouts:", cut)
            assert not cut.done
            assert 14.5 < cut.seconds < 30, "by the default, long before its end"
            assert whole.done
            assert whole.error is None
            records = {r.request_id: r for r in made.records(tail, {cut.id, whole.id})}
            print(records[cut.id])
            assert records[cut.id].end is End.CUT_BY_GATEWAY
            assert records[whole.id].end is End.WHOLE


class TestFaults:
    @pytest.mark.parametrize("how", ["gone", "not ready"])
    def test_the_last_endpoint_goes_away(self, made: Scene, how: str) -> None:
        """The share of the arm is answered by Envoy with 503 at once; the other arm does not step in."""
        made.weigh(50, 50)
        wait_for("both", lambda: len(arms(made.ask(20))) == 2)
        tail = made.tail()
        load = made.load(1500, 100)
        time.sleep(1.0)
        went = made.set_endpoints(made.candidate, ready=None if how == "gone" else False)
        outcomes = load.outcomes()
        lost = [o for o in outcomes if o.status == 503]
        assert lost, "its share is not given to the other arm"
        print(
            f"endpoint {how}: first 503 {min(o.sent for o in lost) - went:.3f} s after the write; {len(lost)} of 1,500"
        )
        late = [o.sent - went for o in outcomes if o.arm == made.candidate.name]
        assert max(late) < 10.0, "soon, on a machine that may be busy, and not only when the load ends (after 14 s)"
        assert {o.status for o in outcomes if o.arm == made.baseline.name} == {200}
        records = {r.request_id: r for r in made.records(tail, {o.id for o in outcomes})}
        for one in lost:
            found = records[one.id]
            assert found.flags is not None
            assert found.flags <= {"UH", "NC"}
            assert (found.status, found.first_byte) == (503, None)
            assert found.backend == Backend("default", made.candidate.name, 8000)
        print("flags and details:", collections.Counter((*(r.flags or ()), r.details) for r in records.values()))

    def test_a_server_that_died_while_its_endpoint_is_still_ready(self, made: Scene) -> None:
        made.weigh(0, 100)
        wait_for("the candidate", lambda: made.serves(made.candidate))
        end(made.candidate)
        tail = made.tail()
        outcomes = made.ask(50, 100)
        assert {o.status for o in outcomes} == {503}
        records = made.records(tail, {o.id for o in outcomes})
        print("dead server:", collections.Counter((*(sorted(r.flags or ())), r.details, r.attempts) for r in records))
        assert all(r.flags and r.flags & {"UF", "UC"} for r in records)

    def test_without_contour_envoy_serves_on_and_learns_later(self, made: Scene) -> None:
        cluster = made.cluster
        cluster.stop_component("contour", kill=True)
        try:
            load = made.load(600, 200)
            made.weigh(0, 100, wait=False)
            time.sleep(1.0)
            assert not made.accepted(), "nobody accepts it"
            outcomes = load.outcomes()
            assert failures(outcomes) == []
            assert arms(outcomes) == {made.baseline.name: 600}, "the old weights stand"
        finally:
            began = time.monotonic()
            cluster.start_component("contour")
        wait_for("the new weight", lambda: made.serves(made.candidate), 40)
        print(f"Contour started anew: its routes are in effect after {time.monotonic() - began:.1f} s")
        wait_for("accepted", made.accepted)
        cluster.wait_ready()

    def test_contour_restarted_under_load_fails_no_request(self, made: Scene) -> None:
        load = made.load(1200, 200)
        made.cluster.stop_component("contour", kill=True)
        made.cluster.start_component("contour")
        made.cluster.wait_ready()
        assert failures(load.outcomes()) == []

    def test_envoy_is_back_after_it_was_killed(self, made: Scene) -> None:
        before = pid_of(made.cluster, "envoy")
        load = made.load(3000, 100)
        time.sleep(1.0)
        killed = time.time()
        os.kill(before, signal.SIGKILL)
        wait_for("another Envoy", lambda: pid_or_none(made.cluster) not in (None, before))
        outcomes = load.outcomes()
        failed = failures(outcomes)
        assert failed, "killed in the middle of a load"
        back = min(o.sent for o in outcomes if o.sent > killed and not o.failed)
        print(f"Envoy killed: {len(failed)} requests failed, answered again after {back - killed:.2f} s")
        assert max(o.sent for o in failed) - killed < 20.0, "and then no more, until the load ends (after 29 s)"
        made.cluster.wait_ready()
        tail = made.tail()
        asked = made.ask(20)
        assert len(made.records(tail, {o.id for o in asked})) == 20, "and logs on"


def pid_or_none(cluster: DevCluster) -> int | None:
    return next(c.pid for c in cluster.status().components if c.name == "envoy")


def test_a_cluster_without_it_has_none_of_its_parts(cluster: DevCluster) -> None:
    names = {c.name for c in cluster.status().components}
    assert not {"contour", "envoy", "prometheus"} & names
    assert cluster.gateway_address() is None


def test_the_route_of_nobody_is_not_found(made: Scene) -> None:
    """A host that no route names: Envoy answers itself, and the record names no arm."""
    tail = made.tail()
    made.host = "nobody.example.com"
    outcomes = made.ask(5)
    assert {o.status for o in outcomes} == {404}
    records = made.records(tail, {o.id for o in outcomes})
    assert [(r.backend, r.flags) for r in records] == [(None, frozenset({"NR"}))] * 5
