"""Which Node kube-proxy is told that it is on: the one that is there longest, a stand-in while there is none."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from sartor_devcluster import proxy_node
from sartor_devcluster.api import ApiError, AsyncApi
from sartor_devcluster.proxy_node import STAND_IN, NodeSeen, ProxyNode, choose, node_seen

A, B = NodeSeen("2026-03-01T12:00:00Z", "a"), NodeSeen("2026-03-01T12:00:01Z", "b")


def node(name: str, address: str | None = "10.240.0.11", *, second: int = 0) -> dict[str, Any]:
    addresses = [{"type": "Hostname", "address": name}]
    addresses += [{"type": "InternalIP", "address": address}] if address else []
    metadata = {"name": name, "creationTimestamp": f"2026-03-01T12:00:{second:02}Z"}
    return {"metadata": metadata, "status": {"addresses": addresses}}


@pytest.mark.parametrize(
    ("nodes", "now_on", "chosen"),
    [
        ([], None, None),
        ([], "a", None),
        ([B, A], None, "a"),
        ([B, A], STAND_IN, "a"),
        ([B, A], "b", "b"),
        ([B], "a", "b"),
        ([NodeSeen(A.since, "z"), A], None, "a"),
    ],
)
def test_the_present_node_stays_and_else_the_oldest_is_chosen(
    nodes: list[NodeSeen], now_on: str | None, chosen: str | None
) -> None:
    assert choose(nodes, now_on) == chosen


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (node("a"), NodeSeen("2026-03-01T12:00:00Z", "a")),
        (node("a", None), None),
        (node("a", "192.0.2.1"), None),
        (node("a", "fd00::1"), None),
        (node("a", "no address"), None),
        (node(STAND_IN), None),
        ({"metadata": {"name": "a", "creationTimestamp": "2026-03-01T12:00:00Z"}}, None),
    ],
)
def test_a_node_counts_when_it_has_an_address_in_here(raw: dict[str, Any], seen: NodeSeen | None) -> None:
    assert node_seen(raw) == seen


class Cluster:
    """The API of Nodes in memory."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.nodes = {n["metadata"]["name"]: n for n in nodes}
        self.events_to_come: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.failures: list[Exception] = []
        self.calls: list[tuple[str, str]] = []

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self.calls.append((method, path))
        if self.failures:
            raise self.failures.pop()
        name = path.rpartition("/")[2]
        match method:
            case "GET":
                return {"items": list(self.nodes.values()), "metadata": {"resourceVersion": "7"}}
            case "POST":
                assert body is not None
                made = dict(body)
                if made["metadata"]["name"] in self.nodes:
                    raise ApiError(409, "there")
                made["metadata"] = {**made["metadata"], "creationTimestamp": "2026-03-01T12:00:00Z"}
                self.nodes[made["metadata"]["name"]] = made
            case _:
                if self.nodes.pop(name, None) is None:
                    raise ApiError(404, "gone")
        return {}

    async def events(self, path: str, silence: float) -> AsyncGenerator[dict[str, Any]]:
        assert "watch=1&resourceVersion=7" in path
        assert silence > 0
        while True:
            yield await self.events_to_come.get()

    def add(self, new: dict[str, Any]) -> None:
        self.nodes[new["metadata"]["name"]] = new
        self.events_to_come.put_nowait({"type": "ADDED", "object": new})

    def remove(self, name: str) -> None:
        self.events_to_come.put_nowait({"type": "DELETED", "object": self.nodes.pop(name)})


class Proxy:
    """kube-proxy: asks before each start, and is started again when it is told to."""

    def __init__(self, cluster: Cluster) -> None:
        self.well = False
        self.renewed = 0
        self.on = ProxyNode(cast(AsyncApi, cluster), self._well, self._renew)

    async def _well(self) -> bool:
        return self.well

    def _renew(self) -> None:
        self.renewed += 1

    async def start(self) -> str:
        self.well = False
        (argument,) = await self.on.arguments()
        return argument.removeprefix("--hostname-override=")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())


