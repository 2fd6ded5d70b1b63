"""A cluster for the operator's core: an API server in memory, its controllers and kubelets, virtual time, a process to kill.

The store behaves where it matters to the operator: resource versions, uids, generations, names that are taken, uid
preconditions, conflicts, immutable ConfigMaps, garbage collection by owner. Every write is counted, and the process can be
killed after any of them: `KilledError` comes out of the very call, and a new process begins with an empty cache.
"""

import asyncio
import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sartor_api.search.records import (
    BaselineRecord,
    GridPoint,
    Implementation,
    Judgement,
    Measurement,
    Plan,
    Speedup,
    StepKind,
    StepResult,
    Verdict,
)
from sartor_operator import names
from sartor_operator.apply import Applier
from sartor_operator.books import Books, NoBooks
from sartor_operator.cache import Cache, Key, key_of, version
from sartor_operator.controller import Controller, keys_for
from sartor_operator.errors import AlreadyExistsError, ConflictError, NotFoundError, TransientError
from sartor_operator.kinds import (
    BY_NAME,
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    JOB,
    LOOKED_AT,
    POD,
    PROFILE,
    RUN,
    SYNTHESIS,
    Kind,
    Manifest,
    kind_of,
)
from sartor_operator.metrics import Metrics
from sartor_operator.pods.jobs import STEP_KEY
from sartor_operator.pods.unpack import content_hash
from sartor_operator.settings import Settings
from sartor_operator.stacks import CommitMissingError
from sartor_operator.times import format_time, parse_time
from sartor_operator.wire import StepBegin, StepReport, report_text

START = 1_800_000_000.0
NAMESPACE = "team-a"


class KilledError(Exception):
    """The operator's process was killed."""


def synthesis(name: str = "editor", **spec: Any) -> Manifest:
    """A ServingSynthesis as the API server stores it; `spec` overrides its fields."""
    wanted = {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "m"}}},
        "workload": {"scenario": "chat"},
        "hardware": {"targetRef": {"name": "pool"}},
        "objective": {"minimumSpeedup": "1.2"},
        "measurement": {"preset": "quick"},
        "search": {"plateauRounds": 2, "onPlateau": []},
        "budget": {"rounds": 2, "wallClock": "8h"},
    }
    return {
        "apiVersion": SYNTHESIS.api_version,
        "kind": "ServingSynthesis",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {**wanted, **spec},
    }


def target(name: str = "pool", **spec: Any) -> Manifest:
    """A HardwareTarget."""
    return {
        "apiVersion": SYNTHESIS.api_version,
        "kind": "HardwareTarget",
        "metadata": {"name": name},
        "spec": {"platform": "cpu", **spec},
    }


def profile(name: str = "agents", **spec: Any) -> Manifest:
    """An AgentProfile."""
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": PROFILE.api_version, "kind": "AgentProfile", "metadata": meta, "spec": spec}


