"""An abstract world around one rollout, and a search through everything that can happen in it.

The world is a cluster (arms, a Deployment that the rollout may scale, a probe, an API server that checks resource
versions), a gateway (takes the route late, or refuses it), a human (control, another policy, edits of the route, deletion),
a source of verdicts, and a clock. The operator is the real `decide_rollout` on real manifests. It looks, and its writes land
one after the other; anything may happen between two of them, and it may be killed before any of them. It has no memory, so a
restart is a look.

Two states are one when nothing that a decision or an invariant looks at tells them apart: times count by their age only.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from sartor_api.base import API_VERSION
from sartor_api.meta import ObjectMeta
from sartor_api.serving_rollout import (
    RolloutControl,
    RolloutPhase,
    ServingRollout,
    ServingRolloutSpec,
    ServingRolloutStatus,
    VerdictSummary,
)
from sartor_operator.actions import Action, Apply, Decision, Delete, StatusOf, Tell
from sartor_operator.kinds import Manifest
from sartor_operator.rollout import decide as decide_module
from sartor_operator.rollout import invariants
from sartor_operator.rollout.observed import (
    FULL_ANNOTATION,
    ArmSeen,
    DeploymentSeen,
    ProbeSeen,
    RolloutObserved,
    Successor,
)
from sartor_operator.rollout.outage import with_outage
from sartor_operator.rollout.position import position_of
from sartor_operator.rollout.route import RouteSeen, Weights, read_route, read_weights, route_name
from sartor_operator.rollout.samples import ArmCounts, Outage, Reading
from sartor_operator.times import at

START = 1_800_000_000
NAMESPACE, UID = "team-a", "uid-rollout"
SIZE = 2
"""Replicas of each arm."""
CLIP = 400
"""Seconds beyond which every age is the same: no bound of the policy below is longer."""

POLICY: dict[str, Any] = {
    "parentRefs": [{"name": "inference", "namespace": "gateways"}],
    "steps": [{"mirror": 10, "hold": "60s"}, {"weight": 20, "hold": "30s"}, {"weight": 60, "hold": "60s"}],
    "analysis": {"inconclusiveAfter": "240s"},
    "freeze": {"for": "120s", "then": "rollBack"},
    "drainTimeout": "30s",
    "progressDeadline": "300s",
    "baselineAfterPromotion": {"replicas": 1, "scaleDownAfter": "60s"},
}


@lru_cache(maxsize=4096)
def spec_of(policy: str, control: RolloutControl) -> ServingRolloutSpec:
    """A spec of `POLICIES` with what a human asks."""
    return ServingRolloutSpec.model_validate(
        {
            "baseline": {"service": "vllm", "deployment": "vllm"},
            "candidate": {"service": "stack", "deployment": "stack", "contentHash": "sha256:" + "a" * 64},
            "policy": POLICIES[policy],
            "control": control.model_dump(by_alias=True, exclude_none=True),
        }
    )


POLICIES: dict[str, dict[str, Any]] = {
    "plain": POLICY,
    "short": {**POLICY, "hostnames": ["editor.example.com"], "steps": [{"weight": 10, "hold": "60s"}]},
    "copied": {**POLICY, "analysis": {**POLICY["analysis"], "sources": ["gatewayAccessLog"]}},
    "stops": {
        **POLICY,
        "analysis": {**POLICY["analysis"], "sources": ["gatewayAccessLog"]},
        "steps": [{"headerOptIn": True, "hold": "60s"}, {"weight": 50, "hold": "60s"}, {"pause": {}}],
        "freeze": {"for": "120s", "then": "hold"},
        "promotion": "manual",
    },
}


NO_WISH, NO_STATUS = RolloutControl(), ServingRolloutStatus()


@dataclass(frozen=True)
class World:
    """Everything that there is. `route` is the HTTPRoute as stored; `queue` the writes of a look that have yet to land."""

    now: int = START
    policy: str = "plain"
    control: RolloutControl = NO_WISH
    status: ServingRolloutStatus = NO_STATUS
    version: int = 1
    finalizer: bool = False
    deleting: int | None = None
    gone: bool = False
    route: Manifest | None = field(default=None, compare=False)
    gateway: str = "pending"
    baseline: int = SIZE
    candidate: int = SIZE
    replicas: int = SIZE
    full: int | None = None
    outage: Literal["", "baseline", "candidate"] = ""
    """The arm that the gateway cannot connect to, as its records say."""
    probe: int | None = None
    """Ready endpoints of the probe; None where it does not exist."""
    verdict: tuple[str, int] | None = None
    rejected: bool = False
    successor: Successor | None = None
    edits: int = 0
    put_back: tuple[int, ...] = ()
    queue: tuple[Any, ...] = field(default=(), compare=False)
    seen: RolloutObserved | None = field(default=None, compare=False)
    seen_version: int = 0
    seen_at: int = START
    disturbed: bool = False

    def key(self) -> tuple[Any, ...]:
        """What tells this state apart from others."""
        now = self.now
        happening: Any = None
        if self.queue:
            writes = tuple(_write_key(write, now) for write in self.queue)
            happening = (
                writes,
                self.disturbed,
                self.version != self.seen_version,
                _seen_key(self.seen, now),
                now - self.seen_at,
            )
        return (
            self.policy, self.control, _status_key(self.status, now), self.finalizer, _age(self.deleting, now), self.gone,
            _route_key(self.route), self.gateway, self.baseline, self.candidate, self.replicas, self.full, self.probe,
            self.outage,
            None if self.verdict is None else (self.verdict[0], _age(self.verdict[1], now)), self.rejected,
            self.successor, self.edits, tuple(_age(t, now) for t in self.put_back[-1:]), happening,
        )  # fmt: skip


def _age(moment: int | float | datetime | None, now: int) -> int | None:
    if moment is None:
        return None
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    return int(max(-CLIP, min(CLIP, now - seconds)))


def _status_key(status: ServingRolloutStatus, now: int) -> tuple[Any, ...]:
    return (
        status.phase, status.step, _age(status.step_started_at, now), _age(status.frozen_since, now),
        _age(status.promoted_at, now), status.finished_at is not None, status.baseline.wanted_weight,
        status.candidate.wanted_weight, status.candidate.weight,
        tuple((c.type, c.status, c.reason, _age(c.last_transition_time, now)) for c in status.conditions),
    )  # fmt: skip


def _seen_key(seen: RolloutObserved | None, now: int) -> Any:
    """What the invariants look at of what the operator had seen."""
    if seen is None:
        return None
    route, verdict, probe = seen.route, seen.reading.verdict, seen.probe
    return (
        seen.baseline, seen.candidate, seen.outage, seen.spec.control, seen.policy.hostnames, seen.deleting_since,
        _status_key(seen.before, now),
        None if probe is None else (probe.wanted, probe.ready),
        None if route is None else (route.weights, route.acceptance, route.touched, route.mine),
        None if verdict is None else (verdict.outcome, _age(verdict.at, now)),
    )  # fmt: skip


def _route_key(route: Manifest | None) -> Any:
    return None if route is None else route["key"]


def _write_key(write: Any, now: int) -> Any:
    if isinstance(write, Delete):
        return "delete", write.name
    if isinstance(write, StatusOf):
        assert isinstance(write.status, ServingRolloutStatus)
        return "status", _status_key(write.status, now)
    return write.manager, repr(write.manifest.get("spec")), repr(write.manifest["metadata"].get("finalizers"))


# --- what the operator sees -----------------------------------------------------------------------------------------


def observe(world: World) -> RolloutObserved:
    """The world as the operator's `observe` tells it."""
    spec = spec_of(world.policy, world.control)
    manifest = manifest_of(world)
    deployment = DeploymentSeen("vllm", "uid-vllm", world.replicas, world.full)
    started = world.status.step_started_at
    reading = Reading()
    if started is not None and world.status.phase in (
        RolloutPhase.PROGRESSING,
        RolloutPhase.PAUSED,
        RolloutPhase.FROZEN,
    ):
        counts = ArmCounts(samples=10)
        if world.verdict is not None:
            outcome, moment = world.verdict
            summary = VerdictSummary.model_validate({"outcome": outcome, "at": at(moment), "message": outcome})
            reading = Reading(summary, counts, counts)
    observed = RolloutObserved(
        rollout=ServingRollout(metadata=ObjectMeta(name="editor"), spec=spec),
        manifest=manifest,
        before=world.status,
        wanted_name=route_name(spec.policy, NAMESPACE),
        route=None if world.route is None else _route_seen(world, manifest, spec),
        baseline=ArmSeen(ready=world.baseline, deployment=deployment),
        candidate=ArmSeen(ready=world.candidate, deployment=DeploymentSeen("stack", "uid-stack", SIZE)),
        probe=_probe_seen(world, spec),
        reading=reading,
        rejected_by="other" if world.rejected else "",
        successor=world.successor,
    )
    return with_outage(observed, Outage(world.outage, "the test says so") if world.outage else None)


