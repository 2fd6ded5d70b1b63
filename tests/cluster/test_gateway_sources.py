"""What the Gateway's access log and its counters in Prometheus say of requests, held against what clients saw of them.

What follows from it: `docs/rollouts/sources.md`. Figures are printed (`pytest -s`).
"""

import collections
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from devcluster_support import need, wait_for
from faults_support import MERGE
from gateway_support import Scene, arms, failures, gateway_cluster, scene

from sartor_devcluster import DevCluster
from sartor_devcluster.accesslog import previous
from sartor_operator.rollout.accesslog import AccessLog, Losses
from sartor_operator.rollout.records import Backend, End, RequestRecord, parse
from sartor_operator.rollout.scrapes import ENVOY, query, scrapes
from sartor_operator.rollout.tail import Tail
from sartor_operator.rollout.verdict.samples import ArmName, Observed, Scrape, Timing

PODS = "/api/v1/namespaces/default/pods"
QUERY = """
import sys, urllib.parse, urllib.request
url = "http://10.240.0.5:9090/api/v1/query?query=" + urllib.parse.quote(sys.argv[1])
print(urllib.request.urlopen(url, timeout=10).read().decode())
"""


def ask_prometheus(made: Scene, expression: str) -> Any:
    """The answer to an instant query."""
    command = made.cluster.enter([sys.executable, "-c", QUERY, expression])
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    with gateway_cluster(tmp_path_factory.mktemp("clusters")) as running:
        yield running


@pytest.fixture
def made(gateway: DevCluster) -> Iterator[Scene]:
    with scene(gateway) as one:
        yield one


class TestAccessLog:
    def test_exactly_one_record_for_each_request_with_arm_end_and_flags(self, made: Scene) -> None:
        made.weigh(50, 50)
        wait_for("both", lambda: len(arms(made.ask(20))) == 2)
        tail = made.tail()
        whole = ["/", "/?status=404", "/?status=500", "/?ms=30", "/stream?seconds=0.5", "/?handover=length"]
        loads = [
            made.load(600, 200, whole),
            made.load(40, 40, ["/cut"]),
            made.load(40, 40, ["/stream?seconds=30"], cut_after=0.3),
        ]
        outcomes, server_cut, client_cut = (load.outcomes() for load in loads)
        all_of = [*outcomes, *server_cut, *client_cut]
        records = made.records(tail, {o.id for o in all_of})
        assert collections.Counter(r.request_id for r in records) == {o.id: 1 for o in all_of}
        by_id = {r.request_id: r for r in records}
        for one in all_of:
            found = by_id[one.id]
            assert found.backend == Backend("default", str(one.arm), 8000), one
            assert found.status == one.status
            assert found.route == ("default", made.route)
            assert abs(found.started - one.sent) < 15.0, "the same clock, on a machine that may be busy"
        for one in outcomes:
            found = by_id[one.id]
            assert (found.end, found.flags) == (End.WHOLE, frozenset())
            assert found.bytes_out == one.bytes
            assert found.handover == ("length" if "handover" in one.path else None)
            assert found.streamed is ("stream" in one.path)
            assert found.duration is not None
            assert found.duration <= one.seconds + 0.001
            if "ms=30" in one.path:
                assert found.first_byte is not None
                assert found.first_byte >= 0.029
            if "stream" in one.path:
                assert found.first_byte is not None
                # Half a second after it, unless the machine was too busy to pass it on at once.
                assert found.duration - found.first_byte > 0.1, "its first byte is its status line"
        assert {by_id[o.id].end for o in server_cut} == {End.CUT_BY_SERVER}
        assert all(o.error for o in server_cut), "and its client knows"
        assert {by_id[o.id].end for o in client_cut} == {End.CUT_BY_CLIENT}
        for name, group in (("cut by the server", server_cut), ("cut by the client", client_cut)):
            print(name, collections.Counter((*sorted(by_id[o.id].flags or ()), by_id[o.id].details) for o in group))

    def test_a_client_that_leaves_before_the_answer(self, made: Scene) -> None:
        tail, began = made.tail(), time.time()
        load = made.load(5, 50, ["/left?ms=30000"])
        wait_for("all of them", lambda: made.seen(made.baseline, "/left") == 5, 20)
        load.end()
        seen: list[RequestRecord] = []

        def mine() -> bool:
            found = [r for line in tail.look().lines if (r := parse(line)) and r.route == ("default", made.route)]
            seen.extend(r for r in found if r.started >= began)  # Envoy may still write of those that came before
            return len(seen) >= 5

        wait_for("their records", mine, 60)
        assert [(r.end, r.status, r.first_byte) for r in seen] == [(End.CUT_BY_CLIENT, None, None)] * 5
        print("left before the answer:", collections.Counter((*sorted(r.flags or ()), r.details) for r in seen))

    def test_a_new_file_loses_nothing(self, made: Scene) -> None:
        tail = made.tail()
        load = made.load(1500, 300)
        began, files = time.monotonic(), 0
        found: list[RequestRecord] = []
        rotated = 0
        while load.running or (rotated < 2 and time.monotonic() - began < 60):
            if files < 2 and time.monotonic() - began > 1.5 * (files + 1):
                made.cluster.rotate_access_log()
                files += 1
            look = tail.look()
            assert (look.truncated, look.broken, look.gap) == (0, 0, False)
            rotated += look.rotated
            found += filter(None, map(parse, look.lines))
            time.sleep(0.05)
        outcomes = load.outcomes()
        assert failures(outcomes) == []
        ids = {o.id for o in outcomes}
        found = [*(r for r in found if r.request_id in ids), *made.rest(tail, ids, 3.0)]
        assert files == rotated == 2
        assert previous(made.cluster.access_log).exists()
        assert collections.Counter(r.request_id for r in found) == dict.fromkeys(ids, 1)

    def test_samples_of_both_arms_as_a_verdict_takes_them(self, made: Scene) -> None:
        services = [Backend("default", arm.name, 8000) for arm in (made.baseline, made.candidate)]
        tail = Tail(made.cluster.access_log, clock=time.monotonic, from_end=True)
        log = AccessLog(tail, now=time.time)
        log.follow(list(zip(services, ArmName, strict=True)))
        log.read()
        made.weigh(50, 50)
        wait_for("both", lambda: len(arms(made.ask(20))) == 2)
        since = time.time()
        outcomes = made.ask(400, 200, ["/", "/?status=500", "/?ms=30", "/cut"])

        def whole() -> Observed | None:
            while log.read():
                pass
            found = log.observed(baseline=services[0], candidate=services[1], since=since)
            sampled = len(found.baseline.requests) + len(found.candidate.requests) if found is not None else 0
            return found if sampled == len(outcomes) else None

        found = wait_for("all samples", whole, 30)
        assert found.since == since
        assert log.losses == Losses()
        for arm, samples in ((made.baseline, found.baseline.requests), (made.candidate, found.candidate.requests)):
            mine = [o for o in outcomes if o.arm == arm.name]
            assert len(samples) == len(mine)
            assert sum(s.failed for s in samples) == sum(o.failed for o in mine) >= len(mine) / 3
            assert [s.fault for s in samples] == [None] * len(mine)
            assert all(since - 0.01 < s.arrival < found.read_until for s in samples)


