"""What the tests of the Gateway share: two arms with pod addresses, a route over them, clients, and the access log."""

import collections
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster_support import need, wait_for
from faults_support import MERGE, Api

from sartor_devcluster import DevCluster
from sartor_operator.rollout.records import RequestRecord, parse
from sartor_operator.rollout.tail import Tail

HERE = Path(__file__).parent
PORT = 8000
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVICES = "/api/v1/namespaces/default/services"
PARENT = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "gateways", "name": "inference"}
_numbers = itertools.count(1)


@dataclass
class Outcome:
    """What a client saw of one request. `sent` is Unix seconds, `seconds` until the last byte or the error."""

    id: str
    path: str
    sent: float
    seconds: float
    status: int | None = None
    arm: str | None = None
    first: float | None = None
    bytes: int | None = None
    done: bool = False
    error: str | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None or self.status is None or self.status >= 500


class Load:
    """A client that runs inside the cluster's namespace."""

    def __init__(self, cluster: DevCluster, plan: dict[str, Any], result: Path) -> None:
        self._result = result  # a pipe would hold the client up until it is read
        whole = {**plan, "result": str(result)}
        command = cluster.enter([sys.executable, str(HERE / "gateway_load.py"), json.dumps(whole)])
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "begun\n"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def outcomes(self, seconds: float = 90.0) -> list[Outcome]:
        """Waits for its end."""
        assert self._process.wait(seconds) == 0
        return [Outcome(**one) for one in json.loads(self._result.read_text(encoding="utf-8"))]

    def end(self) -> None:
        """Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass
class Arm:
    """A Service, its one endpoint, and the server there."""

    name: str
    address: str
    process: subprocess.Popen[str] | None = None


@dataclass
class Scene:
    """One route with a host name of its own, so that tests do not see each other's requests."""

    cluster: DevCluster
    api: Api
    host: str
    route: str
    baseline: Arm
    candidate: Arm
    url: str
    folder: Path
    started: list[Load] = field(default_factory=list[Load])

    # --- the route

    def rules(self, baseline: int, candidate: int, **rule: Any) -> list[dict[str, Any]]:
        """One rule with both arms; `rule`: what else is in it. Without a request timeout, unless it is given."""
        arms = ((self.baseline, baseline), (self.candidate, candidate))
        backends = [{"name": arm.name, "port": PORT, "weight": weight} for arm, weight in arms]
        return [{"backendRefs": backends, "timeouts": {"request": "0s"}, **rule}]

    def set_rules(self, rules: list[dict[str, Any]], *, wait: bool = True) -> float:
        """Write the route's rules; when that was answered (Unix seconds). `wait` until they are served."""
        path = f"{ROUTES}/{self.route}"
        manifest = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": self.route, "namespace": "default"},
            "spec": {"parentRefs": [PARENT], "hostnames": [self.host], "rules": rules},
        }
        if self.api.send("GET", path) is None:
            self.api.send("POST", ROUTES, manifest)
        else:
            self.api.send("PATCH", path, {"spec": manifest["spec"]}, MERGE)
        written = time.time()
        if wait:
            wait_for("the route accepted", lambda: self.accepted())
        return written

    def weigh(self, baseline: int, candidate: int, *, wait: bool = True, **rule: Any) -> float:
        return self.set_rules(self.rules(baseline, candidate, **rule), wait=wait)

    def accepted(self) -> bool:
        """Whether the Gateway says that it accepted the route as it is now."""
        found = self.api.send("GET", f"{ROUTES}/{self.route}")
        return any(
            c["type"] == "Accepted"
            and c["status"] == "True"
            and c["observedGeneration"] == found["metadata"]["generation"]
            for parent in found.get("status", {}).get("parents", [])
            for c in parent["conditions"]
        )

    # --- the arms

    def set_endpoints(self, arm: Arm, *, ready: bool | None) -> float:
        """The one endpoint as ready or not, or none at all; when that was answered."""
        ends = [] if ready is None else [{"addresses": [arm.address], "conditions": {"ready": ready}}]
        self.api.send("PATCH", f"{SLICES}/{arm.name}", {"endpoints": ends}, MERGE)
        return time.time()

    def seen(self, arm: Arm, path: str) -> int:
        """How many requests to `path` an arm has had, mirrored ones too."""
        program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
        url = f"http://{arm.address}:{PORT}/seen?path={path}"
        command = self.cluster.enter([sys.executable, "-c", program, url])
        return int(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)

    # --- clients

    def load(self, count: int, rate: float, paths: Sequence[str] = ("/",), **plan: Any) -> Load:
        """Start a client; its outcomes come later."""
        whole = {"url": self.url, "host": self.host, "count": count, "rate": rate, "paths": list(paths), **plan}
        started = Load(self.cluster, whole, self.folder / f"load-{len(self.started)}.json")
        self.started.append(started)
        return started

    def ask(self, count: int = 1, rate: float = 100.0, paths: Sequence[str] = ("/",), **plan: Any) -> list[Outcome]:
        """The outcomes of a client."""
        return self.load(count, rate, paths, **plan).outcomes()

    def serves(self, arm: Arm) -> bool:
        """Whether a request now goes to this arm."""
        return [o.arm for o in self.ask()] == [arm.name]

    def clear(self) -> None:
        """End its processes and remove its objects."""
        for load in self.started:
            load.end()
        for arm in (self.baseline, self.candidate):
            end(arm)
            for path in (f"{SLICES}/{arm.name}", f"{SERVICES}/{arm.name}"):
                self.api.send("DELETE", path)
        self.api.send("DELETE", f"{ROUTES}/{self.route}")

    # --- the access log

    def records(self, tail: Tail, ids: set[str], seconds: float = 60.0) -> list[RequestRecord]:
        """The records of these requests as they come; until each has one and nothing more comes, `seconds` at most."""
        found: list[RequestRecord] = []
        deadline = time.monotonic() + seconds
        quiet = 0
        while time.monotonic() < deadline and quiet < 5:
            new = self._new(tail, ids)
            found += new
            quiet = quiet + 1 if {r.request_id for r in found} == ids and not new else 0
            time.sleep(0.1)
        return found

    def rest(self, tail: Tail, ids: set[str], seconds: float) -> list[RequestRecord]:
        """Whatever of these requests still comes in `seconds`."""
        found: list[RequestRecord] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found += self._new(tail, ids)
            time.sleep(0.1)
        return found

    def _new(self, tail: Tail, ids: set[str]) -> list[RequestRecord]:
        look = tail.look()
        assert (look.truncated, look.broken, look.gap) == (0, 0, False), look
        return [r for line in look.lines if (r := parse(line)) is not None and r.request_id in ids]

    def tail(self, *, from_end: bool = True) -> Tail:
        """From now on. The log is written a moment later: what ended before may still come."""
        tail = Tail(self.cluster.access_log, clock=time.monotonic, from_end=from_end)
        tail.look()
        return tail