PROBE: Manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "probe-editor", "namespace": NAMESPACE, "uid": "uid-probe"},
    "spec": {"replicas": 1},
}


def _probe_seen(world: World, spec: ServingRolloutSpec) -> ProbeSeen | None:
    wanted, there = "probe" in spec.policy.analysis.sources, () if world.probe is None else (PROBE,)
    if not (wanted or there):
        return None
    return ProbeSeen("probe-editor", wanted, world.probe or 0, there=there, manifests=(PROBE,))


def _route_seen(world: World, manifest: Manifest, spec: ServingRolloutSpec) -> RouteSeen:
    return read_route(_with_gateway(world), manifest, spec, begun=position_of(world.status).step is not None)


def manifest_of(world: World) -> Manifest:
    meta: dict[str, Any] = {"name": "editor", "namespace": NAMESPACE, "uid": UID, "generation": 1}
    meta["resourceVersion"] = str(world.version)
    if world.finalizer:
        meta["finalizers"] = [decide_module.FINALIZER]
    if world.deleting is not None:
        meta["deletionTimestamp"] = at(world.deleting).isoformat()
    return {"apiVersion": API_VERSION, "kind": "ServingRollout", "metadata": meta, "spec": {}}


def _with_gateway(world: World) -> Manifest:
    """The route with the status that its Gateway gives it."""
    assert world.route is not None
    if world.gateway == "pending":
        return world.route
    generation = world.route["metadata"]["generation"]
    status = "True" if world.gateway == "accepted" else "False"
    conditions = [
        {"type": kind, "status": status, "observedGeneration": generation, "reason": "Test"}
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"parentRef": {"name": "inference", "namespace": "gateways"}, "conditions": conditions}
    return {**world.route, "status": {"parents": [parent]}}


