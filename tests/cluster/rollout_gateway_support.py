"""What the tests of rollouts at a real Gateway share: two engines behind Services, users, the operator, and a probe's pod.

Real are the API server, Contour and Envoy, the operator with Envoy's access log, the load, and the probe. There is no node
unless a test brings some (`rollout_gateway_nodes`): the engines are processes with pod addresses in the cluster's network,
and EndpointSlices that the test writes point at them.
The probe's pod is bound by the real scheduler to a scripted kubelet's node; `ProbePods` runs its container's command, as it
stands in the pod, as a process with the pod's address, and says that it is ready.
"""

import collections
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from faults_support import MERGE, Api
from operator_support import Kubelet, OperatorProcess, apply, prepare, wait_for
from rollout_gateway_parts import BASELINE, CANDIDATE, PORT, Came, Engine, Kept, ProbePods, Users, with_names

from sartor_demo.traffic import Outcome
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import ENDPOINT_SLICE, EVENT, HTTP_ROUTE, ROLLOUT, Manifest
from sartor_operator.rollout.records import RequestRecord

PARENT = {"name": "inference", "namespace": "gateways"}
RATE = 30.0
"""Requests a second of the users; half of them streams."""
ANALYSIS: dict[str, Any] = {"minimumSamples": 100, "confidence": "95%", "sources": ["gatewayAccessLog"]}
ERRORS: dict[str, Any] = {"metric": "errorRate", "atMost": "2%"}
HALF: list[dict[str, Any]] = [{"weight": 50, "hold": "1h"}]
"""A step that no verdict passes: it ends by what is done to it."""


class Asked(Protocol):
    """An engine that can tell what it was asked, unless it has `ended` for good."""

    @property
    def name(self) -> str: ...
    @property
    def ended(self) -> bool: ...
    def requests(self) -> list[Came]: ...


E = TypeVar("E", bound=Asked)
Arms = Callable[[DevCluster, Api, str], contextlib.AbstractContextManager[tuple[E, E]]]
"""Brings baseline and candidate, each behind its Service, into a namespace; they end with it."""


