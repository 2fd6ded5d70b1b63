"""The thin shell: cache, queue, client, watches, lease. The API server is a small real HTTP server."""

import asyncio
import json
import selectors
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from kubernetes.client import Configuration

from sartor_operator import cli, names
from sartor_operator.cache import Cache, trimmed
from sartor_operator.client import Client
from sartor_operator.connection import Connection
from sartor_operator.controller import keys_for, work
from sartor_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
    RefusedError,
    TransientError,
)
from sartor_operator.keyqueue import FIRST_BACKOFF, LONGEST_BACKOFF, KeyQueue
from sartor_operator.kinds import (
    CONFIG_MAP,
    JOB,
    LEASE,
    NETWORK_POLICY,
    POD,
    PROFILE,
    RUN,
    SERVICE_ACCOUNT,
    SYNTHESIS,
    TARGET,
    Manifest,
)
from sartor_operator.lease import Leadership
from sartor_operator.metrics import Metrics
from sartor_operator.reflector import Reflector

T = TypeVar("T")


class Hurry(selectors.SelectSelector):
    """Puts a clock forward where an event loop would wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(None if timeout is None else 0)


class VirtualTime(asyncio.SelectorEventLoop):
    """Everybody comes in time, whatever else the machine has to do, and nobody waits. For stories without a network."""

    def __init__(self) -> None:
        self._hurry = Hurry()
        super().__init__(self._hurry)

    def time(self) -> float:
        return self._hurry.now


def virtually(story: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(story)


def thing(name: str, version: int, uid: str = "u1", **labels: str) -> Manifest:
    meta = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


# --- cache --------------------------------------------------------------------------------------------------------------


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.put(CONFIG_MAP, thing("a", 10))
    assert not cache.put(CONFIG_MAP, thing("a", 9))
    assert not cache.put(CONFIG_MAP, thing("a", 10))
    assert cache.put(CONFIG_MAP, thing("a", 100)), "versions are numbers: 100 is newer than 10"


def test_what_was_deleted_does_not_come_back_by_a_late_watch() -> None:
    cache = Cache()
    cache.put(CONFIG_MAP, thing("a", 1))
    cache.remove(CONFIG_MAP, "ns", "a", "u1")
    assert not cache.put(CONFIG_MAP, thing("a", 2))
    assert cache.put(CONFIG_MAP, thing("a", 3, uid="u2"))
    assert not cache.remove(CONFIG_MAP, "ns", "a", "u1"), "another object has the name now"
    assert cache.get(CONFIG_MAP, "ns", "a") is not None


def test_a_list_replaces_what_it_could_have_seen() -> None:
    cache = Cache()
    told: list[str] = []
    for number in (1, 2, 9):
        cache.put(CONFIG_MAP, thing(f"n{number}", number, uid=f"u{number}", **{names.RUN_LABEL: "r"}))
    cache.listen(lambda _k, before, now: told.append(names.name_of(now or before)))
    cache.replace(CONFIG_MAP, [thing("n2", 2, uid="u2", **{names.RUN_LABEL: "r"})], at_version=5)
    left = [names.name_of(m) for m in cache.labelled(CONFIG_MAP, "ns", names.RUN_LABEL, "r")]
    assert left == ["n2", "n9"], "n1 is gone; n9 is newer than the list"
    assert told == ["n1"]


def test_what_no_decision_looks_at_is_not_kept_of_pods_and_jobs() -> None:
    """A thousand templates would be most of the operator's memory."""
    meta = {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    spec = {"suspend": True, "template": {"spec": {"containers": []}}}
    assert "spec" not in trimmed(POD, {"metadata": meta, "spec": {"containers": []}, "status": {"phase": "Running"}})
    assert trimmed(JOB, {"metadata": meta, "spec": spec})["spec"] == {"suspend": True}


def test_large_data_is_not_kept() -> None:
    cache = Cache()
    cache.put(CONFIG_MAP, {**thing("a", 1), "binaryData": {"part": "x" * 1000}})
    assert "binaryData" not in (cache.get(CONFIG_MAP, "ns", "a") or {})


def test_what_a_planner_got_to_read_is_not_kept_and_nothing_new_is_news_to_nobody() -> None:
    cache = Cache()
    told: list[Manifest | None] = []
    cache.listen(lambda _k, before, _now: told.append(before))
    step = {**thing("a", 1), "data": {"step.json": "{}", "records.json": "x" * 600_000}}
    cache.put(CONFIG_MAP, step)
    kept = cache.get(CONFIG_MAP, "ns", "a")
    assert kept is not None and kept["data"] == {"step.json": "{}"}
    assert cache.put(CONFIG_MAP, {**step, "metadata": {**step["metadata"], "resourceVersion": "2"}})
    assert told == [None], "a version in which nothing changed"
    assert cache.put(CONFIG_MAP, {**thing("a", 3), "data": {"step.json": "{1}"}})
    assert told == [None, {**kept, "metadata": {**kept["metadata"], "resourceVersion": "2"}}]


# --- which keys follow ------------------------------------------------------------------------------------------------


def synthesis_of(name: str, target: str, profile: str | None = None, version: int = 1) -> Manifest:
    meta = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(version), "generation": 1}
    agents = {"agents": {"profileRef": {"name": profile}}} if profile else {}
    return {"metadata": meta, "spec": {"hardware": {"targetRef": {"name": target}}, **agents}}


