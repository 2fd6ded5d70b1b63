"""The in-memory cluster of the operator's tests with what a rollout needs: endpoints, a gateway, verdicts."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sartor_api.serving_rollout import VerdictSummary
from sartor_operator import names
from sartor_operator.apply import Applier
from sartor_operator.cache import key_of
from sartor_operator.controller import Controller
from sartor_operator.kinds import DEPLOYMENT, ENDPOINT_SLICE, HTTP_ROUTE, ROLLOUT, SERVICE, Manifest
from sartor_operator.rollout.index import SERVICE_NAME
from sartor_operator.rollout.samples import ArmCounts, ArmsAsked, Outage, Reading, StepAsked
from sartor_operator.times import at

sys.path.insert(0, str(Path(__file__).parents[1]))

from operator_world import NAMESPACE, KilledError, Process, World, service

GATEWAY = {"name": "inference", "namespace": "gateways"}
POLICY: dict[str, Any] = {
    "parentRefs": [GATEWAY],
    "hostnames": ["editor.example.com"],
    "steps": [{"mirror": 10, "hold": "20s"}, {"weight": 20, "hold": "20s"}, {"weight": 50, "hold": "20s"}],
    "baselineAfterPromotion": {"replicas": 1, "scaleDownAfter": "10m"},
    "drainTimeout": "30s",
}


def rollout(name: str = "editor", *, policy: dict[str, Any] | None = None, **spec: Any) -> Manifest:
    """A ServingRollout as a user applies it."""
    wanted = {
        "baseline": {"service": "vllm", "deployment": "vllm"},
        "candidate": {"service": "stack", "deployment": "stack", "contentHash": "sha256:" + "a" * 64},
        "policy": {**POLICY, **(policy or {})},
    }
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": ROLLOUT.api_version, "kind": "ServingRollout", "metadata": meta, "spec": {**wanted, **spec}}


def deployment(name: str, replicas: int = 3) -> Manifest:
    meta = {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {}}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def endpoints(service: str, ready: int, total: int | None = None) -> Manifest:
    many = total if total is not None else ready
    found = [{"addresses": [f"10.0.0.{n}"], "conditions": {"ready": n < ready}} for n in range(many)]
    meta = {"name": f"{service}-abc", "namespace": NAMESPACE, "labels": {SERVICE_NAME: service}}
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": found,
    }


class Script:
    """Verdicts as the test wants them: `says` gets the step that is asked for."""

    def __init__(self, world: World, says: Callable[[StepAsked], str | None]) -> None:
        self.world = world
        self.says = says
        self.asked: list[StepAsked] = []
        self.out: Outage | None = None

    def latest(self, step: StepAsked) -> Reading:
        self.asked.append(step)
        outcome = self.says(step)
        counts = ArmCounts(samples=400, errors=1)
        if outcome is None:
            return Reading()
        summary = VerdictSummary.model_validate(
            {"outcome": outcome, "at": at(self.world.now), "message": f"it is a {outcome}"}
        )
        return Reading(summary, counts, counts)

    def outage(self, arms: ArmsAsked) -> Outage | None:
        return self.out


class Cluster:
    """One world with two arms of three replicas; `ready` overrides how many of a Deployment's replicas are."""

    def __init__(self, says: Callable[[StepAsked], str | None] = lambda _step: "pass", **spec: Any) -> None:
        self.world = World(candidate=lambda _pod: "ready")
        self.script = Script(self.world, says)
        self.ready: dict[str, int] = {}
        self.refuses = ""
        self.shares: list[tuple[int, int]] = []
        self.gateway_api = True
        for name in ("vllm", "stack"):
            self.world.add(deployment(name))
            self.world.add(service(name))
            self.world.add(endpoints(name, 3))
        self.world.add(rollout(**spec))
        self.process = self.started()

    def started(self) -> Process:
        """A new process of the operator, which knows nothing but what the cluster holds."""
        process = Process(self.world)
        applier = Applier(self.world, process.cache, self.world, now=lambda: self.world.now)
        process.controller = Controller(
            process.cache, self.world, applier, self.world.settings, process.metrics, lambda: self.world.now,
            verdicts=self.script, gateway_api=lambda: self.gateway_api,
        )  # fmt: skip
        return process

    @property
    def status(self) -> dict[str, Any]:
        return self.world.one(ROLLOUT, "editor").get("status", {})

    @property
    def route(self) -> Manifest:
        return self.world.one(HTTP_ROUTE)

    def weights(self) -> tuple[int, int]:
        """Baseline and candidate, as the route has them."""
        rule = self.route["spec"]["rules"][0]
        share = {b["name"]: b["weight"] for b in rule["backendRefs"]}
        return share.get("vllm", 0), share.get("stack", 0)

    def replicas(self, name: str = "vllm") -> int:
        return int(self.world.one(DEPLOYMENT, name)["spec"]["replicas"])

    def control(self, **wishes: Any) -> None:
        self.world.edit(ROLLOUT, "editor", lambda m: m["spec"].setdefault("control", {}).update(wishes))

    def react(self) -> bool:
        """The gateway takes the route, and endpoints follow replicas. Returns whether anything changed."""
        before = self.world.version
        for route in self.world.all(HTTP_ROUTE):
            generation = route["metadata"]["generation"]
            reason = self.refuses or "Accepted"
            conditions = [
                {
                    "type": kind,
                    "status": "False" if self.refuses else "True",
                    "reason": reason,
                    "observedGeneration": generation,
                }
                for kind in ("Accepted", "ResolvedRefs")
            ]
            parents = [{"parentRef": GATEWAY, "controllerName": "example.com/gateway", "conditions": conditions}]
            key = key_of(HTTP_ROUTE, route)
            self.world._update(key, route, {**route, "status": {"parents": parents}})
            shares = self.weights()
            if not self.shares or self.shares[-1] != shares:
                self.shares.append(shares)
        for name in ("vllm", "stack"):
            many = self.replicas(name)
            key = (ENDPOINT_SLICE, NAMESPACE, f"{name}-abc")
            wanted = endpoints(name, min(many, self.ready.get(name, many)), many)["endpoints"]
            self.world._update(key, self.world.store[key], {**self.world.store[key], "endpoints": wanted})
        # The probe's; `ready` says whether it is, by the name `probe`.
        probes = [names.name_of(s) for s in self.world.all(SERVICE) if names.label(s, names.PROBE_LABEL)]
        for name in probes:
            key = (ENDPOINT_SLICE, NAMESPACE, f"{name}-abc")
            wanted = endpoints(name, self.ready.get("probe", 1), 1)
            wanted["metadata"]["labels"][names.PROBE_LABEL] = name
            if key not in self.world.store:
                self.world.add(wanted)
            self.world._update(key, self.world.store[key], {**self.world.store[key], "endpoints": wanted["endpoints"]})
        for key in [k for k in self.world.store if k[0] is ENDPOINT_SLICE and k[2].startswith("probe-")]:
            if (SERVICE, NAMESPACE, key[2].removesuffix("-abc")) not in self.world.store:
                self.world.remove(key)
        return self.world.version != before

    def run(self, until: Callable[[], bool], *, looks: int = 600) -> None:
        """Let everybody work until it is so. Killed processes are started again."""
        asyncio.run(self._run(until, looks))

    async def _run(self, until: Callable[[], bool], looks: int) -> None:
        for _ in range(looks):
            try:
                await self.process.work()
            except KilledError:
                self.process.stop()
                self.world.now += 3.0  # until another one works
                self.process = self.started()
                continue
            if until():
                return
            if self.react() or self.process.keys:
                continue
            ahead = sorted(self.process.wakes.values())
            assert ahead, f"nothing will ever happen: {self.status}"
            self.world.now = max(self.world.now, ahead[0])
            self.process.wake()
        raise AssertionError(f"it does not come to that: {self.status}")

    def phase(self, *phases: str) -> Callable[[], bool]:
        return lambda: self.status.get("phase") in phases