# --- writes ---------------------------------------------------------------------------------------------------------


class ViolationError(AssertionError):
    """An invariant does not hold; the text has the shortest way there."""


Broken = list[str]


def look(world: World) -> World:
    """The operator looks; its writes wait to land."""
    seen = observe(world)
    decision: Decision = decide_module.decide_rollout(seen, float(world.now))
    writes = [a for a in decision.actions if not isinstance(a, Tell)]
    statuses = [s for s in decision.statuses if _says_more(world.status, s)]
    return replace(
        world,
        queue=(*writes, *statuses, *decision.afterwards),
        seen=seen,
        seen_version=world.version,
        seen_at=world.now,
        disturbed=False,
    )


def _says_more(before: ServingRolloutStatus, wanted: StatusOf) -> bool:
    return wanted.status != before


def land(world: World) -> tuple[World, Broken]:
    """The next write reaches the API server."""
    write, *rest = world.queue
    seen = world.seen
    assert seen is not None
    after = replace(world, queue=tuple(rest))
    match write:
        case StatusOf(status=ServingRolloutStatus() as status):
            broken = invariants.broken_status(seen, status, world.seen_at)
            after = replace(after, status=status, version=world.version + 1, seen_version=world.seen_version + 1)
        case Apply(manifest, "sartor-rollout"):
            after, broken = _route_lands(after, seen, manifest)
        case Apply(manifest, "sartor-rollout-scale"):
            replicas = int(manifest["spec"]["replicas"])
            broken = invariants.broken_scaling(seen, replicas, world.seen_at)
            full = manifest["metadata"].get("annotations", {}).get(FULL_ANNOTATION)
            # Endpoints follow later: "the baseline has one replica".
            after = replace(after, replicas=replicas, full=None if full is None else int(full))
        case Apply(manifest, "sartor-rollout-finalizer"):
            present = bool(manifest["metadata"]["finalizers"])
            broken = [] if present else invariants.broken_farewell(seen, world.seen_at)
            gone = not present and world.deleting is not None
            after = replace(
                after, finalizer=present, gone=gone, version=world.version + 1, seen_version=world.seen_version + 1
            )
        case Apply(_, "sartor-rollout-probe"):
            broken = []
            after = replace(after, probe=world.probe or 0)
        case Delete(name=name):
            broken = invariants.broken_probe_end(name, [] if world.route is None else copies_of(world.route["spec"]))
            after = replace(after, probe=None)
        case _:
            raise AssertionError(f"an unknown write: {write}")
    if not after.queue and not after.disturbed and not after.gone:
        broken = [*broken, *_at_rest(after)]
    return after, broken