def test_a_change_leads_to_what_refers_to_it_and_to_nothing_else() -> None:
    """A thousand syntheses: what has to be looked at is found by an index, and a status alone wakes nobody else."""
    cache = Cache()
    for number in range(1000):
        cache.put(SYNTHESIS, synthesis_of(f"s{number}", f"t{number % 500}", f"p{number % 500}"))
    meta = {"name": "t7", "uid": "t", "generation": 1}
    before: Manifest = {"metadata": meta, "spec": {}, "status": {"product": "A", "message": "a"}}
    said = {**before, "status": {"product": "A", "message": "b"}}
    driver = {**before, "status": {"product": "B"}}
    edited = {**before, "metadata": {**meta, "generation": 2}}
    followers = [(SYNTHESIS, "ns", "s507"), (SYNTHESIS, "ns", "s7")]
    assert keys_for(cache, TARGET, before, said) == [(TARGET, "", "t7")]
    for news in ((before, driver), (before, edited), (before, None), (None, before)):
        assert sorted(keys_for(cache, TARGET, *news)[1:], key=str) == followers
    profile: Manifest = {"metadata": {"name": "p7", "namespace": "ns", "uid": "p", "generation": 1}}
    assert keys_for(cache, PROFILE, profile, {**profile, "status": {"tokensUsed": 9}}) == [(PROFILE, "ns", "p7")]
    assert sorted(keys_for(cache, PROFILE, None, profile)[1:], key=str) == followers
    cache.remove(SYNTHESIS, "ns", "s7", "s7")
    cache.put(SYNTHESIS, synthesis_of("s507", "elsewhere", version=2))
    assert keys_for(cache, TARGET, before, None) == [(TARGET, "", "t7")], "what is gone, or refers to another one now"


def test_a_status_of_a_synthesis_wakes_none_of_its_runs() -> None:
    cache = Cache()
    ssyn = synthesis_of("s", "t")
    cache.put(SYNTHESIS, ssyn)
    cache.put(RUN, {**thing("r", 2, **{names.SYNTHESIS_LABEL: "s"}), "spec": {}})
    assert keys_for(cache, SYNTHESIS, ssyn, {**ssyn, "status": {"phase": "Serving"}}) == [(SYNTHESIS, "ns", "s")]
    held = {**ssyn, "metadata": {**ssyn["metadata"], "generation": 2}}
    assert keys_for(cache, SYNTHESIS, ssyn, held) == [(SYNTHESIS, "ns", "s"), (RUN, "ns", "r")]