class TestPrometheus:
    def test_its_counters_tell_what_the_clients_saw(self, made: Scene) -> None:
        need(made.cluster, "prometheus")
        names = {f"default_{arm.name}_8000": arm for arm in (made.baseline, made.candidate)}
        as_arms = dict(zip(names, (ArmName.BASELINE, ArmName.CANDIDATE), strict=True))
        began = time.time() - 1.0
        made.weigh(50, 50)
        wait_for("both", lambda: len(arms(made.ask(20))) == 2)
        made.ask(200, 200, ["/?ms=30", "/", "/?status=404", "/?status=500"])
        cut = made.ask(40, 100, ["/cut"])
        ended = time.monotonic()
        outcomes = [one for load in made.started for one in load.outcomes()]  # counters began with the arms
        expected, ended_well = arms(outcomes), arms([one for one in outcomes if not one.error])

        def read() -> dict[ArmName, list[Scrape]] | None:
            found = scrapes(ask_prometheus(made, query(ENVOY, names, 120)), ENVOY, as_arms, since=began)

            def whole(last: Scrape, name: str) -> bool:  # Envoy merges histograms some time after it has counted
                timed = last.histograms.get(Timing.END_TO_END)
                return last.requests >= expected[name] and timed is not None and timed.counts[-1] >= ended_well[name]

            last = {arm.name: found[as_arms[label]][-1:] for label, arm in names.items()}
            return found if all(scraped and whole(scraped[0], name) for name, scraped in last.items()) else None

        found = wait_for("the last request", read, 90)
        print(f"a request is in Prometheus {time.monotonic() - ended:.1f} s after its end")
        for label, arm in names.items():
            mine, last = [o for o in outcomes if o.arm == arm.name], found[as_arms[label]][-1]
            assert last.requests == len(mine)
            assert last.failed == sum((o.status or 0) >= 400 for o in mine), "streams that were cut are not among them"
            histogram = last.histograms[Timing.END_TO_END]
            whole = [o for o in mine if not o.error]
            assert {0.01, 0.025, 0.05, math.inf} <= set(histogram.bounds)
            assert histogram.counts[-1] == len(whole) < len(mine), "and neither is the time that they took"
            assert histogram.counts[histogram.bounds.index(0.025)] <= len(whole) - sum("ms=30" in o.path for o in mine)
        assert all(o.error for o in cut)
        bounds = found[ArmName.BASELINE][-1].histograms[Timing.END_TO_END].bounds
        print("bounds of its buckets (s):", *(f"{le:g}" for le in bounds))

    def test_copies_for_a_mirror_are_counted_with_the_requests(self, made: Scene) -> None:
        need(made.cluster, "prometheus")
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": made.candidate.name, "port": 8000}}}
        made.weigh(100, 0, filters=[mirror])
        label, began = f"default_{made.candidate.name}_8000", time.time() - 1.0
        made.ask(100, 100)
        copies = wait_for("the copies", lambda: made.seen(made.candidate, "/") or None)

        def counted() -> bool:
            answer = ask_prometheus(made, query(ENVOY, [label], 120))
            rows = scrapes(answer, ENVOY, {label: ArmName.CANDIDATE}, since=began)[ArmName.CANDIDATE]
            return bool(rows) and rows[-1].requests >= copies

        wait_for("them in Prometheus", counted, 90)

    def test_it_asks_pods_that_want_it(self, made: Scene) -> None:
        need(made.cluster, "prometheus")
        metadata = {
            "name": made.baseline.name,
            "namespace": "default",
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        }
        spec = {"containers": [{"name": "x", "image": "none"}], "nodeName": "nowhere"}
        made.api.send("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        status = {"phase": "Running", "podIP": made.baseline.address, "podIPs": [{"ip": made.baseline.address}]}
        try:
            made.api.send("PATCH", f"{PODS}/{made.baseline.name}/status", {"status": status}, MERGE)

            def scraped() -> bool:
                answer = ask_prometheus(
                    made, f'backend_requests_total{{pod="{made.baseline.name}",namespace="default"}}'
                )
                return bool(answer["data"]["result"])

            wait_for("its metrics", scraped, 90)
        finally:
            made.api.send("DELETE", f"{PODS}/{made.baseline.name}?gracePeriodSeconds=0")
