"""Around the decision: what the cache keeps, which keys a change leads to, metrics, and a queue of their own."""

import asyncio
from typing import Any

import pytest
from operator_world import service
from prometheus_client import generate_latest
from rollout_cluster import Cluster, endpoints, rollout

from sartor_api.serving_rollout import ServingRolloutStatus
from sartor_operator import shell
from sartor_operator.apply import Applier
from sartor_operator.cache import Cache, trimmed
from sartor_operator.controller import Controller, keys_for, work
from sartor_operator.errors import NotFoundError, RefusedError, TransientError
from sartor_operator.keyqueue import KeyQueue
from sartor_operator.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    ROLLOUT,
    SERVICE,
    SYNTHESIS,
    Kind,
    Manifest,
)
from sartor_operator.metrics import Metrics
from sartor_operator.rollout.observe import observe_rollout
from sartor_operator.rollout.samples import NoVerdicts


def known(*manifests: Manifest) -> Cache:
    cache = Cache()
    for number, manifest in enumerate(manifests, start=1):
        meta = {**manifest["metadata"], "uid": f"u{number}", "resourceVersion": str(number), "generation": 1}
        meta.setdefault("creationTimestamp", f"2026-01-01T00:00:{number:02}Z")
        kind = next(k for k in (ROLLOUT, SERVICE, ENDPOINT_SLICE, HTTP_ROUTE, GATEWAY) if k.kind == manifest["kind"])
        cache.put(kind, {**manifest, "metadata": meta})
    return cache


def observed(cache: Cache, name: str = "editor") -> Any:
    found = observe_rollout(cache, NoVerdicts(), "team-a", name)
    assert found is not None
    return found


def test_of_a_slice_only_the_number_of_ready_endpoints_is_kept() -> None:
    news: list[Kind] = []
    cache = known(endpoints("vllm", 2, 3))
    cache.listen(lambda kind, _before, _now: news.append(kind))
    moved = endpoints("vllm", 2, 3)
    moved["endpoints"][0]["addresses"] = ["10.9.9.9"]
    for version, manifest in ((10, moved), (11, endpoints("vllm", 1, 3))):
        meta = {
            **manifest["metadata"],
            "uid": "u1",
            "resourceVersion": str(version),
            "annotations": {"n": str(version)},
        }
        cache.put(ENDPOINT_SLICE, {**manifest, "metadata": meta})
    assert news == [ENDPOINT_SLICE], "an address that changed is no news"
    slim = trimmed(ENDPOINT_SLICE, endpoints("vllm", 2, 3))
    assert trimmed(ENDPOINT_SLICE, slim) == slim and slim["ready"] == 2


def test_endpoints_that_end_take_no_new_requests_and_two_families_are_no_twice() -> None:
    both = endpoints("vllm", 2)
    both["endpoints"][0]["conditions"] = {"ready": True, "terminating": True}
    both["endpoints"].append({"addresses": ["10.0.0.9"]})  # no condition means ready
    six = {**endpoints("vllm", 2), "addressType": "IPv6"}
    six["metadata"] = {**six["metadata"], "name": "vllm-six"}
    mine = rollout(baseline={"service": "vllm"}, candidate={"service": "stack"})
    found = observed(known(service("vllm"), both, six, mine))
    assert found.baseline.ready == 2 and found.baseline.there and not found.candidate.there


def test_endpoints_without_their_service_are_nobodys() -> None:
    mine = rollout(baseline={"service": "vllm"}, candidate={"service": "stack"})
    found = observed(known(service("vllm"), endpoints("vllm", 1), endpoints("stack", 2), mine))
    assert found.candidate.ready == 0 and not found.candidate.there and found.baseline.alive


def test_of_a_service_of_somebody_else_it_is_kept_that_it_is_there_and_of_sartors_all() -> None:
    theirs = {**service("vllm"), "spec": {"ports": [{"port": 8000}]}, "status": {"loadBalancer": {}}}
    slim = trimmed(SERVICE, theirs)
    assert slim["metadata"] == theirs["metadata"] and "spec" not in slim and "status" not in slim
    ours = {**theirs, "metadata": {**theirs["metadata"], "labels": {"app.kubernetes.io/managed-by": "sartor"}}}
    assert trimmed(SERVICE, ours) == ours