def test_an_identity_or_a_wall_that_goes_or_changes_is_seen_by_a_synthesis_of_its_namespace() -> None:
    cache = Cache()
    cache.put(SYNTHESIS, synthesis_of("s", "t"))
    wall = thing("sartor-candidate", 3)
    assert keys_for(cache, NETWORK_POLICY, None, wall) == []
    assert keys_for(cache, NETWORK_POLICY, wall, None) == [(SYNTHESIS, "ns", "s")]
    assert keys_for(cache, SERVICE_ACCOUNT, wall, wall) == [(SYNTHESIS, "ns", "s")]
    elsewhere = {"metadata": {**wall["metadata"], "namespace": "other"}}
    assert keys_for(cache, NETWORK_POLICY, elsewhere, None) == []


# --- queue --------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_with_one_worker_at_a_time_and_comes_again_if_it_changed() -> None:
    async def story() -> None:
        queue: KeyQueue[str] = KeyQueue(Clock())
        for key in ("a", "a", "b", "a"):
            queue.add(key)
        assert len(queue) == 2
        assert await queue.take() == "a"
        queue.add("a")
        assert await queue.take() == "b"
        assert len(queue) == 0, "a is at work"
        queue.done("a")
        assert await queue.take() == "a"

    asyncio.run(story())


def test_looks_that_wait_for_nothing_give_others_their_turn() -> None:
    """The renewal of the lease among them, when a thousand objects have to be looked at after a start."""

    class Idle:
        async def reconcile(self, key: Any) -> None:
            return None

    async def story() -> int:
        queue: KeyQueue[Any] = KeyQueue(time.monotonic)
        for number in range(500):
            queue.add((RUN, "ns", str(number)))
        metrics, turns = Metrics(clock=time.monotonic), 0
        working = asyncio.create_task(work(queue, Idle(), metrics, clock=time.monotonic, now=time.time))  # type: ignore[arg-type]
        while len(queue):
            await asyncio.sleep(0)
            turns += 1
        working.cancel()
        return turns

    assert asyncio.run(story()) > 400


def test_wake_times_and_back_off() -> None:
    async def story() -> None:
        clock = Clock()
        queue: KeyQueue[str] = KeyQueue(clock)
        queue.add("a")
        assert await queue.take() == "a"
        queue.done("a", wake_at=10.0)
        queue.add_at("a", 50.0)
        clock.now = 9.9
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 0.01)
        clock.now = 10.0
        assert await queue.take() == "a"
        delays = []
        for _ in range(4):
            delays.append(queue.failed("a"))
            clock.now += delays[-1]
            assert await queue.take() == "a"
        assert delays == [FIRST_BACKOFF * 2**n for n in range(4)]
        queue.done("a")
        queue.add("a")
        assert await queue.take() == "a"
        assert queue.failed("a") == FIRST_BACKOFF, "success ends the back-off"

    asyncio.run(story())


def test_wake_times_that_are_void_do_not_pile_up() -> None:
    """Each look at a run sets its deadline anew, hours ahead: 100,000 looks leave one wake time."""

    async def story() -> None:
        clock = Clock()
        queue: KeyQueue[str] = KeyQueue(clock)
        for number in range(100_000):
            queue.add("a")
            await queue.take()
            queue.done("a", wake_at=10_000.0 + number)
        assert len(queue._wakes) <= 200
        clock.now = 10_000.0 + 99_999
        assert await queue.take() == "a"

    asyncio.run(story())


def test_failures_without_end_never_break_the_queue() -> None:
    async def story() -> None:
        clock = Clock()
        queue: KeyQueue[str] = KeyQueue(clock)
        queue.add("a")
        for _ in range(1500):  # a day of them
            await queue.take()
            delay = queue.failed("a")
            clock.now += delay
        assert delay == LONGEST_BACKOFF

    asyncio.run(story())