def _at_rest(world: World) -> Broken:
    """What must hold when a look has done all that it wanted to."""
    assert world.seen is not None
    weights = None if world.route is None else read_weights(world.route["spec"], spec_of(world.policy, world.control))
    return invariants.broken_end(world.seen, weights)


def _route_lands(world: World, seen: RolloutObserved, manifest: Manifest) -> tuple[World, Broken]:
    spec = manifest["spec"]
    rules = [r for r in spec["rules"] if not any(m.get("headers") for m in r["matches"])]
    total = sum(b["weight"] for b in rules[0]["backendRefs"])
    weights = read_weights(spec, seen.spec)
    broken = invariants.broken_weights(total, weights)
    if weights is not None:
        broken += invariants.broken_route(seen, weights, world.seen_at)
    broken += invariants.broken_copies(seen, copies_of(spec))
    put_back = world.put_back
    there = seen.route
    if there is not None and there.touched and there.weights is not None and not _urgent(seen, there.weights):
        put_back = (*put_back, world.seen_at)[-2:]
        broken += invariants.broken_fight(list(put_back), decide_module.QUIET_SECONDS)
    old = world.route
    same = old is not None and old["spec"] == spec
    generation = 1 if old is None else old["metadata"]["generation"] + (0 if same else 1)
    stored = keyed({**manifest, "metadata": {**manifest["metadata"], "uid": "uid-route", "generation": generation}})
    return replace(world, route=stored, gateway=world.gateway if same else "pending", put_back=put_back), broken


def copies_of(route: Manifest) -> list[str]:
    """Services that get copies of requests."""
    filters = [one for rule in route["rules"] for one in rule.get("filters", ())]
    return [one["requestMirror"]["backendRef"]["name"] for one in filters]


def keyed(route: Manifest) -> Manifest:
    """A route with the text that tells it apart, made once instead of with every state that has it."""
    return {**route, "key": repr((route["spec"], sorted(route["metadata"]["annotations"].items())))}


def _urgent(seen: RolloutObserved, weights: Weights) -> bool:
    back = seen.before.phase in (RolloutPhase.ROLLING_BACK, RolloutPhase.ROLLED_BACK) or seen.deleting_since is not None
    control = seen.spec.control
    back = back or control.abort or control.undo
    return back or (not seen.baseline.alive and weights.baseline > 0) or (weights.candidate > seen.candidate.share)


# --- what can happen ------------------------------------------------------------------------------------------------

Event = Callable[[World], World | None]
"""What happens to a world; None where it cannot, or changes nothing."""


def _disturbs(event: Event) -> Event:
    """The event comes between a look and its last write: what was decided may be late, and is judged by what was known."""

    def happens(world: World) -> World | None:
        after = event(world)
        return None if after is None else replace(after, disturbed=True)

    return happens


def _arm(name: str, ready: int) -> Event:
    def happens(world: World) -> World | None:
        most = world.replicas if name == "baseline" else SIZE
        if getattr(world, name) == ready or ready > most:
            return None
        return replace(world, **{name: ready})

    return happens