def test_what_a_change_leads_to() -> None:
    mine = rollout()
    cache = known(mine, rollout("other", policy={"hostnames": ["x.example.com"]}), endpoints("vllm", 1))
    key = (ROLLOUT, "team-a", "editor")
    slice_ = cache.all(ENDPOINT_SLICE)[0]
    assert key in keys_for(cache, ENDPOINT_SLICE, None, slice_)
    assert keys_for(cache, ENDPOINT_SLICE, None, {**slice_, "metadata": {**slice_["metadata"], "labels": {}}}) == []
    vllm = service("vllm")
    assert key in keys_for(cache, SERVICE, None, vllm) and key in keys_for(cache, SERVICE, vllm, None)
    assert keys_for(cache, SERVICE, vllm, vllm) == [] == keys_for(cache, SERVICE, None, service("unknown"))
    scaled = {"metadata": {"name": "vllm", "namespace": "team-a", "labels": {"sartor.dev/synthesis": "s"}}}
    found = keys_for(cache, DEPLOYMENT, None, scaled)
    assert key in found and (SYNTHESIS, "team-a", "s") in found
    route = {"metadata": {"name": "r", "namespace": "team-a", "annotations": {"sartor.dev/rollout": "editor"}}}
    stolen = {"metadata": {"name": "r", "namespace": "team-a"}}
    assert keys_for(cache, HTTP_ROUTE, route, stolen) == [key]
    assert key in keys_for(cache, GATEWAY, None, {"metadata": {"name": "inference", "namespace": "gateways"}})
    assert keys_for(cache, GATEWAY, None, {"metadata": {"name": "inference", "namespace": "elsewhere"}}) == []


def test_a_route_that_loses_its_label_is_seen_again_when_it_has_it_back() -> None:
    cache = Cache()
    route = {"kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "team-a", "uid": "u1", "resourceVersion": "5"}}

    def put(version: int) -> bool:
        return cache.put(HTTP_ROUTE, {**route, "metadata": {**route["metadata"], "resourceVersion": str(version)}})

    assert put(5)
    cache.remove(HTTP_ROUTE, "team-a", "r", "u1", as_of=6)  # the watch by label says DELETED
    assert not put(5) and put(7), "what the operator's own write brought back is there"
    assert not cache.remove(HTTP_ROUTE, "team-a", "r", "u1", as_of=6), "an event from before the write"
    assert cache.get(HTTP_ROUTE, "team-a", "r") is not None
    cache.remove(HTTP_ROUTE, "team-a", "r", "u1")
    assert not put(9), "what is deleted stays so"


def test_siblings_are_looked_at_when_a_rollout_gets_on_and_not_with_every_number() -> None:
    cache = known(rollout(), rollout("second"))
    first = cache.get(ROLLOUT, "team-a", "editor")
    assert first is not None
    ended = {**first, "status": {"phase": "RolledBack", "finishedAt": "2026-01-01T00:00:00Z"}}
    second = (ROLLOUT, "team-a", "second")
    assert second in keys_for(cache, ROLLOUT, first, ended)
    counted = {**first, "status": {"candidate": {"samples": 5}}}
    assert keys_for(cache, ROLLOUT, first, counted) == [(ROLLOUT, "team-a", "editor")]


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ({}, {}, "second"),
        ({}, {"phase": "Progressing", "step": 1}, "editor"),
        ({"phase": "RolledBack", "finishedAt": "2026-01-01T00:00:00Z"}, {}, None),
        ({"phase": "Failed"}, {}, None),
        ({"phase": "Promoted"}, {}, "second"),
    ],
)
def test_who_of_two_has_the_route(first: Any, second: Any, waits: str | None) -> None:
    one = {**rollout(), "status": first}
    two = {**rollout("second", candidate={"service": "other"}), "status": second}
    cache = known(one, two)
    waiting = [name for name in ("editor", "second") if observed(cache, name).older]
    assert waiting == ([] if waits is None else [waits])