# --- client -------------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """An API server that answers from a script: (status, body, headers) in order, then 200 and an empty object."""

    answers: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.text()
        parsed = json.loads(body) if body else None
        self.requests.append((request.method, request.path, dict(request.query), parsed))
        status, answer, headers = self.answers.pop(0) if self.answers else (200, {"metadata": {}}, {})
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")


def with_client(server: Server, story: Callable[[Client], Awaitable[None]]) -> list[tuple[str, str]]:
    counted: list[tuple[str, str]] = []

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with Client(
                Connection(configuration), counted=lambda v, c, _s: counted.append((v, c)), uniform=lambda: -0.499
            ) as client:
                await story(client)
        finally:
            await runner.cleanup()

    asyncio.run(run())
    return counted


def status(code: int, reason: str) -> tuple[int, Any, dict[str, str]]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": f"it is {reason}"}, {}


@pytest.mark.parametrize("first", [status(429, "TooManyRequests"), status(500, "InternalError"), (503, "proxy", {})])
def test_what_may_pass_is_repeated(first: tuple[int, Any, dict[str, str]]) -> None:
    server = Server([first, first, (200, thing("a", 7), {})])

    async def story(client: Client) -> None:
        assert (await client.get(CONFIG_MAP, "ns", "a"))["metadata"]["resourceVersion"] == "7"

    assert [code for _, code in with_client(server, story)] == [str(first[0])] * 2 + ["200"]


def test_retry_after_is_honoured() -> None:
    code, body, _ = status(429, "TooManyRequests")
    server = Server([(code, body, {"Retry-After": "1"})])

    async def story(client: Client) -> None:
        begun = asyncio.get_running_loop().time()
        await client.get(CONFIG_MAP, "ns", "a")
        assert asyncio.get_running_loop().time() - begun >= 1.0

    with_client(server, story)


def test_nobody_is_made_to_sleep_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    code, body, _ = status(429, "TooManyRequests")
    server = Server([(code, body, {"Retry-After": "3600"})])
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("sartor_operator.client.asyncio.sleep", sleep)

    async def story(client: Client) -> None:
        await client.get(CONFIG_MAP, "ns", "a")

    with_client(server, story)
    assert slept and max(slept) < 31


def test_who_is_not_the_leader_any_more_sends_nothing_that_changes_anything() -> None:
    server = Server()

    async def story(client: Client) -> None:
        client.fence(lambda: False)
        client._uniform = lambda: -0.5  # no waiting between tries
        with pytest.raises(TransientError, match="not the leader any more"):
            await client.create(thing("a", 0), "sartor-create")
        with pytest.raises(TransientError, match="not the leader any more"):
            await client.delete(CONFIG_MAP, "ns", "a", "u1")
        await client.get(CONFIG_MAP, "ns", "a")
        client.fence(lambda: True)
        await client.create(thing("a", 0), "sartor-create")

    with_client(server, story)
    assert [method for method, *_ in server.requests] == ["GET", "POST"]


ERRORS = [
    (status(404, "NotFound"), NotFoundError),
    (status(409, "AlreadyExists"), AlreadyExistsError),
    (status(409, "Conflict"), ConflictError),
    (status(410, "Expired"), ExpiredError),
    (status(403, "Forbidden"), RefusedError),
    (status(422, "Invalid"), RefusedError),
]


@pytest.mark.parametrize(("answer", "error"), ERRORS, ids=[e.__name__ for _, e in ERRORS])
def test_what_repeating_does_not_cure_is_not_repeated(answer: Any, error: type[Exception]) -> None:
    server = Server([answer])

    async def story(client: Client) -> None:
        with pytest.raises(error, match=answer[1]["reason"]):
            await client.create(thing("a", 0), "sartor-create")

    with_client(server, story)
    assert len(server.requests) == 1


def test_nobody_there_is_an_error_that_passes() -> None:
    async def story(_client: Client) -> None:
        configuration = Configuration()
        configuration.host = "http://127.0.0.1:9"
        async with Client(Connection(configuration), uniform=lambda: -0.499) as client:
            with pytest.raises(TransientError, match="no answer"):
                await client.get(CONFIG_MAP, "ns", "a")

    with_client(Server(), story)


