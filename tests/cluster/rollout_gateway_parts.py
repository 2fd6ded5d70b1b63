"""The parts of a rollout at a real Gateway that a test starts: engines, users, the operator, and the pods of probes."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults_support import MERGE, Api
from operator_support import OperatorProcess, wait_for

from sartor_demo.load import Load, outcome_of
from sartor_demo.traffic import Outcome, Plan
from sartor_devcluster import DevCluster
from sartor_operator import names
from sartor_operator.kinds import POD, Manifest
from sartor_operator.rollout.records import RequestRecord, parse
from sartor_operator.rollout.tail import Tail
from sartor_operator.times import format_time

HERE = Path(__file__).parent
PORT = 8000
BASELINE, CANDIDATE = "vllm", "stack"


@dataclass(frozen=True)
class Came:
    """A request as an engine saw it. `at` is Unix seconds."""

    id: str
    at: float
    failed: bool


class Engine:
    """`rollout_engine.py` at a pod's address."""

    def __init__(self, cluster: DevCluster, name: str, address: str) -> None:
        self.name, self.address, self.ended = name, address, False
        program = [sys.executable, str(HERE / "rollout_engine.py"), address, str(PORT), name]
        self._process = subprocess.Popen(cluster.enter(program), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "serving\n"
        self._url = f"http://127.0.0.1:{cluster.forward(address, PORT)}"

    def behave(self, **behaviour: float) -> float:
        """What it does from the next request on (fields of `rollout_engine.Behaviour`); when that began, Unix seconds."""
        body = json.dumps(behaviour).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/behave", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return float(json.load(answer)["at"])

    def requests(self) -> list[Came]:
        """All that came, in order; those of a probe too."""
        with urllib.request.urlopen(f"{self._url}/requests", timeout=30) as answer:
            return [Came(*one) for one in json.load(answer)]

    def end(self) -> None:
        """Kill it. Idempotent."""
        self.ended = True
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Users:
    """Streams and short requests at the Gateway in open loop, and what became of them."""

    def __init__(self, cluster: DevCluster, host: str, rate: float, timeout: float) -> None:
        where = cluster.gateway_address()
        assert where is not None
        self._tail = Tail(cluster.access_log, clock=time.monotonic, from_end=True)
        self._tail.look()
        self.outcomes: dict[str, Outcome] = {}
        self._last: dict[str, Any] = {}
        plan = Plan(f"http://{where[0]}:{where[1]}", host, "model", rate=rate, seconds=4 * 3600.0, timeout=timeout)
        self._load = Load(cluster, plan, {BASELINE: "baseline", CANDIDATE: "candidate"}, self._take)

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "Outcome":
            one = outcome_of(line)
            assert one.id not in self.outcomes
            self.outcomes[one.id] = one
        else:
            self._last = line

    def end(self) -> None:
        """Nothing more is sent; what is under way has ended when this returns. Idempotent."""
        self._load.stop()

    def ended(self) -> list[Outcome]:
        """End, and all requests. The generator's own count must be theirs."""
        self.end()
        found = list(self.outcomes.values())
        assert self._last.get("sent") == len(found), f"the generator says {self._last or 'nothing: did it die?'}"
        return found

    def records(self) -> dict[str, RequestRecord]:
        """What the Gateway wrote of these requests, once; waits for what it still holds. Each must be there exactly once."""
        found: dict[str, RequestRecord] = {}

        def whole() -> bool:
            look = self._tail.look()
            assert (look.truncated, look.broken, look.gap) == (0, 0, False), look
            for line in look.lines:
                record = parse(line)
                if record is None or record.request_id not in self.outcomes:
                    continue
                assert record.request_id not in found, f"{record.request_id} is twice in the access log"
                found[record.request_id] = record
            return len(found) == len(self.outcomes)

        wait_for("a record of each request", whole, 60)
        return found


class ProbePods:
    """Runs the pods of probes: the rest of the node that the scripted kubelet pretends."""

    def __init__(self, cluster: DevCluster, api: Api, namespace: str, folder: Path) -> None:
        self._cluster, self._api, self._namespace, self._folder = cluster, api, namespace, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[list[str]] = []
        """The commands of the pods that were started."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name="probe-pods", daemon=True)

    def __enter__(self) -> "ProbePods":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        for process in self._running.values():
            _terminate(process)

    @property
    def running(self) -> int:
        return sum(process.poll() is None for process in self._running.values())

    def _play(self) -> None:
        while not self._stop.wait(0.3):
            found = self._api.all(POD, self._namespace, {names.ROLE_LABEL: "probe"})
            there = {names.uid(p): p for p in found if p["spec"].get("nodeName") and not names.deleting(p)}
            for uid, pod in there.items():
                if uid not in self._running:
                    self._start(uid, pod)
            for uid in self._running.keys() - there.keys():
                _terminate(self._running.pop(uid))

    def _start(self, uid: str, pod: Manifest) -> None:
        address = f"10.244.30.{len(self.started) + 1}"
        (one,) = pod["spec"]["containers"]
        self.started.append(one["command"])
        program, *arguments = one["command"]
        command = [str(Path(sys.executable).parent / program), *arguments]
        with (self._folder / "probe.log").open("ab") as log:
            self._running[uid] = subprocess.Popen(
                with_names(self._cluster, command, self._folder),
                stdout=log, stderr=log, env={**os.environ, "POD_IP": address},
            )  # fmt: skip
        wait_for("the probe listens", self._listens, 30)
        now = format_time(time.time())
        kinds = ("Initialized", "ContainersReady", "Ready")
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
        }
        self._api.send("PATCH", POD.path(self._namespace, names.name_of(pod), "status"), {"status": status}, MERGE)

    def _listens(self) -> bool:
        return (self._folder / "probe.log").read_bytes().count(b"listening:") == len(self.started)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def with_names(cluster: DevCluster, command: Sequence[str], folder: Path) -> list[str]:
    """`command` inside the cluster's network, with its DNS in a `/etc/resolv.conf` that only it sees. Its process is the one
    that is started: what runs before replaces itself."""
    servers = cluster.cluster_dns()
    assert servers, "the cluster has no DNS"
    file = folder / "resolv.conf"
    lines = [*(f"nameserver {one}" for one in servers), "search svc.cluster.local cluster.local", "options ndots:5"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return cluster.enter(["unshare", "--mount", "--", "sh", "-c", script, str(file), *command])


class Kept:
    """An operator that is started anew whenever it ends, as a Deployment would: on a busy machine it may lose its lease."""

    def __init__(self, process: OperatorProcess) -> None:
        self._process = process
        self.kill_after: float | None = None
        """Seconds after which it is killed (SIGKILL) once it has begun to work, again and again; None: not at all."""
        self.kills = 0
        self.ends: list[int | None] = []
        """Exit codes of those that ended by themselves."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="kept-operator", daemon=True)

    def __enter__(self) -> "Kept":
        self._process.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._process.stop()

    def _keep(self) -> None:
        while not self._stop.wait(0.05):
            if not self._process.alive:
                self.ends.append(None if self._process.process is None else self._process.process.poll())
                self._process.start()
            elif self.kill_after is not None and self._process.leading() and not self._stop.wait(self.kill_after):
                self._process.kill()
                self._process.start()
                self.kills += 1
