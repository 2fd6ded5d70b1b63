"""Which Node kube-proxy is told that it is on.

It must be told one, as traffic policies `Local` and zone hints count from there; and it writes no rule before it has seen
that Node with an address, or has waited 30 s for it (`NewNodeManager` in kubernetes/pkg/proxy). All nodes of a cluster
of ours share one network namespace and therefore one kube-proxy. It is on the Node that is there longest, and goes on to the
next when that one is removed; its rules stay in the kernel while it is started anew. Before there is any, a stand-in is
registered for the moments in which kube-proxy starts.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from sartor_devcluster import addresses as at
from sartor_devcluster.api import ApiError, AsyncApi

STAND_IN = "sartor-devcluster-no-node-yet"
PATH = "/api/v1/nodes"
WATCH_SECONDS = 240
RETRY_SECONDS = 1.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, order=True)
class NodeSeen:
    """What counts of a Node: since when it is there (RFC 3339, so that the order is that of time), and its name."""

    since: str
    name: str


def node_seen(node: Mapping[str, Any]) -> NodeSeen | None:
    """None for a Node that kube-proxy cannot be on: without an address in this namespace, or the stand-in."""
    metadata = node["metadata"]
    addresses = [str(a["address"]) for a in node.get("status", {}).get("addresses", ()) if a["type"] == "InternalIP"]
    if metadata["name"] == STAND_IN or not any(map(_is_here, addresses)):
        return None
    return NodeSeen(str(metadata["creationTimestamp"]), str(metadata["name"]))


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(at.NODES)
    except ValueError:  # a node may say what it likes
        return False


def choose(nodes: Iterable[NodeSeen], now_on: str | None) -> str | None:
    """The name of the Node to be on: the present one as long as it is there, else the oldest; None if there is none."""
    known = sorted(nodes)
    if any(node.name == now_on for node in known):
        return now_on
    return known[0].name if known else None


class ProxyNode:
    """Lives in the supervisor's event loop. `well` tells whether kube-proxy serves, `renew` has it started again."""

    def __init__(self, api: AsyncApi, well: Callable[[], Awaitable[bool]], renew: Callable[[], None]) -> None:
        self._api, self._well, self._renew = api, well, renew
        self._on: str | None = None
        self._moving = False
        self._standing_in = asyncio.Event()
        self._nodes: dict[str, NodeSeen | None] = {}

    async def arguments(self) -> tuple[str, ...]:
        """To be asked before each start of kube-proxy. Makes the stand-in where there is no Node; waits for the server."""
        while True:
            try:
                listed = await self._api.call("GET", PATH)
                nodes = filter(None, map(node_seen, cast(list[dict[str, Any]], listed["items"])))
                if (name := choose(nodes, self._on)) is None:
                    name = await self._stand_in()
                break
            except (ApiError, OSError):
                await asyncio.sleep(POLL_SECONDS)
        self._on, self._moving = name, False
        return (f"--hostname-override={name}",)

    async def keep(self) -> None:
        """Follow the Nodes and remove the stand-in when it has done its service, for ever; ends by cancellation only."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._clear())

    async def _stand_in(self) -> str:
        """Register it. One of an earlier supervisor, which was killed, is as good."""
        manifest = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": STAND_IN},
            "spec": {"unschedulable": True},
            "status": {"addresses": [{"type": "InternalIP", "address": at.API_ADDRESS}]},
        }
        try:
            await self._api.call("POST", PATH, manifest)
        except ApiError as error:
            if error.status != 409:
                raise
        self._standing_in.set()
        return STAND_IN

    async def _clear(self) -> None:
        while True:
            await self._standing_in.wait()
            if not await self._well():
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                await self._api.call("DELETE", f"{PATH}/{STAND_IN}")
            except ApiError as error:
                if error.status != 404:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._standing_in.clear()
            self._move()  # one may have come while the stand-in was made

    async def _follow(self) -> None:
        while True:
            try:
                await self._watch()
            except (ApiError, OSError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        listed = await self._api.call("GET", PATH)
        items = cast(list[dict[str, Any]], listed["items"])
        self._nodes = {str(item["metadata"]["name"]): node_seen(item) for item in items}
        if STAND_IN in self._nodes:  # perhaps of a supervisor that was killed
            self._standing_in.set()
        self._move()
        version = listed["metadata"]["resourceVersion"]
        path = f"{PATH}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        async with aclosing(self._api.events(path, WATCH_SECONDS + 10)) as events:
            async for event in events:
                if event["type"] == "ERROR":  # the version is too old: list again
                    return
                name = str(event["object"]["metadata"]["name"])
                if event["type"] == "DELETED":
                    self._nodes.pop(name, None)
                else:
                    self._nodes[name] = node_seen(event["object"])
                self._move()

    def _move(self) -> None:
        """Have kube-proxy started again if it should be on another Node. While it starts, it will be told anyway."""
        chosen = choose(filter(None, self._nodes.values()), self._on)
        if chosen is not None and chosen != self._on and self._on is not None and not self._moving:
            self._moving = True
            self._renew()