def _outage(arm: Literal["", "baseline", "candidate"]) -> Event:
    return lambda world: None if world.outage == arm else replace(world, outage=arm)


def _probe(ready: int | None) -> Event:
    def happens(world: World) -> World | None:
        return None if world.probe is None or world.probe == ready else replace(world, probe=ready)

    return happens


def _beyond(policy: str, control: RolloutControl) -> bool:
    return (control.skip_to_step or 0) > len(POLICIES[policy]["steps"])


def _control(**wishes: Any) -> Event:
    def happens(world: World) -> World | None:
        if world.gone or all(getattr(world.control, k) == v for k, v in wishes.items()):
            return None
        merged = world.control.model_copy(update=wishes)
        if (merged.promote and (merged.abort or merged.undo)) or _beyond(world.policy, merged):
            return None  # the API server refuses it
        return replace(world, control=merged, version=world.version + 1)

    return happens


def _verdict(outcome: str | None) -> Event:
    def happens(world: World) -> World | None:
        if world.status.step_started_at is None:
            return None
        found = None if outcome is None else (outcome, world.now)
        return None if world.verdict == found else replace(world, verdict=found)

    return happens


def _gateway(says: str) -> Event:
    def happens(world: World) -> World | None:
        return None if world.route is None or world.gateway == says else replace(world, gateway=says)

    return happens


def _clock(seconds: int) -> Event:
    return lambda world: replace(world, now=world.now + seconds)


def _edit(candidate: int) -> Event:
    def happens(world: World) -> World | None:
        if world.route is None or world.edits >= 3:
            return None
        edited = copy.deepcopy(world.route)
        rule = next(r for r in edited["spec"]["rules"] if not any(m.get("headers") for m in r["matches"]))
        ours = {b["name"]: b for b in rule["backendRefs"]}
        weights = {"vllm": 100 - candidate, "stack": candidate}
        rule["backendRefs"] = [{**ours.get(n, {"group": "", "kind": "Service", "name": n, "port": 8000}), "weight": w}
                               for n, w in weights.items()]  # fmt: skip
        if edited["spec"] == world.route["spec"]:
            return None
        edited["metadata"]["generation"] += 1
        return replace(world, route=keyed(edited), gateway="pending", edits=world.edits + 1)

    return happens


def _route_stripped(world: World) -> World | None:
    """Our annotations go: a tool replaced the object by one of its own."""
    if world.route is None or world.edits >= 3 or not world.route["metadata"]["annotations"]:
        return None
    bare = {**world.route, "metadata": {**world.route["metadata"], "annotations": {}}}
    return replace(world, route=keyed(bare), edits=world.edits + 1)


def _policy(name: str) -> Event:
    def happens(world: World) -> World | None:
        if world.policy == name or _beyond(name, world.control):
            return None
        return replace(world, policy=name, version=world.version + 1)

    return happens


def _route_deleted(world: World) -> World | None:
    return (
        None
        if world.route is None or world.edits >= 3
        else replace(world, route=None, gateway="pending", edits=world.edits + 1)
    )


def _deleted(world: World) -> World | None:
    if world.deleting is not None:
        return None
    if not world.finalizer:
        return replace(world, gone=True)
    return replace(world, deleting=world.now, version=world.version + 1)


def _replaced(world: World) -> World | None:
    return None if world.successor is not None else replace(world, successor=Successor("newer", replaces=True))


def _taken_over(world: World) -> World | None:
    return None if world.successor is not None else replace(world, successor=Successor("newer", takes_over=True))