def test_a_newer_rollout_of_the_same_owner_replaces_this_one() -> None:
    owner = [{"apiVersion": "v1", "kind": "X", "name": "s", "uid": "owner", "controller": True}]

    def owned(manifest: Manifest) -> Manifest:
        return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": owner}}

    newer = rollout("newer", candidate={"service": "other"})
    found = observed(known(owned(rollout()), owned(newer))).successor
    assert found is not None and found.replaces and not found.takes_over
    assert observed(known(owned(rollout()), newer)).successor is None, "another owner's waits"
    on_top = rollout("newer", baseline={"service": "stack"}, candidate={"service": "third"})
    found = observed(known(rollout(), on_top)).successor
    assert found is not None and found.takes_over and not found.replaces


@pytest.mark.parametrize(
    ("features", "timeouts", "retries"),
    [(None, True, False), (["HTTPRouteRetry"], False, True), (["HTTPRouteRequestTimeout"], True, False)],
)
def test_fields_beyond_the_core_are_written_where_the_class_lists_them(
    features: list[str] | None, timeouts: bool, retries: bool
) -> None:
    gateway = {"kind": "Gateway", "metadata": {"name": "inference", "namespace": "gateways"}}
    gateway["spec"] = {"gatewayClassName": "c"}  # type: ignore[assignment]
    cache = known(rollout(), gateway)
    said = {} if features is None else {"supportedFeatures": [{"name": name} for name in features]}
    cache.put(GATEWAY_CLASS, {"metadata": {"name": "c", "uid": "c", "resourceVersion": "9"}, "status": said})
    found = observed(cache)
    assert (found.timeouts, found.retries) == (timeouts, retries), "retries are in no standard CRD: never on a guess"


def test_a_sibling_that_cannot_be_read_stops_nobody() -> None:
    strange = rollout("strange")
    strange["spec"]["policy"]["unknown"] = 1
    assert observed(known(strange, rollout())).older == ""


# --- metrics --------------------------------------------------------------------------------------------------------


def status(**fields: Any) -> ServingRolloutStatus:
    return ServingRolloutStatus.model_validate(fields)


def frozen(reason: str) -> list[dict[str, Any]]:
    when = "2026-01-01T00:00:00Z"
    return [{"type": "Frozen", "status": "True", "reason": reason, "lastTransitionTime": when}]


def test_series_follow_a_rollout_and_end_with_it() -> None:
    metrics = Metrics(clock=lambda: 0.0)
    value = metrics.registry.get_sample_value
    who = {"namespace": "team-a", "name": "editor"}
    arm = {"weight": 20, "wantedWeight": 50, "samples": 400, "handovers": 3}
    metrics.rollouts.seen("team-a", "editor", status(phase="Progressing", step=2, candidate=arm))
    assert value("sartor_rollout_weight_accepted", {**who, "arm": "candidate"}) == 20
    assert value("sartor_rollout_weight_wanted", {**who, "arm": "candidate"}) == 50
    assert value("sartor_rollout_handovers", {**who, "arm": "candidate"}) == 3
    for _ in range(2):
        metrics.rollouts.seen("team-a", "editor", status(phase="Frozen", step=2, conditions=frozen("NoSamples")))
    assert value("sartor_rollout_frozen", {**who, "reason": "NoSamples"}) == 1
    assert value("sartor_rollout_freezes_total", {"reason": "NoSamples"}) == 1
    assert value("sartor_rollout_phase", {**who, "phase": "Progressing"}) is None
    ended = status(phase="RolledBack", finishedAt="2026-01-01T00:00:00Z")
    metrics.rollouts.seen("team-a", "editor", ended)
    metrics.rollouts.seen("team-a", "editor", ended)
    ends = "sartor_rollouts_ended_total"
    assert value(ends, {"namespace": "team-a", "phase": "RolledBack"}) == 1
    assert "editor" not in generate_latest(metrics.registry).decode()


def test_a_deleted_rollout_leaves_no_series() -> None:
    cluster = Cluster()
    cluster.run(cluster.phase("Promoted"))
    text = generate_latest(cluster.process.metrics.registry).decode()
    assert 'sartor_rollout_phase{name="editor",namespace="team-a",phase="Promoted"} 1.0' in text
    cluster.world.remove((ROLLOUT, "team-a", "editor"))
    asyncio.run(cluster.process.work())
    assert "editor" not in generate_latest(cluster.process.metrics.registry).decode()