@dataclass
class Live(Generic[E]):
    """A namespace with two engines behind Services, an operator, and users at the Gateway."""

    cluster: DevCluster
    api: Api
    namespace: str
    host: str
    baseline: E
    candidate: E
    operator: OperatorProcess
    kept: Kept
    folder: Path
    users: Users | None = None
    printed: list[str] = field(default_factory=list[str])

    # --- the rollout

    def begin(self, steps: list[dict[str, Any]], guardrails: list[dict[str, Any]], **policy: Any) -> float:
        """Apply a rollout as a user does; when that was done (Unix seconds)."""
        wanted = {
            "baseline": {"service": BASELINE},
            "candidate": {"service": CANDIDATE},
            "policy": {
                "parentRefs": [PARENT],
                "hostnames": [self.host],
                "steps": steps,
                "analysis": ANALYSIS,
                "drainTimeout": "5s",
                **policy,
            },
            "guardrails": guardrails,
        }
        meta = {"name": "editor", "namespace": self.namespace}
        apply(self.cluster, {"apiVersion": ROLLOUT.api_version, "kind": ROLLOUT.kind, "metadata": meta, "spec": wanted})
        return time.time()

    def come(self, rate: float = RATE, timeout: float = 120.0) -> Users:
        """Users come, once the Gateway serves the route; they wait for an answer for `timeout` seconds."""
        wait_for("a route that is accepted", self._routed, 60)
        self.users = Users(self.cluster, self.host, rate, timeout)
        wait_for("answers", lambda: len(self.users.outcomes if self.users else ()) >= 5, 60)
        return self.users

    def _routed(self) -> bool:
        status = self.status()
        return any(c["type"] == "RouteAccepted" and c["status"] == "True" for c in status.get("conditions", ()))

    def status(self) -> dict[str, Any]:
        return (self.api.get(ROLLOUT, self.namespace, "editor") or {}).get("status") or {}

    def reaches(self, phase: str, seconds: float) -> dict[str, Any]:
        """The status with that phase. Says where the rollout is on the way (`pytest -s`)."""
        return self._until(phase, lambda status: status.get("phase") == phase, seconds)

    def at_step(self, number: int, seconds: float = 60.0) -> dict[str, Any]:
        """The status when this step has begun: its weights are accepted."""
        return self._until(
            f"step {number}", lambda s: s.get("step") == number and s.get("stepStartedAt") is not None, seconds
        )

    def _until(self, what: str, there: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            status = self.status()
            said = f"{status.get('phase')}, step {status.get('step')}: {status.get('message')}"
            if said not in self.printed[-1:]:
                self.printed.append(said)
                print(time.strftime("%H:%M:%S"), said, flush=True)
            return status if there(status) else None

        try:
            return wait_for(what, look, seconds, every=0.1)
        except AssertionError as error:
            error.add_note(json.dumps(self.status(), indent=1))
            error.add_note(self.operator.log.read_text()[-3000:])
            raise

    def patch(self, **control: Any) -> tuple[float, float]:
        """`spec.control` by kubectl, as docs/rollouts/control.md has it; when kubectl was started, and when it had ended
        (Unix seconds)."""
        begun = time.time()
        patch = json.dumps({"spec": {"control": control}})
        self.cluster.kubectl(
            "-n",
            self.namespace,
            "patch",
            "servingrollouts.sartor.dev",
            "editor",
            "--type=merge",
            "-p",
            patch,
            check=True,
        )
        return begun, time.time()

    @property
    def route(self) -> Manifest:
        (found,) = self.api.all(HTTP_ROUTE, self.namespace)
        return found

    def shares(self) -> dict[str, int]:
        """Weights of the rule without a header."""
        rules = self.route["spec"]["rules"]
        rule = next(r for r in rules if not any(m.get("headers") for m in r["matches"]))
        return {one["name"]: one["weight"] for one in rule["backendRefs"]}

    def events(self) -> collections.Counter[str]:
        return collections.Counter(e["reason"] for e in self.api.all(EVENT, self.namespace))

    # --- endpoints

    def endpoints(self: "Live[Engine]", engine: Engine, *, there: bool) -> float:
        """Whether a Service has its one endpoint; when that was answered (Unix seconds)."""
        ends = [{"addresses": [engine.address], "conditions": {"ready": True}}] if there else []
        self.api.send("PATCH", ENDPOINT_SLICE.path(self.namespace, engine.name), {"endpoints": ends}, MERGE)
        return time.time()

    def answered(self, engine: Asked, since: float) -> int:
        """How many requests of users came to an engine after a moment (Unix seconds)."""
        assert self.users is not None
        return sum(one.at > since and one.id in self.users.outcomes for one in engine.requests())

    # --- what became of the requests

    def account(self, *, recorded: bool = True) -> "Account":
        """End the users and count: clients, the Gateway and both engines must tell the same story. `recorded` False: without
        the Gateway's, which writes nothing of what was under way when it was killed."""
        assert self.users is not None
        outcomes = self.users.ended()
        records = self.users.records() if recorded else {}
        came = {engine.name: engine.requests() for engine in (self.baseline, self.candidate) if not engine.ended}
        return Account({one.id: one for one in outcomes}, records, came)


@dataclass(frozen=True)
class Account:
    """All requests of the users: by clients, by the Gateway, by the engines (which saw those of a probe, too)."""

    outcomes: dict[str, Outcome]
    records: dict[str, RequestRecord]
    came: dict[str, list[Came]]

    def of_users(self, engine: str) -> list[Came]:
        return [one for one in self.came[engine] if one.id in self.outcomes]

    @property
    def lost(self) -> list[Outcome]:
        """Failed or cut."""
        return [one for one in self.outcomes.values() if one.result != "answered"]

    def carried_out(self) -> collections.Counter[str]:
        """How often an engine was asked each request."""
        return collections.Counter(one.id for engine in self.came for one in self.of_users(engine))

    def assert_each_once(self) -> None:
        """Every request reached an engine once, and no request twice."""
        counted = self.carried_out()
        assert counted == dict.fromkeys(self.outcomes, 1), [i for i in self.outcomes if counted[i] != 1][:5]
        assert all(record.attempts in (None, 1) for record in self.records.values())

    def told(self) -> str:
        """One line for whoever reads along."""
        results = collections.Counter(one.result for one in self.outcomes.values())
        late = max(one.late for one in self.outcomes.values())
        shares = ", ".join(f"{name} {len(self.of_users(name))}" for name in self.came)
        return (
            f"{len(self.outcomes)} sent, {results['answered']} answered, {results['failed']} failed, {results['cut']} cut; "
            f"{shares}; the generator was at most {late:.2f} s behind"
        )


def reason(status: dict[str, Any], kind: str) -> str:
    """That of a condition which is true; else nothing."""
    return next((c["reason"] for c in status["conditions"] if c["type"] == kind and c["status"] == "True"), "")


@contextlib.contextmanager
def processes(cluster: DevCluster, api: Api, namespace: str) -> Generator[tuple[Engine, Engine]]:
    """Both arms without a node: the test says which endpoints they have (`Live.endpoints`)."""
    with contextlib.ExitStack() as stack:

        def arm(name: str, address: str) -> Engine:
            engine = Engine(cluster, name, address)
            stack.callback(engine.end)
            apply(cluster, _service(namespace, name))
            api.send("POST", ENDPOINT_SLICE.path(namespace), _slice(namespace, engine))
            return engine

        yield arm(BASELINE, "10.244.40.1"), arm(CANDIDATE, "10.244.40.2")


@contextlib.contextmanager
def live(cluster: DevCluster, folder: Path, *, inside: bool = False) -> "Generator[Live[Engine]]":
    """`live_with` arms that need no node."""
    with live_with(processes, cluster, folder, inside=inside) as made:
        yield made


@contextlib.contextmanager
def live_with(arms: Arms[E], cluster: DevCluster, folder: Path, *, inside: bool = False) -> "Generator[Live[E]]":
    """All of it but the rollout. `inside`: the operator runs in the cluster's network, where it reaches a probe."""
    api, namespace = Api(cluster.kubeconfig), f"live-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace, check=True)
    process = OperatorProcess(
        cluster.kubeconfig, None, "http://127.0.0.1:1", folder / "operator.log",
        "--access-log", str(cluster.access_log), "--lease-seconds", "15", "--identity", "rollout-tests",
    )  # fmt: skip
    if inside:
        process.command = with_names(cluster, process.command, folder)
    with contextlib.ExitStack() as stack:
        baseline, candidate = stack.enter_context(arms(cluster, api, namespace))
        kept = stack.enter_context(Kept(process))
        host = f"{namespace}.example.com"
        made = Live(cluster, api, namespace, host, baseline, candidate, process, kept, folder)
        stack.callback(lambda: made.users.end() if made.users is not None else None)
        yield made
    _clear(api, cluster, namespace)
    log = process.log.read_text(encoding="utf-8")
    assert "defect" not in log and "Traceback" not in log, log[-3000:]


def _clear(api: Api, cluster: DevCluster, namespace: str) -> None:
    """Without an operator nobody takes the finalizers off."""
    for rollout in api.all(ROLLOUT, namespace):
        api.patch(ROLLOUT, namespace, names.name_of(rollout), {"metadata": {"finalizers": None}})
    cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=True)


@contextlib.contextmanager
def node(live: Live) -> Generator[ProbePods]:
    """A node for the probe's pod: the scripted kubelet keeps it alive, `ProbePods` runs what is bound to it."""
    with (
        Kubelet(live.cluster.kubeconfig, live.namespace),
        ProbePods(live.cluster, live.api, live.namespace, live.folder) as pods,
    ):
        yield pods


def prepared(cluster: DevCluster) -> DevCluster:
    """With Sartor's CRDs."""
    prepare(cluster)
    return cluster


def _service(namespace: str, name: str) -> Manifest:
    ports = [{"name": "http", "port": PORT, "targetPort": PORT}]
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}


def _slice(namespace: str, engine: Engine) -> Manifest:
    """As somebody writes it for a Service without selector: nobody collects it when its Service goes."""
    labels = {"kubernetes.io/service-name": engine.name}
    meta = {"name": engine.name, "namespace": namespace, "labels": labels}
    return {
        "apiVersion": ENDPOINT_SLICE.api_version,
        "kind": ENDPOINT_SLICE.kind,
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [{"addresses": [engine.address], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
    }
