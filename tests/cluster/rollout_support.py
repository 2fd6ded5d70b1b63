"""What the tests of rollouts on a real API server share: two arms, a rollout, a Gateway that the test plays, an operator.

There are no pods behind the Services: EndpointSlices say what is ready, and the test writes them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_support import MERGE, Api
from operator_support import apply, wait_for

from sartor_devcluster import DevCluster
from sartor_devcluster.binaries.contour import CRDS, find_contour
from sartor_devcluster.binaries.find import cache_folder
from sartor_operator.kinds import (
    DEPLOYMENT,
    ENDPOINT_SLICE,
    EVENT,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    ROLLOUT,
    Manifest,
)
from sartor_operator.rollout.plugin import main as plugin

PARENT = {"name": "inference", "namespace": "default"}
POLICY: dict[str, Any] = {
    "parentRefs": [PARENT],
    "hostnames": ["editor.example.com"],
    "steps": [{"mirror": 10, "hold": "1s"}, {"weight": 20, "hold": "1s"}, {"weight": 50, "hold": "1s"}],
    "freeze": {"for": "1h", "then": "hold"},
    "drainTimeout": "1s",
    "baselineAfterPromotion": {"replicas": 1, "scaleDownAfter": "2s"},
}
FORWARD = [(100, 0), (80, 20), (50, 50), (0, 100)]
PLURALS = ("gatewayclasses", "gateways", "httproutes")


class PlayedGateway:
    """Says of every route in a namespace that it takes it, as it is, or that it does not; and keeps what was served."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self.refuses = False
        self.served: list[tuple[float, tuple[int, int]]] = []
        """When (monotonic) which weights were first seen: baseline, candidate."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="gateway", daemon=True)

    def __enter__(self) -> "PlayedGateway":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def weights(self) -> list[tuple[int, int]]:
        return [shares for _, shares in self.served]

    def _play(self) -> None:
        while not self._stop.wait(0.05):
            found = self._api.send("GET", HTTP_ROUTE.path(self._namespace))
            for route in (found or {"items": []})["items"]:
                self._look(route)

    def _look(self, route: Manifest) -> None:
        shares = weights_of(route)
        if not self.served or self.served[-1][1] != shares:
            self.served.append((time.monotonic(), shares))
        said = (route.get("status") or {}).get("parents") or [{"conditions": []}]
        state = "False" if self.refuses else "True"
        generation = route["metadata"]["generation"]
        if {(c["observedGeneration"], c["status"]) for c in said[0]["conditions"]} == {(generation, state)}:
            return
        condition = {
            "status": state,
            "observedGeneration": generation,
            "reason": "NoMatchingParent" if self.refuses else "Accepted",
            "message": "",
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        conditions = [{**condition, "type": kind} for kind in ("Accepted", "ResolvedRefs")]
        parent = {"parentRef": PARENT, "controllerName": "example.com/played", "conditions": conditions}
        path = HTTP_ROUTE.path(self._namespace, route["metadata"]["name"], "status")
        self._api.send("PATCH", path, {"status": {"parents": [parent]}}, MERGE)


def weights_of(route: Manifest) -> tuple[int, int]:
    """Baseline and candidate, of the rule without a header."""
    rule = next(r for r in route["spec"]["rules"] if not any(m.get("headers") for m in r["matches"]))
    share = {b["name"]: b["weight"] for b in rule["backendRefs"]}
    return share.get("vllm", 0), share.get("stack", 0)


class RolloutOperator:
    """`rollout_operator.py` as a process."""

    def __init__(self, kubeconfig: Path, folder: Path, only: str | None = None) -> None:
        """`only`: the one namespace that it works in; None: all."""
        self.log, self.verdicts = folder / "operator.log", folder / "verdicts"
        program = [sys.executable, str(Path(__file__).parent / "rollout_operator.py")]
        self._command = [*program, str(kubeconfig), str(self.verdicts), *([only] if only else [])]
        self._process: subprocess.Popen[bytes] | None = None
        self.says("pass")

    def says(self, outcome: str) -> None:
        """The verdict on all steps, or from a step on (`fail 3`). One rename, so that half of it is never read."""
        new = self.verdicts.with_suffix(".new")
        new.write_text(outcome, encoding="utf-8")
        new.replace(self.verdicts)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env={**os.environ})

    def __enter__(self) -> "RolloutOperator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)


@dataclass
class Stage:
    """A namespace with two arms of two replicas, a played Gateway and an operator."""

    cluster: DevCluster
    api: Api
    namespace: str
    gateway: PlayedGateway
    operator: RolloutOperator
    policy: dict[str, Any] = field(default_factory=lambda: dict(POLICY))

    def endpoints(self, service: str, ready: int, total: int = 2) -> None:
        many = [{"addresses": [f"10.244.9.{n + 1}"], "conditions": {"ready": n < ready}} for n in range(total)]
        meta = {"name": f"{service}-test", "labels": {"kubernetes.io/service-name": service}}
        body = {
            "apiVersion": ENDPOINT_SLICE.api_version,
            "kind": ENDPOINT_SLICE.kind,
            "metadata": {**meta, "namespace": self.namespace},
            "addressType": "IPv4",
            "endpoints": many,
            "ports": [{"port": 8000}],
        }
        path = ENDPOINT_SLICE.path(self.namespace, f"{service}-test")
        if self.api.send("GET", path) is None:
            self.api.send("POST", ENDPOINT_SLICE.path(self.namespace), body)
        else:
            self.api.send("PATCH", path, {"endpoints": many}, MERGE)

    def begin(self, name: str = "editor", **spec: Any) -> None:
        """Apply a rollout as a user does."""
        wanted = {
            "baseline": {"service": "vllm", "deployment": "vllm"},
            "candidate": {"service": "stack", "contentHash": "sha256:" + "a" * 64},
            "policy": self.policy,
            **spec,
        }
        meta = {"name": name, "namespace": self.namespace}
        apply(self.cluster, {"apiVersion": ROLLOUT.api_version, "kind": ROLLOUT.kind, "metadata": meta, "spec": wanted})

    def command(self, *words: str, name: str = "editor") -> None:
        """`kubectl sartor WORDS NAME`."""

        def run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
            return self.cluster.kubectl(*command[1:])

        assert plugin([*words, name, "-n", self.namespace], run=run) == 0

    def status(self, name: str = "editor") -> dict[str, Any]:
        return (self.api.get(ROLLOUT, self.namespace, name) or {}).get("status") or {}

    def reaches(self, phase: str, seconds: float = 60.0, name: str = "editor") -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        try:
            return wait_for(phase, there, seconds)
        except AssertionError as error:
            error.add_note(json.dumps(self.status(name), indent=1))
            error.add_note(self.operator.log.read_text()[-3000:])
            raise

    @property
    def route(self) -> Manifest:
        (found,) = self.api.all(HTTP_ROUTE, self.namespace)
        return found

    def replicas(self) -> int:
        found = self.api.get(DEPLOYMENT, self.namespace, "vllm")
        assert found is not None
        return int(found["spec"]["replicas"])

    def events(self) -> list[str]:
        return [e["reason"] for e in self.api.all(EVENT, self.namespace)]


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def definitions() -> Path:
    """The folder of the Gateway API's CRDs (the experimental channel), which come with Contour."""
    return find_contour(cache_folder(os.environ), os.environ, print).path.parent / CRDS