EVENTS: dict[str, Event] = {
    "the candidate loses all replicas": _arm("candidate", 0),
    "the candidate has one replica": _arm("candidate", 1),
    "the candidate is ready": _arm("candidate", SIZE),
    "the baseline loses all replicas": _arm("baseline", 0),
    "the baseline has one replica": _arm("baseline", 1),
    "the baseline is ready": _arm("baseline", SIZE),
    "the gateway cannot connect to the candidate": _outage("candidate"),
    "the gateway cannot connect to the baseline": _outage("baseline"),
    "the gateway connects to both": _outage(""),
    "the probe is ready": _probe(1),
    "the probe is not ready": _probe(0),
    "a human deletes the probe": _probe(None),
    "the gateway accepts": _gateway("accepted"),
    "the gateway refuses": _gateway("refused"),
    "a verdict passes": _verdict("pass"),
    "a verdict fails": _verdict("fail"),
    "a verdict is inconclusive": _verdict("inconclusive"),
    "a verdict is an error": _verdict("error"),
    "the verdicts vanish": _verdict(None),
    "a human pauses": _control(pause=True),
    "a human resumes": _control(pause=False),
    "a human promotes": _control(promote=True),
    "a human aborts": _control(abort=True, promote=False),
    "a human takes the abort back": _control(abort=False),
    "a human undoes": _control(undo=True, promote=False),
    "a human skips to step 3": _control(skip_to_step=3),
    "a human edits the route: 90 %": _edit(90),
    "a human edits the route: nothing": _edit(0),
    "a human deletes the route": _route_deleted,
    "a tool replaces the route": _route_stripped,
    "a human shortens the steps": _policy("short"),
    "a human deletes the rollout": _deleted,
    "a newer rollout replaces it": _replaced,
    "a newer rollout goes on from here": _taken_over,
    "16 s pass": _clock(16),
    "61 s pass": _clock(61),
    "130 s pass": _clock(130),
    "the clock goes back 100 s": _clock(-100),
}


@dataclass(frozen=True)
class Step:
    """One thing that happened, what became of the world, and what it broke."""

    what: str
    world: World
    broken: tuple[str, ...] = ()


def successors(world: World, *, whole: bool = False) -> Iterator[Step]:
    """Everything that can happen next. `whole`: nothing comes between a look and its writes, and together they are one."""
    if world.gone:
        return
    if whole:
        after, broken = _whole(world)
        if after is not world or broken:
            yield Step("the operator looks and writes", after, tuple(broken))
    elif world.queue:
        after, broken = land(world)
        yield Step(f"write: {words(world.queue[0])}", after, tuple(broken))
        if isinstance(world.queue[0], StatusOf) and world.version != world.seen_version:
            yield Step("the API server refuses the status (409)", replace(world, queue=(), seen=None))
        yield Step("the operator is killed", replace(world, queue=(), seen=None))
    else:
        after = look(world)
        broken = [] if after.queue else _at_rest(after)
        if after.queue or broken:
            yield Step("the operator looks", after, tuple(broken))
    for what, event in EVENTS.items():
        changed = _disturbs(event)(world) if world.queue else event(world)
        if changed is not None:
            yield Step(what, changed)


def _whole(world: World) -> tuple[World, Broken]:
    after = look(world)
    if not after.queue:
        return world, _at_rest(after)
    while after.queue:
        after, broken = land(after)
        if broken:
            return after, broken
    return replace(after, seen=None), []


def words(write: Action | StatusOf) -> str:
    if isinstance(write, StatusOf):
        status: Any = write.status
        return f"status {status.phase} step {status.step} ({status.message})"
    if isinstance(write, Delete):
        return f"delete {write.name}"
    assert isinstance(write, Apply)
    if write.manager == "sartor-rollout":
        rule = write.manifest["spec"]["rules"][0]
        return "route " + "/".join(str(b["weight"]) for b in rule["backendRefs"])
    return f"{write.manager} {write.manifest.get('spec') or write.manifest['metadata'].get('finalizers')}"


@dataclass(frozen=True)
class Explored:
    """How far it went."""

    states: int
    transitions: int
    depth: int


def explore(start: World, depth: int, *, whole: bool = False, most: int = 2_000_000) -> Explored:
    """Breadth first to `depth` happenings. Raises `ViolationError` with the shortest trace from `start`."""
    parents: dict[Any, tuple[Any, str]] = {start.key(): (None, "")}
    border: deque[tuple[World, Any, int]] = deque([(start, start.key(), 0)])
    transitions = 0
    while border:
        world, key, far = border.popleft()
        if far == depth:
            continue
        for step in successors(world, whole=whole):
            transitions += 1
            if step.broken:
                raise ViolationError(trace(parents, key, step))
            new = step.world.key()
            if new not in parents:
                parents[new] = (key, step.what)
                border.append((step.world, new, far + 1))
                if len(parents) > most:
                    raise AssertionError(f"more than {most} states; lower the depth")
    return Explored(len(parents), transitions, depth)