def node(
    name: str,
    labels: Mapping[str, str] | None = None,
    *,
    allocatable: Mapping[str, str] | None = None,
    ready: bool = True,
    taints: Any = (),
    cordoned: bool = False,
) -> Manifest:
    """A Node of 8 cores and 32 GiB."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
        "status": {
            "allocatable": {"cpu": "8", "memory": "32Gi", **(allocatable or {})},
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def files_of(round_number: int, attempt: int) -> dict[str, bytes]:
    """The stack that the scripted implementer writes."""
    return {"stack/__main__.py": f"# round {round_number}, attempt {attempt}\n".encode()}


def commit_of(round_number: int, attempt: int) -> str:
    return hashlib.sha1(f"{round_number}/{attempt}".encode()).hexdigest()


def measured(value: float, *, confirmation: bool = False) -> Measurement:
    speedup = Speedup(value=value, low=value / 1.01, high=value * 1.01, n=6)
    return Measurement(metric="outputTokensPerSecond", speedup=speedup, confirmation=confirmation)


def good(begin: StepBegin) -> StepResult:
    """What a step gives when all goes well: each round is a tenth faster than the one before."""
    match begin.step:
        case StepKind.BASELINE:
            point = GridPoint(name="default", arguments=("--enforce-eager",), metric=100.0)
            return BaselineRecord(
                engine="vllm", version="1.0", arguments=point.arguments, grid=(point,), chosen="default", metric="m"
            )
        case StepKind.PLAN:
            return Plan(round=begin.round, action="build", hypothesis=f"hypothesis {begin.round}")
        case StepKind.IMPLEMENT:
            return Implementation(
                commit=commit_of(begin.round, begin.attempt),
                content_hash=content_hash(files_of(begin.round, begin.attempt)),
                summary="made",
            )
        case StepKind.JUDGE:
            return Judgement(verdicts=(Verdict(gate="exact-greedy", passed=True, reason="Passed"),))
        case StepKind.EVALUATE:
            return measured(1.5 * 1.1**begin.round)
        case StepKind.CONFIRM:
            return measured(1.4, confirmation=True)


@dataclass
class Ends:
    """How the pod of a step's role ends: `message` None means a report of `result`."""

    result: StepResult | None = None
    message: str | None = None
    code: int = 0
    reason: str = ""
    pod_reason: str = ""
    disrupted: bool = False
    never: bool = False
    seconds: float = 20.0


Script = Callable[[StepBegin, int], Ends | None]
"""What becomes of a step, by the number of its execution from 1; None: all goes well."""