async def until(look: Callable[[], bool]) -> None:
    while not look():
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_node, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(proxy_node, "RETRY_SECONDS", 0.001)


def test_without_a_node_a_stand_in_is_there_until_kube_proxy_is_well() -> None:
    async def test() -> None:
        cluster = Cluster()
        proxy = Proxy(cluster)
        following = asyncio.create_task(proxy.on.keep())
        assert await proxy.start() == STAND_IN
        addresses = cluster.nodes[STAND_IN]["status"]["addresses"]
        assert addresses == [{"type": "InternalIP", "address": "10.240.0.1"}], "else kube-proxy waits 30 s for one"
        await asyncio.sleep(0.02)
        assert STAND_IN in cluster.nodes
        proxy.well = True
        await until(lambda: STAND_IN not in cluster.nodes)
        cluster.add(node("real"))
        await until(lambda: proxy.renewed == 1)
        assert await proxy.start() == "real"
        assert STAND_IN not in cluster.nodes
        following.cancel()

    run(test)


def test_it_moves_only_when_its_node_goes() -> None:
    async def test() -> None:
        cluster = Cluster(node("b", second=1), node("a"))
        proxy = Proxy(cluster)
        assert await proxy.start() == "a"
        following = asyncio.create_task(proxy.on.keep())
        cluster.add(node("c", second=2))
        cluster.events_to_come.put_nowait({"type": "MODIFIED", "object": node("a")})
        await until(cluster.events_to_come.empty)
        assert proxy.renewed == 0
        cluster.remove("a")
        await until(lambda: proxy.renewed == 1)
        cluster.events_to_come.put_nowait({"type": "MODIFIED", "object": node("c", second=2)})
        await until(cluster.events_to_come.empty)
        await asyncio.sleep(0.01)
        assert proxy.renewed == 1, "once is enough while it has not asked yet"
        assert await proxy.start() == "b"
        cluster.remove("b")
        await until(lambda: proxy.renewed == 2)
        assert await proxy.start() == "c"
        cluster.remove("c")
        await until(cluster.events_to_come.empty)
        await asyncio.sleep(0.01)
        assert proxy.renewed == 2, "with no Node left it stays as it is"
        following.cancel()

    run(test)


def test_a_node_that_came_while_the_stand_in_was_made_is_not_forgotten() -> None:
    async def test() -> None:
        cluster = Cluster()
        proxy = Proxy(cluster)
        assert await proxy.start() == STAND_IN
        cluster.nodes["real"] = node("real", second=1)
        following = asyncio.create_task(proxy.on.keep())
        await until(lambda: proxy.renewed == 1)
        assert await proxy.start() == "real"
        proxy.well = True
        await until(lambda: STAND_IN not in cluster.nodes)
        following.cancel()

    run(test)


def test_the_stand_in_of_a_supervisor_that_was_killed_goes_too() -> None:
    async def test() -> None:
        cluster = Cluster(node(STAND_IN, "10.240.0.1"))
        proxy = Proxy(cluster)
        assert await proxy.start() == STAND_IN, "it serves as well as one of its own"
        following = asyncio.create_task(proxy.on.keep())
        proxy.well = True
        await until(lambda: STAND_IN not in cluster.nodes)
        following.cancel()

    run(test)


def test_a_server_that_is_away_is_waited_for() -> None:
    async def test() -> None:
        cluster = Cluster(node("a"))
        cluster.failures = [OSError("away"), ApiError(500, "not yet"), OSError("away")]
        proxy = Proxy(cluster)
        assert await proxy.start() == "a"
        cluster.failures = [OSError("away"), ApiError(503, "not yet")]
        following = asyncio.create_task(proxy.on.keep())
        await until(lambda: not cluster.failures)
        cluster.add(node("b", second=1))
        cluster.remove("a")
        await until(lambda: proxy.renewed == 1)
        cluster.events_to_come.put_nowait({"type": "ERROR", "object": {}})
        lists = cluster.calls.count(("GET", "/api/v1/nodes"))
        await until(lambda: cluster.calls.count(("GET", "/api/v1/nodes")) == lists + 1)
        following.cancel()

    run(test)
