"""The in-memory cluster with what moves traffic: endpoints of every Service, a Gateway that takes routes, verdicts,
finalizers, and a garbage collector that looks at all owners of an object."""

import asyncio
from collections.abc import Callable
from typing import Any

from operator_world import NAMESPACE, KilledError, Process, World, _advance, synthesis, target

from sartor_api.serving_rollout import VerdictSummary
from sartor_operator import names
from sartor_operator.apply import Applier
from sartor_operator.cache import Key, key_of
from sartor_operator.controller import Controller
from sartor_operator.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    HTTP_ROUTE,
    POD,
    ROLLOUT,
    SERVICE,
    SYNTHESIS,
    Kind,
    Manifest,
)
from sartor_operator.rollout.index import SERVICE_NAME
from sartor_operator.rollout.route import route_shares
from sartor_operator.rollout.samples import ArmCounts, ArmsAsked, Reading, StepAsked
from sartor_operator.times import at, format_time

GATEWAY = {"name": "inference", "namespace": "gateways"}
POLICY: dict[str, Any] = {
    "parentRefs": [GATEWAY],
    "hostnames": ["editor.example.com"],
    "steps": [{"weight": 20, "hold": "20s"}, {"weight": 50, "hold": "20s"}],
    "baselineAfterPromotion": {"replicas": 1, "scaleDownAfter": "10m"},
    "drainTimeout": "30s",
    "analysis": {"sources": ["gatewayAccessLog"]},
}
SHORT = {"rounds": 1, "wallClock": "8h"}
LONGER = {"rounds": 2, "wallClock": "8h"}
"""Another intent, whose winner has other bytes: each round is faster than the one before."""