# --- the process ----------------------------------------------------------------------------------------------------


def operator() -> shell.Operator:
    options: Any = type("Options", (), {"namespace": None})()
    return shell.Operator(options)


def stored(manifest: Manifest, version: int, **meta: Any) -> Manifest:
    name = manifest["metadata"]["name"]
    known = {"uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1}
    return {**manifest, "metadata": {**manifest["metadata"], **known, **meta}}


def test_a_wish_and_a_lost_arm_overtake_everything_that_waits() -> None:
    made = operator()
    made.cache.listen(made._changed)
    names = [f"r{number}" for number in range(50)]
    for number, name in enumerate(names):
        made.cache.put(ROLLOUT, stored(rollout(name, policy={"hostnames": [f"{name}.example.com"]}), 1 + number))
    asked = stored(rollout("r30", control={"abort": True}), 100, generation=2)
    made.cache.put(ROLLOUT, asked)
    made.cache.put(ROLLOUT, {**stored(rollout("r40"), 101), "status": {"phase": "Progressing"}})
    taken = [asyncio.run(made.rollouts.take())[2] for _ in range(3)]
    assert taken == ["r30", "r0", "r1"], "a status is no wish"
    alone = {"service": "alone"}
    made.cache.put(ROLLOUT, stored(rollout("last", baseline=alone, policy={"hostnames": ["last.example.com"]}), 200))
    made.cache.put(ENDPOINT_SLICE, stored(endpoints("alone", 0, 3), 201))
    assert asyncio.run(made.rollouts.take())[2] == "last"
    made.rollouts.done((ROLLOUT, "team-a", "last"))
    made.cache.put(SERVICE, stored(service("alone"), 202))
    assert asyncio.run(made.rollouts.take())[2] == "last"


def test_urgent_news_of_a_key_at_work_come_first_and_shorten_a_back_off() -> None:
    async def story() -> None:
        queue: KeyQueue[str] = KeyQueue(lambda: 0.0)
        for key in ("a", "b", "c"):
            queue.add(key)
        assert await queue.take() == "a"
        queue.add("a")
        queue.failed("a")  # plain news: they wait for the back-off
        queue.add("c", first=True)
        queue.add("c")
        assert len(queue) == 2 and await queue.take() == "c"
        queue.add("c", first=True)
        queue.failed("c")
        assert [await queue.take(), await queue.take()] == ["c", "b"] and len(queue) == 0

    asyncio.run(story())


def test_one_worker_is_kept_for_what_cannot_wait_and_others_let_it_pass() -> None:
    async def story() -> None:
        queue: KeyQueue[str] = KeyQueue(lambda: 0.0)
        queue.add("plain")
        kept = asyncio.create_task(queue.take(only_first=True))
        await asyncio.sleep(0)
        await asyncio.wait_for(queue.calm(), 1)
        assert not kept.done(), "plain keys are for the others"
        queue.add("now", first=True)
        passing = asyncio.create_task(queue.calm())
        assert await kept == "now" and await queue.take() == "plain"
        queue.add("plain", first=True)  # while it is at work
        queue.done("now")
        queue.done("plain")
        await asyncio.sleep(0)
        assert not passing.done(), "the second one has yet to be looked at"
        assert await queue.take(only_first=True) == "plain"
        queue.failed("plain")
        await asyncio.wait_for(passing, 1)

    asyncio.run(story())


def test_an_abort_waits_for_no_other_look_whatever_else_is_to_do() -> None:
    """3,000 syntheses and 400 rollouts wait, every request takes its time, and every write makes more looks."""
    cluster = Cluster()
    cluster.run(lambda: cluster.status.get("step") == 2 and cluster.status.get("stepStartedAt") is not None)
    assert cluster.weights() == (80, 20)
    for number in range(400):
        other = {"service": f"s{number}"}
        cluster.world.add(rollout(f"r{number}", candidate=other, policy={"hostnames": [f"r{number}.example.com"]}))
    asyncio.run(_abort_in_a_storm(cluster, operator()))


async def _abort_in_a_storm(cluster: Cluster, made: shell.Operator) -> None:
    looked, written = list[str](), list[str]()

    class Slow:
        """The world's API, with a delay that lets every other worker run."""

        def __getattr__(self, verb: str) -> Any:
            real = getattr(cluster.world, verb)

            async def call(*arguments: Any) -> Any:
                for _ in range(20):
                    await asyncio.sleep(0)
                answer = await real(*arguments)
                if verb == "apply" and arguments[0]["kind"] == "HTTPRoute":
                    written.append(arguments[0]["metadata"]["annotations"]["sartor.dev/rollout"])
                return answer

            return call

    class Busy(Controller):
        async def reconcile(self, key: Any) -> float | None:
            looked.append(key[2])
            if key[0] is SYNTHESIS:  # a search that always has something to do
                await asyncio.sleep(0)
                made.queue.add(key)
                return None
            return await super().reconcile(key)

    slow: Any = Slow()
    now = lambda: cluster.world.now  # noqa: E731
    for key, manifest in cluster.world.store.items():
        made.cache.put(key[0], manifest)
    made.cache.listen(made._changed)
    cluster.world.listeners.append(lambda _what, kind, manifest: made.cache.put(kind, manifest) and None)
    for number in range(3000):
        made.queue.add((SYNTHESIS, "team-a", f"search-{number}"))
    for manifest in made.cache.all(ROLLOUT):
        made.rollouts.add((ROLLOUT, "team-a", manifest["metadata"]["name"]))
    applier = Applier(slow, made.cache, cluster.world, now=now)
    controller = Busy(made.cache, slow, applier, cluster.world.settings, made.metrics, now, verdicts=cluster.script)
    args: dict[str, Any] = {"controller": controller, "metrics": made.metrics, "clock": now, "now": now}
    searching = [work(made.queue, **args, lets_pass=made.rollouts) for _ in range(8)]
    moving = [work(made.rollouts, **args, only_first=number == 0) for number in range(shell.ROLLOUT_WORKERS)]
    workers = [asyncio.create_task(one) for one in (*searching, *moving)]
    while len(looked) < 200:
        await asyncio.sleep(0)
    assert len(made.rollouts) > 300 and len(made.queue) > 2000
    looked.clear()
    written.clear()
    cluster.control(abort=True)
    while "editor" not in written:
        await asyncio.sleep(0)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert cluster.weights() == (100, 0)
    assert looked[0] == "editor", "nothing else was begun with before it"
    assert [name for name in looked if name.startswith("search")] == [], "and no search until its route was written"
    assert len(written) <= shell.ROLLOUT_WORKERS, "what was under way, and then this"


def test_the_back_off_of_a_rollout_is_short() -> None:
    now = [0.0]
    queue: KeyQueue[str] = KeyQueue(lambda: now[0], longest_backoff=shell.ROLLOUT_BACKOFF)

    async def fail() -> float:
        queue.add("k")
        await queue.take()
        return queue.failed("k")

    delays = []
    for _ in range(8):
        delays.append(asyncio.run(fail()))
        now[0] += 100
    assert max(delays) == 1.0, "an abort during a back-off is to take effect in under 2 s"


class Lists:
    """A reflector of a kind that appears with the third question."""

    def __init__(self, *answers: Exception | None) -> None:
        self.kind = HTTP_ROUTE
        self.answers = list(answers)
        self.ran = False

    async def list(self) -> None:
        if (answer := self.answers.pop(0)) is not None:
            raise answer

    async def run(self) -> None:
        self.ran = True


def test_a_kind_that_the_cluster_does_not_know_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, waited = operator(), list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(shell.asyncio, "sleep", sleep)
    made.cache.put(ROLLOUT, {**rollout(), "metadata": {**rollout()["metadata"], "uid": "u", "resourceVersion": "1"}})
    lists: Any = Lists(NotFoundError("no kind"), RefusedError("not allowed"), TransientError("away"), None)
    asyncio.run(made._await_kind(lists))
    assert lists.ran and HTTP_ROUTE in made.known and waited == [shell.ASK_AGAIN, shell.ASK_AGAIN, 5.0]
    assert len(made.rollouts) == 1, "rollouts are looked at when it is there"