def test_writes_say_who_and_what_version() -> None:
    server = Server()

    async def story(client: Client) -> None:
        run = {"metadata": {"name": "r", "namespace": "ns", "uid": "u", "resourceVersion": "5"}}
        await client.apply_status(RUN, run, {"phase": "Round"}, "sartor-status")
        await client.delete(CONFIG_MAP, "ns", "a", "u1")
        await client.apply(thing("a", 0), "sartor-delivery")

    with_client(server, story)
    (m1, p1, q1, b1), (m2, _, _, b2), (m3, _, q3, _) = server.requests
    assert (m1, p1) == ("PATCH", "/apis/sartor.dev/v1alpha1/namespaces/ns/synthesisruns/r/status")
    assert q1 == {"fieldManager": "sartor-status", "force": "true"}
    assert b1["metadata"]["resourceVersion"] == "5" and b1["status"] == {"phase": "Round"}
    assert m2 == "DELETE" and b2["preconditions"] == {"uid": "u1"}
    assert m3 == "PATCH" and q3["fieldManager"] == "sartor-delivery"


def test_a_watch_goes_on_from_the_list_and_begins_anew_when_it_is_too_old() -> None:
    listed = {"metadata": {"resourceVersion": "5"}, "items": [thing("a", 3), thing("b", 4, uid="u2")]}
    first = "\n".join(
        json.dumps(event)
        for event in (
            {"type": "MODIFIED", "object": thing("a", 6)},
            {"type": "DELETED", "object": thing("b", 7, uid="u2")},
            {"type": "BOOKMARK", "object": thing("", 9)},
        )
    )
    expired = json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}})
    again = {"metadata": {"resourceVersion": "20"}, "items": [thing("c", 15, uid="u3")]}
    server = Server([(200, listed, {}), (200, first + "\n", {}), (200, expired + "\n", {}), (200, again, {})])

    async def story(client: Client) -> None:
        cache = Cache()
        reflector = Reflector(client, cache, CONFIG_MAP, "ns")
        task = asyncio.create_task(reflector.run())
        while cache.get(CONFIG_MAP, "ns", "c") is None:
            await asyncio.sleep(0.01)
        task.cancel()
        assert cache.get(CONFIG_MAP, "ns", "a") is None and cache.get(CONFIG_MAP, "ns", "b") is None

    with_client(server, story)
    queries = [query for _, _, query, _ in server.requests]
    assert queries[0]["labelSelector"] == names.SELECTOR and "resourceVersion" not in queries[0]
    assert [q.get("resourceVersion") for q in queries[1:3]] == ["5", "9"]


class Breaking:
    """A client whose watches work for a while and then break."""

    def __init__(self) -> None:
        self.watches = 0

    async def list(self, *_: object) -> tuple[list[Manifest], str]:
        return [], "1"

    async def watch(self, *_: object) -> AsyncIterator[tuple[str, Manifest]]:
        self.watches += 1
        await asyncio.sleep(1.0)
        raise TransientError("cut")
        yield


def test_a_watch_that_worked_before_it_broke_is_taken_up_again_soon() -> None:
    async def story() -> int:
        client = Breaking()
        task = asyncio.create_task(Reflector(client, Cache(), CONFIG_MAP, "ns").run())  # type: ignore[arg-type]
        await asyncio.sleep(60)
        task.cancel()
        return client.watches

    assert virtually(story()) >= 40, "doubled waits would allow six"


# --- lease --------------------------------------------------------------------------------------------------------------