def trace(parents: dict[Any, tuple[Any, str]], key: Any, last: Step) -> str:
    """The way to a violation, one thing a line."""
    way = [last.what]
    while key is not None:
        key, what = parents[key]
        if what:
            way.append(what)
    lines = [f"{number:3}. {what}" for number, what in enumerate(reversed(way), start=1)]
    return "\n".join([*lines, *(f"     BROKEN: {sentence}" for sentence in last.broken)])


# --- straight ways to places worth exploring from -------------------------------------------------------------------


def rest(world: World, looks: int = 30) -> World:
    """Let the operator work undisturbed, and the gateway accept, until nothing changes. Raises `ViolationError`."""
    for _ in range(looks):
        after = look(world)
        if not after.queue and (world.route is None or world.gateway == "accepted"):
            return world
        while after.queue:
            what = words(after.queue[0])
            after, broken = land(after)
            if broken:
                raise ViolationError(f"{what}: {broken}")
        world = replace(after, seen=None, gateway="accepted" if after.route is not None else "pending")
    raise AssertionError(f"the operator never comes to rest: {world.status.message}")


def after(world: World, *happenings: str) -> World:
    """What becomes of a world when these things happen, each followed by rest."""
    world = rest(world)
    for what in happenings:
        changed = EVENTS[what](world)
        world = rest(world if changed is None else changed)
    return world


def begun(policy: str = "plain") -> World:
    """At the first step, which has begun."""
    return after(World(policy=policy), "the probe is ready", "16 s pass", "16 s pass")


PASS = ("61 s pass", "a verdict passes")


def seeds() -> dict[str, World]:
    """Places from which everything is explored."""
    one = begun()
    two = after(one, *PASS)
    three = after(two, *PASS)
    promoted = after(three, *PASS)
    small = after(promoted, "61 s pass", "16 s pass", "the baseline has one replica")
    found = {
        "nothing": World(),
        "about to begin": rest(World()),
        "step 2 recorded": recorded(one),
        "promotion recorded": recorded(three),
        "put back": after(two, "16 s pass", "a human edits the route: 90 %"),
        "rejected content": World(rejected=True),
        "mirror": one,
        "mirror, the probe away": after(one, "the probe is not ready"),
        "mirror without a probe": begun("copied"),
        "weight 20": two,
        "weight 60": three,
        "frozen": after(two, "16 s pass", "a verdict is an error"),
        "candidate lost": after(two, "the candidate loses all replicas"),
        "candidate unreachable": after(two, "the gateway cannot connect to the candidate"),
        "baseline unreachable": after(two, "the gateway cannot connect to the baseline"),
        "paused": after(two, "a human pauses"),
        "promoted": promoted,
        "baseline at its floor": small,
        "undone": _first_write(small, "a human undoes"),
        "failed": _first_write(after(three, "16 s pass"), "a verdict fails"),
        "deleted": replace(two, deleting=two.now),
        "opt-in": begun("stops"),
        "waits for a human": after(begun("stops"), *PASS, *PASS),
    }
    assert found["weight 20"].status.candidate.weight == 20 and found["weight 60"].status.candidate.weight == 60
    assert found["promoted"].status.phase is RolloutPhase.PROMOTED and small.replicas == 1
    return found


def recorded(at_step: World) -> World:
    """Its step passed, and the status says so; the route does not yet."""
    return _first_write(rest(replace(at_step, now=at_step.now + 61)), "a verdict passes")


def _first_write(world: World, what: str) -> World:
    """Right after the first write that an event leads to."""
    changed = EVENTS[what](world)
    assert changed is not None
    looked = look(changed)
    landed, broken = land(looked)
    assert not broken, broken
    return replace(landed, queue=(), seen=None)
