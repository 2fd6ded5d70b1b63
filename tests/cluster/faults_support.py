"""What the tests of faults share: a proxy that misbehaves as an API server may, a process that is kept running, and a life.

`scene` gives a test a namespace, an operator (behind the proxy, if asked for) and a scripted kubelet. Several syntheses
live side by side in one scene, each with a fault of its own.
"""

import contextlib
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_proxy import Proxy
from operator_support import Ends, Kubelet, OperatorProcess, apply, prepare, repository, synthesis, wait_for

from sartor_api.search.records import StepRecord
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.connection import Connection
from sartor_operator.kinds import CANDIDATE, CONFIG_MAP, DEPLOYMENT, RUN, SYNTHESIS, Kind, Manifest
from sartor_operator.run.observe import RECORD_KEY
from sartor_operator.wire import StepBegin, StoredRecord

STEPS = [
    "000/baseline/1/1",
    "001/plan/1/1",
    "001/implement/1/1",
    "001/judge/1/1",
    "001/evaluate/1/1",
    "000/confirm/1/1",
]
DELIVERY = "delivery"
"""In `Gate.held`: the delivered stack does not get ready."""
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
AWAY_SECONDS = 60.0
MERGE = "application/merge-patch+json"


class Api:
    """Requests of a test, without a client's start for each."""

    def __init__(self, kubeconfig: Path) -> None:
        connection = Connection.load(str(kubeconfig))
        self._server = connection.server
        context = connection.ssl_context()
        self._context = context if isinstance(context, ssl.SSLContext) else None

    def send(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """The answer; None for 404. Waits for a server that is away or overloaded; raises `HTTPError` for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"User-Agent": "sartor-tests", "Content-Type": content_type}
        request = urllib.request.Request(self._server + path, data=data, headers=headers, method=method)
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code not in (429, 500, 503) or time.monotonic() > deadline:
                    error.add_note(error.read().decode(errors="replace"))
                    raise
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        return self.send("GET", kind.path(namespace, name))

    def all(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None = None) -> list[Manifest]:
        """Objects with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        query = f"?labelSelector={urllib.parse.quote(selector)}" if selector else ""
        return self.send("GET", kind.path(namespace) + query)["items"]

    def patch(self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any]) -> Manifest:
        return self.send("PATCH", kind.path(namespace, name), body, MERGE)

    def delete(self, kind: Kind, namespace: str | None, name: str) -> None:
        self.send("DELETE", kind.path(namespace, name), {"propagationPolicy": "Background"})


class Kept:
    """A process that is started again whenever it ends, as a Deployment's pod would be."""

    def __init__(self, process: OperatorProcess, after: float = 0.1) -> None:
        self.process = process
        self.ends: list[int] = []
        """Exit codes, negative for a signal."""
        self._after = after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="kept", daemon=True)

    def __enter__(self) -> "Kept":
        self.process.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self.process.stop()

    def _keep(self) -> None:
        while not self._stop.wait(0.05):
            running = self.process.process
            if running is not None and (code := running.poll()) is not None:
                self.ends.append(code)
                if not self._stop.wait(self._after):
                    self.process.start()


@dataclass
class Gate:
    """Holds the step of a synthesis until a test has done something to it; everything else goes well.

    `held` maps names of syntheses to the step at which they wait (`DELIVERY`: until the stack may get ready).
    """

    held: dict[str, str] = field(default_factory=dict)

    def script(self, begin: StepBegin, pod: Manifest) -> Ends | None:
        return Ends(never=True) if self.held.get(names.label(pod, names.SYNTHESIS_LABEL)) == begin.id else None

    def delivered(self, pod: Manifest) -> str:
        stack = names.label(pod, names.ROLE_LABEL) == "serving-stack"
        waits = stack and self.held.get(names.label(pod, names.SYNTHESIS_LABEL)) == DELIVERY
        return "pending" if waits else "ready"