@dataclass
class World:
    """The cluster. `script` is asked for every role pod, `candidate` for every candidate pod."""

    script: Script = lambda _begin, _execution: None
    candidate: Callable[[Manifest], str] = lambda _pod: "ready"
    settings: Settings = field(default_factory=Settings)
    now: float = START
    store: dict[Key, Manifest] = field(default_factory=dict)
    applied: dict[tuple[Key, str], Manifest] = field(default_factory=dict)
    """What each field manager said of an object last: what it does not say any more is taken away."""
    version: int = 0
    serial: int = 0
    writes: list[str] = field(default_factory=list)
    kill_after: int | None = None
    kill_every: bool = False
    fail: Callable[[str], Exception | None] = lambda _what: None
    started: list[str] = field(default_factory=list)
    """Step ids of all role pods that were ever started, in order."""
    quota: bool = True
    """Whether Kueue admits Jobs."""
    books: Books = field(default_factory=NoBooks)
    """What the model proxies say."""
    stacks: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    listeners: list[Callable[[str, Kind, Manifest], None]] = field(default_factory=list)

    # --- the API server ---------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest:
        found = self.store.get((kind, namespace or "", name))
        if found is None:
            raise NotFoundError(f"{kind.kind} {name}", status=404)
        return found

    async def create(self, manifest: Manifest, manager: str) -> Manifest:
        kind = kind_of(manifest)
        self._before(f"create {kind.kind} {manifest['metadata']['name']}")
        key = key_of(kind, manifest)
        if key in self.store:
            raise AlreadyExistsError(f"{kind.kind} {key[2]}", status=409, reason="AlreadyExists")
        made = self._stored(kind, copy.deepcopy(manifest))
        self._after(f"create {kind.kind} {key[2]}")
        return made

    async def apply(self, manifest: Manifest, manager: str) -> Manifest:
        kind = kind_of(manifest)
        what = f"apply {kind.kind} {manifest['metadata']['name']}"
        self._before(what)
        key = key_of(kind, manifest)
        known = self.store.get(key)
        if known is None:
            if "uid" in manifest["metadata"]:
                raise NotFoundError(what, status=404)
            made = self._stored(kind, copy.deepcopy(manifest))
        else:
            said = {k: v for k, v in manifest.items() if k != "status"}
            others = [said_before for (k, m), said_before in self.applied.items() if k == key and m != manager]
            merged = _merge(_without(known, self.applied.get((key, manager), {}), said, others), said)
            made = self._update(key, known, merged)
        self.applied[key, manager] = copy.deepcopy(manifest)
        self._after(what)
        return made

    async def apply_status(self, kind: Kind, manifest: Manifest, status: Mapping[str, Any], manager: str) -> Manifest:
        what = f"status {kind.kind} {manifest['metadata']['name']}"
        self._before(what)
        key = key_of(kind, manifest)
        known = self.store.get(key)
        if known is None:
            raise NotFoundError(what, status=404)
        if known["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise ConflictError(what, status=409, reason="Conflict")
        made = self._update(key, known, {**known, "status": copy.deepcopy(dict(status))})
        self._after(what)
        return made

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        what = f"delete {kind.kind} {name}"
        self._before(what)
        known = self.store.get((kind, namespace, name))
        if known is None:
            raise NotFoundError(what, status=404)
        if names.uid(known) != uid:
            raise ConflictError(what, status=409, reason="Conflict")
        self.remove((kind, namespace, name))
        self._after(what)

    def _before(self, what: str) -> None:
        if (error := self.fail(what)) is not None:
            raise error

    def _after(self, what: str) -> None:
        self.writes.append(what)
        if self.kill_every or (self.kill_after is not None and len(self.writes) == self.kill_after):
            raise KilledError(what)

    def _stored(self, kind: Kind, manifest: Manifest) -> Manifest:
        self.serial += 1
        if "stringData" in manifest:
            import base64

            data = {k: base64.b64encode(v.encode()).decode() for k, v in manifest.pop("stringData").items()}
            manifest["data"] = {**manifest.get("data", {}), **data}
        manifest["metadata"] |= {
            "uid": f"uid-{self.serial:05d}",
            "creationTimestamp": format_time(self.now),
            "generation": 1,
        }
        return self._put(key_of(kind, manifest), manifest)

    def _update(self, key: Key, known: Manifest, new: Manifest) -> Manifest:
        if new == known:
            return known
        if key[0] is CONFIG_MAP and known.get("immutable") and new.get("data") != known.get("data"):
            raise AssertionError(f"ConfigMap {key[2]} is immutable")
        if new.get("spec") != known.get("spec"):
            new = {**new, "metadata": {**new["metadata"], "generation": known["metadata"]["generation"] + 1}}
        return self._put(key, new)

    def _put(self, key: Key, manifest: Manifest) -> Manifest:
        self.version += 1
        manifest = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.version)}}
        self.store[key] = manifest
        self._tell("put", key[0], manifest)
        return manifest  # stored objects are replaced, never changed

    def remove(self, key: Key) -> None:
        """Delete, and what it owned with it."""
        gone = self.store.pop(key)
        self.version += 1
        self._tell("remove", key[0], gone)
        uid = names.uid(gone)
        for child, manifest in list(self.store.items()):
            if names.owner_uid(manifest) == uid and child in self.store:
                self.remove(child)

    def _tell(self, what: str, kind: Kind, manifest: Manifest) -> None:
        for listener in self.listeners:
            listener(what, kind, manifest)

    # --- for the tests ----------------------------------------------------------------------------------------------

    def add(self, manifest: Manifest) -> Manifest:
        """What a human applies."""
        return self._stored(kind_of(manifest), copy.deepcopy(manifest))

    def edit(self, kind: Kind, name: str, change: Callable[[Manifest], None], namespace: str = NAMESPACE) -> None:
        """What a human edits."""
        key = (kind, namespace, name)
        new = copy.deepcopy(self.store[key])
        change(new)
        self._update(key, self.store[key], new)

    def all(self, kind: Kind) -> list[Manifest]:
        return [m for (k, _, _), m in sorted(self.store.items(), key=lambda i: i[0][2]) if k is kind]

    def one(self, kind: Kind, name: str | None = None) -> Manifest:
        found = [m for m in self.all(kind) if name is None or names.name_of(m) == name]
        assert len(found) == 1, [names.name_of(m) for m in self.all(kind)]
        return found[0]

    def maps(self, part: str) -> list[Manifest]:
        """ConfigMaps of a run that are this part of it."""
        return [m for m in self.all(CONFIG_MAP) if names.label(m, names.PART_LABEL) == part]

    def events(self) -> list[str]:
        return [str(e["reason"]) for e in self.all(EVENT)]

    def evict(self, job: Manifest, lingers: float = 5.0) -> None:
        """Kueue takes its admission back: the Job is suspended (its start stays until it is resumed), its pod is ended and
        lingers."""
        self.quota = False
        suspended = {"type": "Suspended", "status": "True", "lastTransitionTime": format_time(self.now)}
        status = {**job.get("status", {}), "conditions": [suspended]}
        key = key_of(JOB, job)
        self._update(key, job, {**job, "spec": {**job["spec"], "suspend": True}, "status": status})
        for pod in self.all(POD):
            if names.owner_uid(pod) == names.uid(job):
                gone = {**pod["metadata"], "deletionTimestamp": format_time(self.now + lingers)}
                ended = [{"name": "role", "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}]
                status = {**pod.get("status", {}), "phase": "Failed", "containerStatuses": ended}
                self._update(key_of(POD, pod), pod, {**pod, "metadata": gone, "status": status})

    # --- stacks -----------------------------------------------------------------------------------------------------

    async def files(self, repository: str, commit: str) -> Mapping[str, bytes]:
        if commit not in self.stacks:
            raise CommitMissingError(f"no commit {commit[:12]}")
        return self.stacks[commit]

    # --- controllers and kubelets -----------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Kubernetes does what is due. Returns whether anything changed."""
        before = self.version
        for key, manifest in list(self.store.items()):
            if key not in self.store:
                continue
            if key[0] is JOB:
                self._job(key, manifest)
            elif key[0] is DEPLOYMENT:
                self._deployment(key, manifest)
            elif key[0] is POD:
                self._pod(key, manifest)
        return self.version != before

    def _set(self, key: Key, **status: Any) -> None:
        known = self.store[key]
        self._update(key, known, {**known, "status": {**known.get("status", {}), **status}})

    def _make_pod(self, owner: Manifest, template: Manifest, name: str) -> None:
        meta = {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": dict(template["metadata"]["labels"]),
            "annotations": dict(template["metadata"].get("annotations", {})),
            "ownerReferences": [names.owner_reference(owner)],
        }
        self._stored(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})

    def _job(self, key: Key, job: Manifest) -> None:
        if job["spec"].get("suspend"):
            if self.quota and "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]:
                self._update(key, job, {**job, "spec": {**job["spec"], "suspend": False}})
            return
        status = job.get("status", {})
        if any(c["type"] in ("Complete", "Failed") for c in status.get("conditions", ())):
            return
        pods = [p for p in self.all(POD) if names.owner_uid(p) == names.uid(job) and not names.deleting(p)]
        suspended = any(c["type"] == "Suspended" and c["status"] == "True" for c in status.get("conditions", ()))
        if suspended or "startTime" not in status:
            resumed = [{"type": "Suspended", "status": "False", "lastTransitionTime": format_time(self.now)}]
            self._set(key, startTime=format_time(self.now), conditions=resumed)
            self.started.append(job["metadata"]["annotations"][names.STEP_ANNOTATION])
            self._make_pod(job, job["spec"]["template"], f"{key[2]}-{self.serial}")
            return
        deadline = (parse_time(status["startTime"]) or 0) + job["spec"]["activeDeadlineSeconds"]
        phases = [p.get("status", {}).get("phase") for p in pods]
        if "Succeeded" in phases:
            self._job_condition(key, "Complete", "CompletionsReached", "")
        elif "Failed" in phases or not pods:
            self._job_condition(key, "Failed", "PodFailurePolicy", "Pod has condition DisruptionTarget matching rule 0")
        elif self.now > deadline:
            self._job_condition(key, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            for pod in pods:
                self.remove((POD, key[1], names.name_of(pod)))

    def _job_condition(self, key: Key, kind: str, reason: str, message: str) -> None:
        moment = format_time(self.now)
        made = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": moment}
        self._set(key, conditions=[made])

    def _deployment(self, key: Key, manifest: Manifest) -> None:
        pods = [p for p in self.all(POD) if names.owner_uid(p) == names.uid(manifest)]
        template = manifest["spec"]["template"]
        stale = [p for p in pods if p["spec"] != template["spec"]]
        for pod in stale:
            self.remove((POD, key[1], names.name_of(pod)))
        replicas = manifest["spec"].get("replicas", 1)
        for number in range(len(pods) - len(stale), replicas):
            self._make_pod(manifest, template, f"{key[2]}-{self.serial}-{number}")
        if not stale and len(pods) == replicas and all(_is_ready(p) for p in pods):
            self._set(
                key,
                observedGeneration=manifest["metadata"]["generation"],
                replicas=replicas,
                updatedReplicas=replicas,
                availableReplicas=replicas,
            )

    def _pod(self, key: Key, pod: Manifest) -> None:
        if names.deleting(pod):
            if self.now >= (parse_time(pod["metadata"]["deletionTimestamp"]) or 0.0):
                self.remove(key)
            return
        role = names.label(pod, names.ROLE_LABEL)
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        if role in ("candidate", "baseline", "serving-stack", "rollout-stack", "serving-baseline", "model-proxy"):
            self._server(key, pod, role)
        elif names.label(pod, names.STEP_LABEL):
            self._role(key, pod)

    def _server(self, key: Key, pod: Manifest, role: str) -> None:
        fate = self.candidate(pod) if role == "candidate" else "ready"
        moment = format_time(self.now)
        match fate:
            case "ready":
                if not _is_ready(pod):
                    ready = {"type": "Ready", "status": "True", "lastTransitionTime": moment}
                    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": moment}
                    running = [{"name": "serve", "state": {"running": {"startedAt": moment}}}]
                    self._set(
                        key, phase="Running", podIP="10.0.0.9", conditions=[placed, ready], containerStatuses=running
                    )
            case "pending":
                why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
                self._set(key, phase="Pending", conditions=[why | {"lastTransitionTime": moment}])
            case "gated":
                if "phase" not in pod.get("status", {}):
                    why = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
                    self._set(key, phase="Pending", conditions=[why | {"lastTransitionTime": moment}])
            case "never-ready":
                if "containerStatuses" not in pod.get("status", {}):
                    running = [{"name": "serve", "state": {"running": {"startedAt": moment}}}]
                    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": moment}
                    self._set(key, phase="Running", podIP="10.0.0.9", conditions=[placed], containerStatuses=running)
            case "evicted":
                self._set(key, phase="Failed", reason="Evicted", message="the node was low on memory")
            case _:
                name, code, reason = fate.split(":")
                ended = {"exitCode": int(code), "reason": reason, "finishedAt": moment, "message": "trace"}
                which = "containerStatuses" if name == "serve" else "initContainerStatuses"
                self._set(key, phase="Failed", **{which: [{"name": name, "state": {"terminated": ended}}]})

    def _role(self, key: Key, pod: Manifest) -> None:
        status = pod.get("status", {})
        if status.get("phase") != "Running":
            started = [{"name": "role", "state": {"running": {"startedAt": format_time(self.now)}}}]
            self._set(key, phase="Running", podIP="10.0.0.7", containerStatuses=started)
            return
        begin = self.begin_of(names.label(pod, names.STEP_LABEL))
        if begin is None:
            return
        ends = self.script(begin, int(begin.id.rpartition("/")[2])) or Ends()
        began = parse_time(status["containerStatuses"][0]["state"]["running"]["startedAt"]) or 0.0
        if ends.never or self.now < began + ends.seconds:
            return
        message = ends.message
        if message is None and ends.code == 0 and not ends.pod_reason:
            result = ends.result or good(begin)
            if isinstance(result, Implementation):
                self.stacks.setdefault(result.commit, files_of(begin.round, begin.attempt))
            commit = hashlib.sha1(begin.id.encode()).hexdigest()
            message = report_text(StepReport(step=begin.id, result=result, commit=commit))
        ended = {"exitCode": ends.code, "reason": ends.reason, "finishedAt": format_time(self.now)}
        ended |= {"message": message} if message else {}
        conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
        failed = bool(ends.code or ends.pod_reason or ends.disrupted)
        self._set(
            key,
            phase="Failed" if failed else "Succeeded",
            containerStatuses=[{"name": "role", "state": {"terminated": ended}}],
            **({"reason": ends.pod_reason} if ends.pod_reason else {}),
            **({"conditions": conditions} if ends.disrupted else {}),
        )

    def begin_of(self, label: str) -> StepBegin | None:
        """The step that a label names."""
        for one in self.maps(names.STEP):
            if names.label(one, names.STEP_LABEL) == label:
                return StepBegin.model_validate_json(one["data"][STEP_KEY])
        return None

    async def list(self, kind: Kind, namespace: str | None, selector: str | None = None) -> tuple[list[Manifest], str]:
        label, _, value = (selector or "").partition("=")
        found = [m for key, m in self.store.items() if key[0] is kind and namespace in (None, key[1])]
        return [m for m in found if selector is None or names.label(m, label) == value], str(self.version)


def _is_ready(pod: Manifest) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{k: _merge(old.get(k), v) for k, v in new.items()}}
    return copy.deepcopy(new)


def _without(there: Any, before: Any, now: Any, others: list[Any]) -> Any:
    """An object without the fields that a manager said before and does not say now, unless another one says them, too."""
    if not (isinstance(there, dict) and isinstance(before, dict)):
        return there
    left: Manifest = {}
    for key, value in there.items():
        say_so = [one[key] for one in others if isinstance(one, dict) and key in one]
        if key not in before:
            left[key] = value
        elif isinstance(now, dict) and key in now:
            left[key] = _without(value, before[key], now[key], say_so)
        elif say_so or isinstance(before[key], dict):
            left[key] = _without(value, before[key], {}, say_so)
    return left


class Process:
    """One process of the operator: a cache that starts from the store, a set of keys, the real controller."""

    def __init__(
        self,
        world: World,
        *,
        stale: Callable[[Kind], bool] = lambda _kind: False,
        behind: Mapping[Key, Manifest] | None = None,
    ) -> None:
        """`stale`: whether an event of a kind is held back (until `catch_up`). `behind`: what the first lists give, if that
        is an earlier state of the store; what happened since is held back."""
        self.world = world
        self.cache = Cache()
        self.keys: dict[Key, None] = {}
        self.wakes: dict[Key, float] = {}
        self.held: list[tuple[str, Kind, Manifest]] = []
        self.stale = stale
        listed = world.store if behind is None else behind
        for key, manifest in listed.items():
            self.cache.put(key[0], manifest)
        self.held += [("remove", key[0], gone) for key, gone in listed.items() if key not in world.store]
        newer = [(key, manifest) for key, manifest in world.store.items() if listed.get(key) is not manifest]
        self.held += [("put", key[0], manifest) for key, manifest in sorted(newer, key=lambda one: version(one[1]))]
        self.cache.listen(self._changed)
        for kind in LOOKED_AT:
            for manifest in self.cache.all(kind):
                self.keys[key_of(kind, manifest)] = None
        applier = Applier(
            world, self.cache, world, now=lambda: world.now, random_hex=lambda: hashlib.sha256(b"seal").hexdigest()
        )
        self.metrics = Metrics(clock=lambda: world.now)
        self.controller = Controller(
            self.cache, world, applier, world.settings, self.metrics, lambda: world.now, books=world.books
        )
        world.listeners.append(self.event)

    def stop(self) -> None:
        self.world.listeners.remove(self.event)

    def event(self, what: str, kind: Kind, manifest: Manifest) -> None:
        # Each kind has a watch of its own: one may be behind while the others are not, and none is out of order.
        if any(kind is late for _, late, _ in self.held) or self.stale(kind):
            self.held.append((what, kind, manifest))
        else:
            self._deliver(what, kind, manifest)

    def catch_up(self, *but: Kind) -> None:
        """The watches deliver what they held back, except those of `but`."""
        held, self.held = self.held, [one for one in self.held if one[1] in but]
        for one in held:
            if one[1] not in but:
                self._deliver(*one)

    def _deliver(self, what: str, kind: Kind, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        if kind not in BY_NAME.values() or kind is EVENT:
            return
        if what == "remove":
            self.cache.remove(kind, meta.get("namespace"), meta["name"], meta["uid"])
        else:
            self.cache.put(kind, manifest)

    def _changed(self, kind: Kind, before: Manifest | None, now: Manifest | None) -> None:
        for key in keys_for(self.cache, kind, before, now):
            self.keys[key] = None

    async def work(self, looks: int = 500) -> None:
        """Until no key is left to look at."""
        for _ in range(looks):
            if not self.keys:
                return
            key = next(iter(self.keys))
            del self.keys[key]
            self.wakes.pop(key, None)
            try:
                wake = await self.controller.reconcile(key)
            except (ConflictError, TransientError):
                self.wakes[key] = self.world.now + 0.25
                continue
            if wake is not None:
                self.wakes[key] = wake
        raise AssertionError("the operator never comes to rest: a look asks for another look without end")

    def wake(self) -> None:
        """Keys whose time has come."""
        for key, moment in list(self.wakes.items()):
            if moment <= self.world.now:
                self.keys[key] = None
                del self.wakes[key]


def service(name: str) -> Manifest:
    """A Service of a user."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {}}


def live(
    world: World,
    *,
    until: Callable[[], bool] = lambda: False,
    steps: int = 3000,
    stale: Callable[[Kind], bool] = lambda _kind: False,
) -> Process:
    """Let the world and the operator run until nothing happens any more. Killed processes are started again.

    `stale` says which events the watches hold back; they catch up when nothing else happens.
    """
    process = Process(world, stale=stale)

    async def loop() -> Process:
        nonlocal process
        for _ in range(steps):
            try:
                await process.work()
            except KilledError:
                process.stop()
                process = Process(world, stale=stale)
                continue
            if until():
                return process
            if world.tick() or process.keys:
                continue
            if process.held:
                process.catch_up()
                continue
            if not _advance(world, process):
                return process
        raise AssertionError(f"no end: {json.dumps(_summary(world))}")

    return asyncio.run(loop())


def _advance(world: World, process: Process) -> bool:
    """To the next moment at which something may happen; False when nothing ever will."""
    moments = list(process.wakes.values())
    for pod in world.all(POD):
        state = pod.get("status", {}).get("containerStatuses", [{}])[0].get("state", {})
        if (
            names.label(pod, names.STEP_LABEL)
            and "running" in state
            and names.label(pod, names.ROLE_LABEL) != "candidate"
        ):
            begin = world.begin_of(names.label(pod, names.STEP_LABEL))
            ends = (world.script(begin, int(begin.id.rpartition("/")[2])) or Ends()) if begin else Ends(never=True)
            if not ends.never:
                moments.append((parse_time(state["running"]["startedAt"]) or 0.0) + ends.seconds)
    ahead = [m for m in moments if m > world.now]
    due = [m for m in moments if m <= world.now]
    if not ahead and not due:
        return False
    world.now = min(ahead) if not due else world.now + 1.0
    process.wake()
    return True


def _summary(world: World) -> dict[str, Any]:
    return {names.name_of(m): m.get("status", {}) for m in (*world.all(SYNTHESIS), *world.all(RUN))}