@dataclass
class Leases:
    """The one Lease of a cluster, with the checks that the API server makes."""

    lease: Manifest | None = None
    version: int = 0
    broken: bool = False
    hangs: bool = False
    unread: int = 0
    """How many reads get no answer from now on."""

    async def get(self, kind: Any, namespace: str | None, name: str) -> Manifest:
        if self.broken or self.unread > 0:
            self.unread -= 1
            raise TransientError("away")
        if self.lease is None:
            raise NotFoundError("none")
        return self.lease

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        if self.lease is not None:
            raise AlreadyExistsError("there")
        return self._put(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        if self.hangs:
            await asyncio.sleep(60)
        if self.broken:
            raise TransientError("away")
        if self.lease is None or manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("changed")
        return self._put(manifest)

    def _put(self, manifest: Manifest) -> Manifest:
        self.version += 1
        self.lease = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.version)}}
        return self.lease


def leader(leases: Leases, identity: str, seconds: float = 15.0) -> Leadership:
    loop = asyncio.get_running_loop()
    return Leadership(
        leases,  # type: ignore[arg-type]
        namespace="ns",
        name="sartor-operator",
        identity=identity,
        seconds=seconds,
        wall=loop.time,
        clock=loop.time,
    )


def test_a_second_one_waits_until_the_first_is_gone() -> None:
    async def story() -> None:
        leases = Leases()
        first, second = leader(leases, "a"), leader(leases, "b")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(60)
        assert not waiting.done() and not keeping.done()
        keeping.cancel()
        await asyncio.wait_for(waiting, 17)  # its time, and a look each second
        assert leases.lease is not None and leases.lease["spec"]["holderIdentity"] == "b"
        assert leases.lease["spec"]["leaseTransitions"] == 1

    virtually(story())


def test_a_process_that_was_stopped_for_a_while_is_no_leader() -> None:
    async def story() -> None:
        leases, clock = Leases(), Clock()
        lease = Leadership(leases, namespace="ns", name="l", identity="a", seconds=15.0, wall=clock, clock=clock)  # type: ignore[arg-type]
        assert not lease.valid
        await lease.acquire()
        clock.now = 14.9
        assert lease.valid
        clock.now = 15.1
        assert not lease.valid, "somebody else may have taken it"

    asyncio.run(story())


def test_a_lease_given_back_is_taken_at_once() -> None:
    async def story() -> None:
        leases = Leases()
        first, second = leader(leases, "a"), leader(leases, "b")
        await first.acquire()
        await first.release()
        await asyncio.wait_for(second.acquire(), 1)

    virtually(story())


def test_a_conflict_that_cannot_be_looked_at_at_once_is_no_loss() -> None:
    """Its own write, whose answer was lost, has raised the version; the look at it fails once."""

    async def story() -> None:
        leases = Leases()
        first = leader(leases, "a")
        await first.acquire()
        assert leases.lease is not None
        leases._put(leases.lease)
        leases.unread = 1
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(30)
        assert not keeping.done() and first.valid and leases.unread == 0
        keeping.cancel()

    virtually(story())


@pytest.mark.parametrize("how", ["taken", "deleted", "away", "hangs"])
def test_a_lost_lease_is_noticed(how: str) -> None:
    async def story() -> None:
        leases = Leases()
        first = leader(leases, "a")
        await first.acquire()
        if how == "away":
            leases.broken = True
        elif how == "hangs":
            leases.hangs = True
        elif how == "deleted":
            leases.lease = None
        else:
            assert leases.lease is not None
            leases.lease["spec"]["holderIdentity"] = "b"
            leases._put(leases.lease)
        await asyncio.wait_for(first.keep(), 15)  # then somebody else may have it

    virtually(story())


def test_kinds_have_the_paths_that_the_api_server_knows() -> None:
    assert SYNTHESIS.path("ns", "a", "status") == "/apis/sartor.dev/v1alpha1/namespaces/ns/servingsyntheses/a/status"
    assert CONFIG_MAP.path(None) == "/api/v1/configmaps"
    assert LEASE.path("ns", "l") == "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l"


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["run", "--kubeconfig", str(kubeconfig), "--namespace", "ns", "--metrics-port", str(port)]
        assert cli.main([*arguments, "--repository", "http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err
    assert str(port) in said and "--metrics-port" in said and "Traceback" not in said