class RollingWorld(World):
    """`down`: Services none of whose pods are ready. `broken` holds what must never be, as a sentence each."""

    def __init__(self) -> None:
        super().__init__()
        self.down: set[str] = set()
        self.shares: list[dict[str, int]] = []
        self.broken: list[str] = []
        self.listeners.append(self._watch)

    def tick(self) -> bool:
        before = self.version
        super().tick()
        for service in self.all(SERVICE):
            self._endpoints(service)
        for route in self.all(HTTP_ROUTE):
            self._accept(route)
        return self.version != before

    def _deployment(self, key: Key, manifest: Manifest) -> None:
        """Also fewer replicas."""
        pods = [p for p in self.all(POD) if names.owner_uid(p) == names.uid(manifest)]
        for surplus in pods[int(manifest["spec"].get("replicas", 1)) :]:
            self.remove(key_of(POD, surplus))
        super()._deployment(key, manifest)

    def _endpoints(self, service: Manifest) -> None:
        name, selector = names.name_of(service), service["spec"].get("selector")
        if not selector:
            return
        pods = [p for p in self.all(POD) if selector.items() <= p["metadata"]["labels"].items()]
        ready = [
            name not in self.down
            and not names.deleting(p)
            and any(c["type"] == "Ready" and c["status"] == "True" for c in p.get("status", {}).get("conditions", ()))
            for p in pods
        ]
        self.endpoints(name, ready, service)

    def endpoints(self, name: str, ready: list[bool], owner: Manifest | None = None) -> None:
        """The slice of a Service."""
        found = [{"addresses": [f"10.0.0.{n}"], "conditions": {"ready": one}} for n, one in enumerate(ready)]
        meta: Manifest = {"name": f"{name}-abc", "namespace": NAMESPACE, "labels": {SERVICE_NAME: name}}
        if owner is not None:
            meta["ownerReferences"] = [names.owner_reference(owner)]
        key = (ENDPOINT_SLICE, NAMESPACE, meta["name"])
        known = self.store.get(key)
        if known is None:
            kind = {"apiVersion": ENDPOINT_SLICE.api_version, "kind": "EndpointSlice", "addressType": "IPv4"}
            self._stored(ENDPOINT_SLICE, {**kind, "metadata": meta, "endpoints": found})
        elif known["endpoints"] != found:
            self._update(key, known, {**known, "endpoints": found})

    def _accept(self, route: Manifest) -> None:
        generation = route["metadata"]["generation"]
        conditions = [
            {"type": kind, "status": "True", "reason": "Accepted", "observedGeneration": generation}
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parents = [{"parentRef": GATEWAY, "controllerName": "example.com/gateway", "conditions": conditions}]
        self._update(key_of(HTTP_ROUTE, route), route, {**route, "status": {"parents": parents}})

    # --- deletion ---------------------------------------------------------------------------------------------------

    async def apply(self, manifest: Manifest, manager: str) -> Manifest:
        made = await super().apply(manifest, manager)
        there = self.store.get(key_of(ROLLOUT, manifest)) if manifest["kind"] == ROLLOUT.kind else None
        if there is not None and names.deleting(there) and not there["metadata"].get("finalizers"):
            self.remove(key_of(ROLLOUT, there))
        return made

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """By the operator, which must not take away what has traffic."""
        if kind in (DEPLOYMENT, SERVICE) and self.traffic().get(name):
            self.broken.append(f"{kind.kind} {name} is deleted, and the weights are {self.traffic()}")
        await super().delete(kind, namespace, name, uid)

    def remove(self, key: Key) -> None:
        """Delete in the background. What is held by a finalizer lingers; what has another owner that is there stays."""
        there = self.store[key]
        if there["metadata"].get("finalizers"):
            if not names.deleting(there):
                meta = {**there["metadata"], "deletionTimestamp": format_time(self.now)}
                self._put(key, {**there, "metadata": meta})
            return
        gone = self.store.pop(key)
        self.version += 1
        self._tell("remove", key[0], gone)
        uid = names.uid(gone)
        for child, manifest in list(self.store.items()):
            references = manifest["metadata"].get("ownerReferences") or []
            if child not in self.store or not any(r["uid"] == uid for r in references):
                continue
            alive = {names.uid(m) for m in self.store.values()}
            left = [r for r in references if r["uid"] in alive]
            if left:
                self._put(child, {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": left}})
            else:
                self.remove(child)

    # --- what must always hold --------------------------------------------------------------------------------------

    def traffic(self) -> dict[str, int]:
        """Per cent of each Service, by the route."""
        return {s: share for route in self.all(HTTP_ROUTE) for s, share in route_shares(route).items() if share}

    def _watch(self, what: str, kind: Kind, manifest: Manifest) -> None:
        now = self.traffic()
        if kind is HTTP_ROUTE and (not self.shares or self.shares[-1] != now):
            self.shares.append(now)
            if sum(now.values()) != 100:
                self.broken.append(f"weights are {now}")
        live = [r for r in self.all(ROLLOUT) if not r.get("status", {}).get("finishedAt") and not names.deleting(r)]
        contents = [r["spec"]["candidate"].get("contentHash") for r in live]
        if len(contents) != len(set(contents)):
            self.broken.append(f"two rollouts of one content: {contents}")


class Verdicts:
    """Verdicts as a test wants them."""

    def __init__(self, world: World, says: Callable[[StepAsked], str | None]) -> None:
        self.world, self.says = world, says

    def latest(self, step: StepAsked) -> Reading:
        outcome = self.says(step)
        if outcome is None:
            return Reading()
        summary = VerdictSummary.model_validate(
            {"outcome": outcome, "at": at(self.world.now), "message": "as scripted"}
        )
        return Reading(summary, ArmCounts(samples=400), ArmCounts(samples=400))

    def outage(self, arms: ArmsAsked) -> None:
        return None


class Rolling:
    """A synthesis whose winners are rolled out. `says` gives the verdicts, `spec` overrides fields of the synthesis."""

    def __init__(
        self,
        says: Callable[[StepAsked], str | None] = lambda _step: "pass",
        *,
        late: Callable[[Kind], bool] = lambda _kind: False,
        **spec: Any,
    ) -> None:
        """`late`: whether a watch holds an event of this kind back, until nothing else happens."""
        self.world = RollingWorld()
        self.late = late
        self.verdicts = Verdicts(self.world, says)
        self.world.add(target())
        self.world.add(synthesis(**{"budget": SHORT, "baseline": {"replicas": 2}, "rollout": POLICY, **spec}))
        self.process = self.started()

    def started(self) -> Process:
        """A new process of the operator, which knows nothing but what the cluster holds."""
        world = self.world
        process = Process(world, stale=self.late)
        applier = Applier(world, process.cache, world, now=lambda: world.now, random_hex=lambda: "5ea1" * 16)
        process.controller = Controller(
            process.cache, world, applier, world.settings, process.metrics, lambda: world.now, verdicts=self.verdicts
        )
        return process

    def run(self, until: Callable[[], bool] = lambda: False, *, looks: int = 4000, days: float = 0.0) -> None:
        """Let everybody work until it is so, or (with `days`) for that long. Killed processes are started again."""
        end = self.world.now + days * 86_400
        asyncio.run(self._run(until, looks, end if days else None))
        assert self.world.broken == []

    async def _run(self, until: Callable[[], bool], looks: int, end: float | None) -> None:
        for _ in range(looks):
            try:
                await self.process.work()
            except KilledError:
                self.process.stop()
                self.process = self.started()
                continue
            if until():
                return
            if self.world.tick() or self.process.keys:
                continue
            if self.process.held:
                self.process.catch_up()
                continue
            if end is not None and self.world.now >= end:
                return
            if not _advance(self.world, self.process):
                if end is None:
                    raise AssertionError(f"nothing will ever happen: {self.status}")
                return
        raise AssertionError(f"it does not come to that: {self.status}")

    # --- looking ----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        found = self.world.store.get((SYNTHESIS, NAMESPACE, "editor"))
        return {} if found is None else found.get("status", {})

    def phase(self, *phases: str) -> Callable[[], bool]:
        return lambda: self.status.get("phase") in phases

    def condition(self, kind: str) -> tuple[str, str] | None:
        found = next((c for c in self.status["conditions"] if c["type"] == kind), None)
        return None if found is None else (found["status"], found["reason"])

    @property
    def rollouts(self) -> list[Manifest]:
        return sorted(self.world.all(ROLLOUT), key=lambda r: names.number_of(names.name_of(r)))

    def weight(self, share: int) -> Callable[[], bool]:
        """Whether the newest rollout's candidate has this share."""
        return lambda: bool(self.rollouts) and self.world.traffic().get(self.candidate(), 0) == share

    def candidate(self, number: int = -1) -> str:
        return str(self.rollouts[number]["spec"]["candidate"]["service"])

    @property
    def baseline(self) -> str:
        return next(n for d in self.world.all(DEPLOYMENT) if "-baseline-" in (n := names.name_of(d)) and _serves(d))

    @property
    def stacks(self) -> list[str]:
        return [
            names.name_of(d) for d in self.world.all(DEPLOYMENT) if names.label(d, names.ROLE_LABEL) == "rollout-stack"
        ]

    def replicas(self, name: str) -> int:
        return int(self.world.one(DEPLOYMENT, name)["spec"]["replicas"])

    # --- what humans do ---------------------------------------------------------------------------------------------

    def edit(self, **spec: Any) -> None:
        self.world.edit(SYNTHESIS, "editor", lambda m: m["spec"].update(spec))

    def control(self, number: int = -1, **wishes: bool) -> None:
        name = names.name_of(self.rollouts[number])
        self.world.edit(ROLLOUT, name, lambda m: m["spec"].setdefault("control", {}).update(wishes))

    def delete(self, kind: Kind, name: str) -> None:
        self.world.remove((kind, NAMESPACE, name))


def _serves(manifest: Manifest) -> bool:
    return names.label(manifest, names.ROLE_LABEL) == "serving-baseline"