@dataclass
class Scene:
    """One namespace with everything that a synthesis needs to live."""

    cluster: DevCluster
    namespace: str
    api: Api
    kubelet: Kubelet
    kept: Kept
    proxy: Proxy | None
    since: int
    """Length of the audit log at the begin."""

    def begin(self, *some: str, **spec: Any) -> None:
        """`kubectl apply` syntheses of these names."""
        apply(self.cluster, *(synthesis(self.namespace, name, **spec) for name in some))

    def status(self, name: str) -> dict[str, Any]:
        found = self.api.get(SYNTHESIS, self.namespace, name)
        return (found or {}).get("status") or {}

    def phases(self) -> dict[str, str]:
        found = self.api.all(SYNTHESIS, self.namespace)
        return {names.name_of(s): str((s.get("status") or {}).get("phase")) for s in found}

    def serving(self, seconds: float = 90.0) -> None:
        """Until every synthesis serves."""
        try:
            wait_for("all Serving", lambda: set(self.phases().values()) == {"Serving"}, seconds, every=0.3)
        except AssertionError as error:
            late = [name for name, phase in self.phases().items() if phase != "Serving"]
            told = {name: self.status(name).get("message") for name in late}
            raise AssertionError(f"{error}: {told}; {self.kept.process.log.read_text()[-2000:]}") from None

    def at(self, name: str, step: str, seconds: float = 60.0) -> None:
        """Until a pod of this step of a synthesis was started (`DELIVERY`: its Deployment is there)."""
        if step == DELIVERY:
            wait_for(f"{name} delivers", lambda: self.phases().get(name) == "Delivering" and self.stack(name), seconds)
        else:
            wait_for(f"{name} at {step}", lambda: step in self.kubelet.of.get(name, ()), seconds)

    def of(self, kind: Kind, name: str) -> list[Manifest]:
        """The children of a kind of one synthesis."""
        return self.api.all(kind, self.namespace, {names.SYNTHESIS_LABEL: name})

    def stack(self, name: str) -> list[Manifest]:
        return [d for d in self.of(DEPLOYMENT, name) if names.label(d, names.ROLE_LABEL) == "serving-stack"]

    def records(self, name: str) -> list[StepRecord]:
        """Records of the newest run of a synthesis, in order. One of its name may have been deleted before, and what it had
        goes when the garbage collector comes to it; the operator goes by the owner, too."""
        runs = sorted(self.of(RUN, name), key=lambda r: str(r["metadata"]["creationTimestamp"]))
        if not runs:
            return []
        wanted = {names.RUN_LABEL: names.name_of(runs[-1]), names.PART_LABEL: names.RECORD}
        maps = self.api.all(CONFIG_MAP, self.namespace, wanted)
        mine = [m for m in maps if names.owner_uid(m) == names.uid(runs[-1])]
        stored = [StoredRecord.model_validate_json(m["data"][RECORD_KEY]).record for m in mine]
        return sorted(stored, key=lambda record: record.sequence)

    def remembered(self, name: str) -> str:
        """What a life's runs and their records are, for people who ask why a test failed."""
        runs = {names.uid(r): (names.name_of(r), r["metadata"]["creationTimestamp"]) for r in self.of(RUN, name)}
        maps = self.api.all(CONFIG_MAP, self.namespace, {names.SYNTHESIS_LABEL: name, names.PART_LABEL: names.RECORD})
        records = sorted(
            (m["metadata"]["creationTimestamp"], StoredRecord.model_validate_json(m["data"][RECORD_KEY]).record, m)
            for m in maps
        )
        told = [
            f"{at} {record.id} owner {names.owner_uid(m)}{f' {record.failure.reason}' if record.failure else ''}"
            for at, record, m in records
        ]
        return f"runs {runs}, records {told}, pods {self.kubelet.of.get(name)}"

    def end(self, name: str) -> dict[str, Any]:
        """What is left of a life that must not depend on what disturbed it."""
        status = self.status(name)
        return {
            "phase": status.get("phase"),
            "best": status.get("best", {}).get("speedup"),
            "rounds": status.get("spent", {}).get("rounds"),
            "records": [(record.id, record.result.model_dump(exclude={"seed"})) for record in self.records(name)],
            "candidates": [(c["spec"]["round"], c["status"]["phase"]) for c in self.of(CANDIDATE, name)],
            "deployments": sorted(names.label(d, names.ROLE_LABEL) for d in self.of(DEPLOYMENT, name)),
        }

    def undisturbed(self, *some: str) -> None:
        """Whatever happened, these lives had each step once and one Job for each."""
        for name in some:
            assert self.kubelet.of.get(name) == STEPS, (name, self.kubelet.of.get(name))
            assert [record.id for record in self.records(name)] == STEPS, name
        made = self.made("jobs")
        assert set(made.values()) == {1}, {name: count for name, count in made.items() if count > 1}

    def made(self, resource: str) -> Counter[str]:
        """How often each object of a resource was created in this namespace, by the audit log."""
        found = (e for e in self.events("create") if e["objectRef"].get("resource") == resource)
        return Counter(str(e["objectRef"].get("name")) for e in found if e["responseStatus"]["code"] < 300)

    def events(self, *verbs: str) -> Iterator[dict[str, Any]]:
        """The operator's answered requests with these verbs in this namespace, by the audit log; leases left out."""
        inside = f'"namespace":"{self.namespace}"'.encode()
        with self.cluster.audit_log.open("rb") as log:
            log.seek(self.since)
            for line in log:
                if inside not in line or not line.endswith(b"\n"):
                    continue
                event = json.loads(line)
                mine = str(event.get("userAgent", "")).startswith("sartor-operator")
                wanted = event["verb"] in verbs and event["objectRef"].get("resource") != "leases"
                if mine and wanted and event["stage"] == "ResponseComplete":
                    yield event