def serve(cluster: DevCluster, arm: Arm) -> None:
    """Start an arm's server."""
    command = cluster.enter([sys.executable, str(HERE / "gateway_backend.py"), arm.address, str(PORT), arm.name])
    arm.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert arm.process.stdout is not None
    assert arm.process.stdout.readline() == "serving\n"


def end(arm: Arm) -> None:
    """Kill an arm's server. Idempotent."""
    if arm.process is not None:
        arm.process.kill()
        arm.process.wait()
        if arm.process.stdout is not None:
            arm.process.stdout.close()
        arm.process = None


def arms(outcomes: list[Outcome]) -> collections.Counter[str | None]:
    return collections.Counter(one.arm for one in outcomes)


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.failed]


@contextlib.contextmanager
def gateway_cluster(root: Path) -> Generator[DevCluster]:
    """A cluster with a Gateway; the tests are skipped on a machine that cannot have one."""
    with DevCluster.up(
        f"gateway-{os.getpid()}", root=root, lifeline=True, gateway=True, ready_seconds=180, say=print
    ) as running:
        need(running, "contour", "envoy")
        yield running


@contextlib.contextmanager
def scene(cluster: DevCluster) -> Generator[Scene]:
    """Two arms that serve, and a route that gives the baseline everything; all is removed at the end."""
    number = next(_numbers)
    api = Api(cluster.kubeconfig)
    baseline = Arm(f"baseline-{number}", f"10.244.20.{2 * number}")
    candidate = Arm(f"candidate-{number}", f"10.244.20.{2 * number + 1}")
    where = cluster.gateway_address()
    assert where is not None
    url = f"http://{where[0]}:{where[1]}"
    with tempfile.TemporaryDirectory() as folder:
        made = Scene(cluster, api, f"s{number}.example.com", f"route-{number}", baseline, candidate, url, Path(folder))
        try:
            for arm in (baseline, candidate):
                serve(cluster, arm)
                api.send("POST", SERVICES, _service(arm))
                api.send("POST", SLICES, _slice(arm))
            made.weigh(100, 0)
            wait_for("the baseline behind the Gateway", lambda: made.serves(made.baseline))
            yield made
        finally:
            made.clear()


def _service(arm: Arm) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": arm.name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
    }


def _slice(arm: Arm) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": arm.name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": arm.name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [arm.address], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
    }