def install_gateway_api(cluster: DevCluster) -> None:
    """The definitions alone, and a Gateway for which nobody works but the test."""
    for plural in PLURALS:
        cluster.define(definitions() / f"{plural}.{HTTP_ROUTE.group}.yaml")
    apply(
        cluster,
        {
            "apiVersion": GATEWAY_CLASS.api_version,
            "kind": GATEWAY_CLASS.kind,
            "metadata": {"name": "played"},
            "spec": {"controllerName": "example.com/played"},
        },
        {
            "apiVersion": GATEWAY.api_version,
            "kind": GATEWAY.kind,
            "metadata": PARENT,
            "spec": {"gatewayClassName": "played", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
        },
    )


def remove_gateway_api(cluster: DevCluster) -> None:
    for plural in PLURALS:
        cluster.kubectl("delete", "crd", f"{plural}.{HTTP_ROUTE.group}", "--ignore-not-found", check=True)


def service(namespace: str, name: str) -> Manifest:
    """Without a selector: its endpoints are what the test says, and nobody collects them."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": 8000}]},
    }


@contextmanager
def stage(cluster: DevCluster, folder: Path, kubeconfig: Path | None = None) -> Iterator[Stage]:
    """`kubeconfig`: that of the operator, which then works in this namespace alone; None: the cluster's, and in all."""
    api, namespace = Api(cluster.kubeconfig), f"rollout-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace, check=True)
    pod = {"containers": [{"name": "serve", "image": "example.com/none:1"}]}
    labels = {"app": "vllm"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm", "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    apply(cluster, deployment, *(service(namespace, name) for name in ("vllm", "stack")))
    with (
        PlayedGateway(api, namespace) as gateway,
        RolloutOperator(kubeconfig or cluster.kubeconfig, folder, namespace if kubeconfig else None) as operator,
    ):
        made = Stage(cluster, api, namespace, gateway, operator)
        for name in ("vllm", "stack"):
            made.endpoints(name, 2)
        try:
            yield made
            for rollout in api.all(ROLLOUT, namespace):
                api.delete(ROLLOUT, namespace, rollout["metadata"]["name"])
            wait_for("the rollouts are gone", lambda: not api.all(ROLLOUT, namespace), 60)
        finally:  # what a failed test leaves behind would take the next one's nodes
            cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=True)
    log = operator.log.read_text(encoding="utf-8")
    assert "defect" not in log and "CRITICAL" not in log, log[-3000:]