_PREPARED: set[Path] = set()


@contextlib.contextmanager
def scene(
    cluster: DevCluster,
    folder: Path,
    *,
    proxied: bool = False,
    before: Callable[[Proxy], None] = lambda _proxy: None,
    kubelet: Kubelet | None = None,
    gate: Gate | None = None,
    lease: float = 0.0,
    ends: frozenset[int] = frozenset(),
    **playing: Any,
) -> Iterator[Scene]:
    """A namespace with an operator of its own, whose process is kept running, and a kubelet (that of the caller, if given).

    `lease` in seconds; 0 is none, which is right where no second process could ever run. `ends` are the exit codes that
    the process may have had on the way. `before` sets the proxy up before the process starts.
    """
    if cluster.kubeconfig not in _PREPARED:
        prepare(cluster)
        _PREPARED.add(cluster.kubeconfig)
    api, namespace = Api(cluster.kubeconfig), f"fault-{uuid.uuid4().hex[:8]}"
    since = cluster.audit_log.stat().st_size
    api.send("POST", NAMESPACE.path(None), {"metadata": {"name": namespace}})
    if gate is not None:
        playing |= {"script": gate.script, "delivered": gate.delivered}
    with contextlib.ExitStack() as stack:
        stack.callback(api.delete, NAMESPACE, None, namespace)
        stacks = stack.enter_context(repository())
        playing_kubelet = kubelet or stack.enter_context(Kubelet(cluster.kubeconfig, namespace, **playing))
        proxy = stack.enter_context(Proxy(cluster.kubeconfig, folder / f"{namespace}.kubeconfig")) if proxied else None
        if proxy is not None:
            before(proxy)
        address = proxy.kubeconfig if proxy is not None else cluster.kubeconfig
        log = folder / f"{namespace}.log"
        process = OperatorProcess(address, namespace, stacks, log, "--lease-seconds", str(lease))
        kept = stack.enter_context(Kept(process))
        yield Scene(cluster, namespace, api, playing_kubelet, kept, proxy, since)
        assert set(kept.ends) <= ends, f"the process ended with {kept.ends}: {log.read_text()[-3000:]}"
        text = log.read_text()
        assert "a defect of the operator" not in text, text[text.index("a defect of the operator") - 200 :][:3000]
